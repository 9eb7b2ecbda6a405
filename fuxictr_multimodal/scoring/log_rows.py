"""New samples of a dataset that was built from a log: user, item and time, with histories or those of the log."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.events import TIMES, EventFeature, from_facts
from fuxictr_multimodal.data.entry.log.columns import LogColumns
from fuxictr_multimodal.data.entry.tables.files import scan
from fuxictr_multimodal.data.entry.tables.lists import SPLITTER, Lists, as_ids, check_aligned
from fuxictr_multimodal.data.entry.tables.times import Clock, TimeReader
from fuxictr_multimodal.data.entry.tables.values import check_single, numbers_of, values_of
from fuxictr_multimodal.data.jagged import JaggedArrays, row_numbers
from fuxictr_multimodal.data.recipes.parquet_input import BATCH_ROWS
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.entry_rows import open_samples, read_columns, users_of
from fuxictr_multimodal.scoring.log_histories import LogHistories, user_dtype
from fuxictr_multimodal.scoring.new_rows import HISTORY_NAMES
from fuxictr_multimodal.scoring.raw_rows import Piece, RawRows, Reading


class LogRows(RawRows):
    """Samples named as in the log: the item, the user, the time, and the columns of the log that are features.

    Histories are lists of items in `history`, newest last, and of further kinds in columns named after them; times of
    their events are in `<history>_time`, other features in `<history>_<column>`. Without a column of histories these
    are read off the log that the dataset was built from: each user's events before the sample's time, or all of them
    where the samples have no time.

    Args:
        path: csv or parquet, a file, a folder of parts or a glob.
        reading: the dataset and the model that they are read for.
        entry: that the dataset was built from, see `entry_of`.
        history_column: column of the main history, in place of `history`.

    Raises:
        DataError: the file or a column is missing or of another form; the message names file, column and row.
    """

    def __init__(self, path: Path, reading: Reading, *, entry: Entry, history_column: str | None = None) -> None:
        super().__init__(path, reading)
        store = reading.store
        self._entry, self._log = entry, entry.settings.interactions
        self._columns = LogColumns.of(entry)
        self._built_unit = store.manifest.facts.get("time_unit")
        self._features = from_facts(store.manifest.facts, self._events)
        # A feature of events that targets have as well.
        self._shown = {spec.name for spec in entry.settings.event_cols or () if spec.target is not None}
        ids = None if self._target is None else store.ids(self._target)
        assert ids is not None, "a dataset of a log has items"
        self._ids = ids
        self._needed = {
            kind: [c for c in getattr(self._columns, kind) if c["name"] in self._specs]
            for kind in ("user", "context", "users")
        }
        self._history = history_column or self._find_history()
        table = open_samples(path, entry, self._dtypes(), optional=self._optional())
        if not table.rows:
            raise DataError(f"{path}: the file has no samples to score")
        users = users_of(entry, self._needed["users"], table)
        key = self._log.user
        if users is not None and users.key != key:
            table = replace(table, frame=table.frame.with_columns(pl.col(key).alias(users.key)))
        self._table = table if users is None else users.join(table)
        self.num_samples = table.rows
        self._has_time = self._log.time is not None and self._log.time in table.columns
        self._of_log = None if self._history else self._histories_of_log(reading)

    def columns(self, names: list[str]) -> dict[str, pl.Series]:
        """Columns of the samples as they are, of any type, whole; those that they lack are left out."""
        return read_columns(self.path, self._entry, names)

    def _find_history(self) -> str | None:
        names = scan(self.path, dtypes=dict.fromkeys(HISTORY_NAMES, "any"), where="--data", optional=HISTORY_NAMES)
        return next((name for name in HISTORY_NAMES if name in names.columns), None)

    def _dtypes(self) -> dict[str, str]:
        """Columns that the samples must have."""
        columns, own = self._entry.columns, self._entry.columns.own
        assert own is not None
        found = columns.dtypes(self._needed["context"])
        if not self._history or self._needed["user"] or self._needed["users"]:
            found |= {self._log.user: "any", **user_dtype(self._entry)}
        if self._history:
            for name in self._names():
                found[name] = "list"
                found |= dict.fromkeys(self._aligned(name).values(), "list")
        if self._log.time is not None and any(feature.kind in TIMES for feature in self._features.values()):
            found[self._log.time] = "any"
        found |= {name: "any" for name in self._shown if name in self._features}
        found[self._log.item] = own["dtype"]
        return found

    def _optional(self) -> dict[str, str]:
        found = self._entry.columns.dtypes(self._needed["users"])
        return found if self._log.time is None else {**found, self._log.time: "any"}

    def _names(self) -> list[str]:
        return [str(self._history), *self._behaviours]

    def _aligned(self, name: str) -> dict[str, str]:
        """The column of each event feature's values, for a history."""
        return {
            feature.name: f"{name}_time" if feature.kind in TIMES else f"{name}_{feature.name}"
            for feature in self._features.values()
        }

    def _histories_of_log(self, reading: Reading) -> LogHistories:
        """Find the histories of all samples in the log.

        Raises:
            DataError: the log cannot be read either.
        """
        try:
            # Another file of samples places its own.
            found = copy.copy(reading.kept.get("log")) or LogHistories(
                self._entry, reading.store, [*self._features.values()], max_len=self._max_len
            )
        except DataError as error:
            raise DataError(
                f"{self.path}: there is no column of histories ({' or '.join(HISTORY_NAMES)}), and they cannot be read "
                f"off the log: {error}"
            ) from None
        reading.kept["log"] = copy.copy(found)
        names = [self._log.user, *([self._log.time] if self._has_time else [])]
        frame = self._table.read(names)
        times = None
        if self._has_time and found.clock is not None:
            times = self._times(frame[self._log.time], 0, found.clock)
        found.place(frame[self._log.user], times)
        return found

    def _values(
        self, feature: EventFeature, values: pl.Series, first: int, column: str, rows: NDArray[np.int64] | None = None
    ) -> pl.Series:
        """Values of a feature that is no time, (N,); `rows` (N,) are theirs where a row has several."""
        where = f"{self._table.name}: column {column!r}"
        check_single(values, where=where)
        return values if feature.kind == "category" else numbers_of(values, where=where, first_row=first, rows=rows)

    def _times(
        self,
        values: pl.Series,
        first: int,
        clock: Clock,
        column: str | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Times in the unit of a clock, (N,), whole numbers in that of the log; `rows` (N,) are theirs in lists."""
        column = column or self._log.time
        where = f"{self._table.name}: column {column!r}"
        reader = TimeReader(where, self._log.time_unit, built=self._built_unit)
        times = reader.read(values, first_row=first, rows=rows)
        return reader.clock.converted(times, clock)

    def _pieces(self) -> Iterator[Piece]:
        columns, own, at = self._entry.columns, self._entry.columns.own, 0
        assert own is not None
        for chunk in self._table.chunks(rows=BATCH_ROWS):
            found = {}
            for kind, needed in self._needed.items():
                for column in needed:
                    series = chunk[self._log.user if kind == "user" else columns.raw_name(column)]
                    found[column["name"]] = values_of(column, series, where=self._table.name, first_row=at)
            found |= {name: self._target_codes(feature, chunk, at) for name, feature in self._features.items()}
            target, _ = as_ids(chunk[self._log.item], own["dtype"])
            histories: Mapping[str, JaggedArrays]
            if self._of_log is not None:
                histories = self._of_log.take(at, at + len(chunk))
            else:
                histories = {name: self._given(name, chunk, at) for name in self._names()}
            yield Piece(at, found, self._ids.codes(target), histories)
            at += len(chunk)

    def _target_codes(self, feature: EventFeature, chunk: pl.DataFrame, first: int) -> NDArray[np.int32]:
        if feature.name in self._shown:
            return feature.codes(self._values(feature, chunk[feature.name], first, feature.name))
        if feature.kind in ("weekday", "hour") and self._has_time and self._log.time is not None:
            return feature.codes(self._times(chunk[self._log.time], first, feature.clock))
        return feature.without_value(len(chunk))

    def _given(self, name: str, chunk: pl.DataFrame, first: int) -> JaggedArrays:
        """A history as the samples have it."""
        own = self._entry.columns.own
        assert own is not None
        splitter = self._entry.columns.splitters.get(name, SPLITTER)
        lists = Lists.of(chunk[name], splitter=splitter)
        aligned = {
            column: Lists.aligned(chunk[column], lists, splitter=splitter) for column in self._aligned(name).values()
        }
        check_aligned(aligned, lists, name, where=self._table.name, first_row=first)
        ids, _ = as_ids(lists.values, own["dtype"])
        events, rows = {}, row_numbers(np.diff(lists.offsets))
        for feature in self._features.values():
            column = self._aligned(name)[feature.name]
            values = aligned[column].values
            if feature.kind not in TIMES:
                events[feature.name] = feature.codes(self._values(feature, values, first, column, rows))
                continue
            times = self._times(values, first, feature.clock, column, rows)
            if feature.kind == "age":
                assert self._log.time is not None
                now = self._times(chunk[self._log.time], first, feature.clock)
                times = now[rows] - times
            events[feature.name] = feature.codes(times)
        return JaggedArrays(self._ids.codes(ids), lists.offsets, events)
