"""Small logs for the tests, and samples made of them by the definition: loops over plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from fuxictr_multimodal.config.entry_settings import EventColumn, InteractionSettings, NegativeSettings, SplitSettings
from fuxictr_multimodal.data.entry.log.reader import Events, log_dtypes, read_events
from fuxictr_multimodal.data.entry.log.samples import LogChoices, LogSamples
from fuxictr_multimodal.data.entry.tables.files import scan

COLUMNS = {"user": "user", "item": "item", "time": "time"}


def choices(
    *,
    split: dict[str, Any] | None = None,
    negatives: dict[str, Any] | None = None,
    event_cols: Sequence[dict[str, Any]] = (),
    max_len: int = 4,
    samples: str = "all",
    history: str = "positive",
    **interactions: Any,
) -> LogChoices:
    """Choices in the words of an entry."""
    given = {key: value for key, value in {**COLUMNS, **interactions}.items() if value is not None}
    return LogChoices(
        interactions=InteractionSettings(file="log", **given),
        split=SplitSettings(**(split or {"by": "time", "valid": 0.2, "test": 0.2})),
        max_len=max_len,
        samples=samples,
        history=history,
        negatives=None if negatives is None else NegativeSettings(**negatives),
        event_cols=tuple(EventColumn(**spec) for spec in event_cols),
    )


def read(frame: pl.DataFrame, made: LogChoices) -> Events:
    """The events of a log."""
    columns = [spec.name for spec in made.event_cols if spec.name not in ("age", "weekday", "hour")]
    dtypes = log_dtypes(made.interactions, {}) | dict.fromkeys(columns, "any")
    if made.split.column is not None:
        dtypes[made.split.column] = "str"
    table = scan(frame, dtypes=dtypes, where="log")
    return read_events(table, made.interactions, fold_column=made.split.column, columns=columns)


def rows_of(samples: LogSamples, *, piece: int = 7) -> list[dict[str, Any]]:
    """Samples as plain values, in the order in which they are written within each split."""
    events, found = samples.events, {"train": [], "valid": [], "test": []}
    own_items, own_users = events.item_ids.ids.to_list(), events.user_ids.ids.to_list()
    for start in range(0, len(events), piece):
        for part in samples.take(start, min(start + piece, len(events))):
            for row, event in enumerate(part.events.tolist()):
                sample = {
                    "split": part.split,
                    "event": event,
                    "user": own_users[events.users[event]],
                    "item": own_items[part.items[row]],
                    "label": int(part.labels[row]),
                }
                for name, taken in part.histories.items():
                    span = slice(taken.offsets[row], taken.offsets[row + 1])
                    sample[name] = [own_items[item] for item in taken.items[span]]
                    for feature, codes in part.event_codes[name].items():
                        sample[f"{name}.{feature}"] = codes[span].tolist()
                for feature, codes in part.target_codes.items():
                    sample[f"target.{feature}"] = int(codes[row])
                found[part.split].append(sample)
    return [*found["train"], *found["valid"], *found["test"]]


def history_of(log: list[dict[str, Any]], row: int, *, keep: list[bool], max_len: int) -> list[int]:
    """Rows of the log that are the history of a row: its user's kept events of strictly earlier times, oldest first."""
    mine = [
        other
        for other, event in enumerate(log)
        if keep[other] and event["user"] == log[row]["user"] and event["time"] < log[row]["time"]
    ]
    return sorted(mine, key=lambda other: log[other]["time"])[-max_len:]  # stable: equal times keep their order
