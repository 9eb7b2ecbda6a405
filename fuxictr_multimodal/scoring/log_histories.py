"""Histories of new samples, read off the log that a dataset was built from: what each user did earlier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.events import TIMES, EventFeature
from fuxictr_multimodal.data.entry.log.dataset import choices_of
from fuxictr_multimodal.data.entry.log.reader import Events, log_dtypes, read_events
from fuxictr_multimodal.data.entry.log.samples import TIME, history_events
from fuxictr_multimodal.data.entry.tables.times import Clock
from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.recipes.histories import History, Timeline
from fuxictr_multimodal.data.store import Store


class LogHistories:
    """The events of a log, and the histories that new samples have in it.

    The log is read once; in memory are its codes and times, about 20 bytes an event. Events that came to the log after
    the dataset was built count too; those of items that the dataset does not know are left out.

    Args:
        entry: of a log.
        store: the dataset that was built from it.
        features: event features that the model reads of the events.
        max_len: the newest events that are kept.

    Raises:
        DataError: the log is missing or wrong.
    """

    def __init__(self, entry: Entry, store: Store, features: Sequence[EventFeature], *, max_len: int) -> None:
        choices, own = choices_of(entry), entry.columns.own
        assert own is not None
        log = choices.interactions
        # The log may have grown, but its times are what they were.
        log = log.model_copy(update={"time_unit": log.time_unit or store.manifest.facts.get("time_unit")})
        more = {s.name: "any" if s.bins is None else "float" for s in choices.event_cols if s.name not in TIMES}
        dtypes = more | log_dtypes(log, {log.item: own["dtype"], **user_dtype(entry)})
        table = entry.table("interactions", dtypes)
        events = read_events(
            table, log, item_ids=store.ids(store.manifest.item_col or ""), columns=[*more], task="events of the log"
        )
        known = events.items < store.manifest.items
        self._events, self._max_len, self._features = events, max_len, {feature.name: feature for feature in features}
        self._kept = {name: keep & known for name, keep in history_events(events, choices).items()}
        self._histories: dict[str, History] = {}
        self._times: NDArray[np.int64] | None = None

    @property
    def clock(self) -> Clock:
        """The unit of the log's times."""
        return self._events.clock

    def place(self, users: pl.Series, times: NDArray[np.int64] | None) -> None:
        """Find the histories of samples: events of strictly smaller times.

        Args:
            users: of the samples, by the user's ids; one that the log lacks has no history.
            times: of the samples, in the unit of the log; None for samples that are later than the log.
        """
        events, rows = self._events, len(users)
        codes = events.user_ids.codes(users)
        nobody = len(events.user_ids)
        codes = np.where(codes < 0, nobody, codes).astype(np.int32)
        every_time = None
        if events.times is not None:
            self._times = np.full(rows, np.iinfo(np.int64).max) if times is None else times
            every_time = np.concatenate([events.times, self._times])
        timeline = Timeline(np.concatenate([events.users, codes]), every_time)
        items = np.concatenate([events.items, np.zeros(rows, dtype=np.int32)])
        columns = {
            name: _longer(self._codes(feature), rows)
            for name, feature in self._features.items()
            if feature.kind != "age"
        }
        if events.times is not None:
            columns[TIME] = _longer(events.times, rows)
        self._histories = {}
        for name, keep in self._kept.items():
            every = _longer(keep, rows)
            self._histories[name] = timeline.history(items, every, max_len=self._max_len, columns=columns)

    def take(self, start: int, stop: int) -> dict[str, JaggedArrays]:
        """The histories of the samples `start` to `stop - 1` by name, with the codes of their events."""
        before = len(self._events)
        found = {}
        for name, history in self._histories.items():
            taken = history.take(np.arange(before + start, before + stop))
            codes = {}
            for feature in self._features.values():
                if feature.kind == "age":
                    assert self._times is not None
                    ages = taken.of_rows(self._times[start:stop]) - taken.column(TIME)
                    codes[feature.name] = feature.codes(self.clock.converted(ages, feature.clock))
                else:
                    codes[feature.name] = taken.column(feature.name)
            found[name] = JaggedArrays(taken.items, taken.offsets, codes)
        return found

    def _codes(self, feature: EventFeature) -> NDArray[np.int32]:
        """Code of each event of the log, (N,)."""
        events: Events = self._events
        if feature.kind in TIMES:
            assert events.times is not None
            return feature.codes(events.clock.converted(events.times, feature.clock))
        return feature.codes(events.columns[feature.name])


def user_dtype(entry: Entry) -> dict[str, str]:
    """Type of the log's column of users, where the entry declares it."""
    columns, log = entry.columns, entry.settings.interactions
    found = [c["dtype"] for c in columns.samples if columns.raw_name(c) == log.user]
    return {log.user: found[0]} if found else {}


def _longer(values: NDArray, rows: int) -> NDArray:
    """Values of the log's events, and none of the samples behind them."""
    return np.concatenate([values, np.zeros(rows, dtype=values.dtype)])
