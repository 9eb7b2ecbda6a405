"""A log of events to a dataset: two passes over the files, in memory only codes, times, labels and the item table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.config.entry_settings import SplitSettings
from fuxictr_multimodal.data.entry.entry import MAX_LEN, Entry
from fuxictr_multimodal.data.entry.events import TIMES, to_facts
from fuxictr_multimodal.data.entry.log.columns import LogColumns, LogRows
from fuxictr_multimodal.data.entry.log.pieces import LogSplitRows, pieces_of
from fuxictr_multimodal.data.entry.log.reader import Events, log_dtypes, read_events
from fuxictr_multimodal.data.entry.log.samples import LogChoices, LogSamples
from fuxictr_multimodal.data.entry.pieces import append_pieces
from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.data.entry.tables.items import (
    Items,
    ShownItems,
    item_table,
    named_files,
    read_items,
    vector_files,
)
from fuxictr_multimodal.data.entry.tables.keyed import refuse_strangers
from fuxictr_multimodal.data.entry.tables.texts import TextEncoders
from fuxictr_multimodal.data.entry.tables.users import read_users
from fuxictr_multimodal.data.recipes.interactions import TRAIN
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.errors import ConfigError

DEFAULT_SPLIT = SplitSettings.model_validate({"by": "time"})


def build_log(
    entry: Entry,
    *,
    data_root: str | Path,
    recipe: Mapping[str, Any],
    overwrite: bool,
    progress: bool = True,
    ray: Any = None,
) -> Manifest:
    """Build the dataset of an entry with `interactions`.

    Args:
        entry: of the form `log`.
        data_root: folder of the datasets.
        recipe: for the manifest.
        overwrite: replace an existing dataset.
        progress: show progress on stderr.
        ray: the cluster whose workers make the samples; None for this process.

    Raises:
        InputError: the entry does not fit its files, or a value is wrong; nothing is left on disk.
    """
    columns, choices = LogColumns.of(entry), choices_of(entry)
    choices.check(entry.where)
    # A name that is wrong shows before files are read.
    encoders = TextEncoders.of(entry, data_root)
    users, items = read_users(entry), read_items(entry)
    table = entry.table("interactions", _dtypes(entry, columns, choices))
    events = read_events(
        table,
        choices.interactions,
        item_ids=items.ids if items.rows > 1 else None,
        fold_column=choices.split.column,
        columns=[spec.name for spec in choices.event_cols if spec.name not in TIMES],
        task="events" if progress else "",
    )
    samples = LogSamples(events, choices, where=entry.within(table.name))
    items = _all_items(entry, items, table, samples)
    rows = LogRows(columns, table, events, users)
    counts = samples.item_counts()
    by_behaviour = entry.columns.by_behaviour(entry.where)
    behaviour = by_behaviour.make(samples.training_behaviour, items=items.rows, max_len=choices.max_len)
    made = item_table(entry, items, counts, behaviour, encoders)
    notes = [*events.notes, *samples.split.notes, *items.notes, *made.notes, *rows.notes]
    notes += [] if users is None else users.notes
    for note in notes:
        print(note)

    files = {**named_files("interactions", table.files), **items.files, **vector_files(entry)}
    label: Any = entry.settings.label_col
    with StoreBuilder(
        dataset_id=entry.dataset_id,
        data_root=data_root,
        feature_cols=[*columns.entry.columns.store, *_event_columns(samples, choices)],
        label_col=label,
        max_len=choices.max_len,
        group_id=entry.group_col,
        item_col=entry.settings.item_col,
        weight_col=columns.weight,
        behaviours=samples.behaviours[1:],
        recipe=recipe,
        sources=files | ({} if users is None else dict(users.files)),
        overwrite=overwrite,
        progress=progress,
    ) as builder:
        builder.write_ids({entry.settings.item_col: items.ids, **columns.ids(events)})
        builder.fit(rows.fitted(samples.split.of == TRAIN), item_counts=counts)
        own = {entry.settings.item_col: np.arange(items.rows)}
        builder.write_items({**own, **made.columns}, titles=made.titles, folds=behaviour.folds)
        folds = behaviour.fold_column(events.user_ids.ids.to_list())
        rows_of = LogSplitRows(entry.settings.item_col, entry.columns.label, samples, rows, folds)
        append_pieces(builder, rows_of, pieces_of(rows, samples, apart=ray is not None), ray=ray)
        return builder.finish(
            split_method=samples.split.method,
            negative_sampling=_sampling(choices),
            facts={
                "events": len(events),
                "events_left_out": len(events.kept) - len(events),
                "users": len(events.user_ids),
                **({"time_unit": events.recognised} if events.recognised else {}),
                **({"vectors": made.facts} if made.facts else {}),
                **to_facts(samples.features),
            },
            **_promises(columns, choices),
        )


def choices_of(entry: Entry) -> LogChoices:
    """What an entry says of its samples, with the defaults.

    Raises:
        ConfigError: a feature of events is named twice or after another column.
    """
    settings = entry.settings
    taken = {column["name"] for column in entry.columns.store} | {entry.columns.label}
    specs = tuple(settings.event_cols or ())
    for spec in specs:
        if spec.name in taken:
            raise ConfigError(
                f"{entry.where}: event_cols: {spec.name!r} is the name of another column: rename one of them"
            )
        if spec.history is not None:
            raise ConfigError(
                f"{entry.where}: event_cols: {spec.name}: `history` is for samples that are ready; a log has the events"
            )
        if spec.target not in (None, spec.name) or (spec.target is not None and spec.name in TIMES):
            raise ConfigError(
                f"{entry.where}: event_cols: {spec.name}: `target` can only be {spec.name!r} itself, for a column of "
                "the log whose value is known before the event, such as the page"
            )
        taken.add(spec.name)
    return LogChoices(
        interactions=settings.interactions,
        split=settings.split or DEFAULT_SPLIT,
        max_len=settings.max_len or MAX_LEN,
        samples=settings.samples or "all",
        history=settings.history or "positive",
        negatives=settings.negatives,
        event_cols=specs,
    )


def _dtypes(entry: Entry, columns: LogColumns, choices: LogChoices) -> dict[str, str]:
    """Columns to read of the log, with their types."""
    log, own = choices.interactions, entry.columns.own
    assert own is not None
    users = {entry.columns.raw_name(c): c["dtype"] for c in columns.user}
    found = {
        spec.name: "any" if spec.bins is None else "float" for spec in choices.event_cols if spec.name not in TIMES
    }
    found |= columns.dtypes()
    if entry.settings.item_data is None:
        found |= entry.columns.dtypes(entry.columns.items)
    if choices.split.column is not None:
        found[choices.split.column] = "str"
    return found | log_dtypes(log, {**users, log.item: own["dtype"]})


def _all_items(entry: Entry, items: Items, table: Table, samples: LogSamples) -> Items:
    """The items of the log too; without `item_data` their features are those that the log shows."""
    events, known = samples.events, items.rows
    if entry.settings.item_data is None:
        shown = ShownItems(entry.columns)
        names = list(entry.columns.dtypes(entry.columns.items))
        if names:
            _show(shown, names, table, events, samples)
        features = shown.features(events.item_ids)
        return Items(events.item_ids, features, items.files, tuple(shown.notes()), table.name)
    if (events.items >= known).all():
        refuse_strangers(entry.settings.interactions.item, rows=table.name, keyed=items.name)
    items = replace(items, ids=events.item_ids)
    if items.rows == known:
        return items
    return items.noted(
        f"{items.name} lacks {items.rows - known:,} items that occur in the log: they have an id and no features"
    )


def _show(shown: ShownItems, names: list[str], table: Table, events: Events, samples: LogSamples) -> None:
    """Read the items' features off the log: from what train may know, then from the rest."""
    row = event = 0
    for chunk in table.chunks(names, task="items"):
        mine = events.kept[row : row + len(chunk)]
        row += len(chunk)
        chunk = chunk.filter(pl.Series(mine))
        stop = event + len(chunk)
        known, ids = samples.split.known[event:stop], events.item_ids.originals(events.items[event:stop])
        for train in (True, False):
            of = pl.Series(known if train else ~known)
            shown.add(ids.filter(of), chunk.filter(of), train=train)
        event = stop


def _event_columns(samples: LogSamples, choices: LogChoices) -> list[dict[str, Any]]:
    return [samples.features[spec.name].column(embedding_dim=spec.embedding_dim) for spec in choices.event_cols]


def _sampling(choices: LogChoices) -> dict[str, Any] | None:
    """Negative sampling in words, for the manifest."""
    settings = choices.negatives
    if settings is None:
        return None
    return {
        "ratio": settings.ratio,
        "by": settings.by,
        "seed": settings.seed,
        "pool": "items that are positive in the training split",
        "never": "an item of the user at any time, or the same item twice for one positive",
    }


def _promises(columns: LogColumns, choices: LogChoices) -> dict[str, Any]:
    """What `finish` checks of the splits by the columns that are there."""
    users = [c["name"] for c in columns.user if c["type"] == "meta"][:1]
    times = [c["name"] for c in columns.time][:1]
    found: dict[str, Any] = {}
    if choices.split.by == "user":
        found["disjoint"] = users
    if times and choices.split.by == "time":
        found["ordered_by"] = times[0]
    if times and users and choices.split.by == "last_item":
        found |= {"ordered_by": times[0], "ordered_within": users[0]}
    return found
