"""Columns of a log's samples: from the log's rows, from the users' table, and from what the first pass keeps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.log.reader import Events
from fuxictr_multimodal.data.entry.tables.files import Table
from fuxictr_multimodal.data.entry.tables.keyed import strangers
from fuxictr_multimodal.data.entry.tables.users import Users
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import ConfigError, DataError

# Samples of a piece: a chunk on disk. Histories of more would be arrays that the system hands out page by page, which
# takes longer than to fill them.
PIECE_ROWS = 65_536


@dataclass(frozen=True)
class LogColumns:
    """Which columns a sample of a log has besides its item, histories and label.

    Attributes:
        entry: the entry.
        user: columns that are the user's id.
        time: columns that are the time, as whole numbers.
        context: columns of the log's rows.
        users: columns of `user_data`.
        weight: column of the weights of samples, or None.
    """

    entry: Entry
    user: tuple[Mapping[str, Any], ...]
    time: tuple[Mapping[str, Any], ...]
    context: tuple[Mapping[str, Any], ...]
    users: tuple[Mapping[str, Any], ...]
    weight: str | None

    @classmethod
    def of(cls, entry: Entry) -> LogColumns:
        """Sort the columns of an entry.

        Raises:
            ConfigError: the label would be a feature.
        """
        columns, log = entry.columns, entry.settings.interactions
        by_name = {"user": log.user, "time": log.time}
        sorted_columns: dict[str, list[Mapping[str, Any]]] = {"user": [], "time": [], "context": []}
        for column in columns.samples:
            raw = columns.raw_name(column)
            if log.label is not None and raw == log.label and column["type"] != "meta":
                raise ConfigError(
                    f"{entry.where}: column {column['name']!r} is the label of the log: as a feature it would tell "
                    "what is predicted; leave it out, or make it `type: meta`"
                )
            kind = next((kind for kind, name in by_name.items() if raw == name), "context")
            if kind == "time" and column["type"] != "meta":
                kind = "context"
            sorted_columns[kind].append(column)
        return cls(
            entry,
            tuple(sorted_columns["user"]),
            tuple(sorted_columns["time"]),
            tuple(sorted_columns["context"]),
            columns.users,
            entry.settings.weight_col,
        )

    @property
    def from_file(self) -> list[str]:
        """Columns that are read from the log for samples, by the names that they have there."""
        names = [self.entry.columns.raw_name(column) for column in self.context]
        return list(dict.fromkeys([*names, *([] if self.weight is None else [self.weight])]))

    def dtypes(self) -> dict[str, str]:
        """Their types, for `scan`."""
        found = self.entry.columns.dtypes(self.context)
        return found | ({} if self.weight is None else {self.weight: "float"})

    def ids(self, events: Events) -> dict[str, IdMap]:
        """Ids of the columns that are stored as codes of users."""
        return {c["name"]: events.user_ids for c in self.user if _is_code(c)}


class LogRows:
    """Hands out the columns of samples, whose events come in pieces of the log's rows.

    Args:
        columns: which they are.
        table: the log.
        events: its events.
        users: the users' table, or None.
    """

    def __init__(self, columns: LogColumns, table: Table, events: Events, users: Users | None) -> None:
        self._columns, self._table, self._events = columns, table, events
        self._of_users: dict[str, pl.Series] = {}
        self._piece: tuple[int, dict[str, Any]] = (-1, {})
        self.notes: tuple[str, ...] = ()
        if users is not None:
            self._join(users)

    def _join(self, users: Users) -> None:
        """Features of each user code; missing for users that are not in the table."""
        own = self._events.user_ids.ids
        rows = IdMap(users.frame[users.key]).codes(own)
        index = pl.Series(rows).set(pl.Series(rows < 0), None)
        for column in self._columns.users:
            name = self._columns.entry.columns.raw_name(column)
            self._of_users[column["name"]] = users.frame[name].gather(index)
        unknown = int((rows < 0).sum())
        note = strangers(unknown, len(own), users.key, kind="users of the log", rows=self._table.name, keyed=users.name)
        self.notes = () if note is None else (note,)

    def pieces(self, *, task: str = "", rows: int = PIECE_ROWS) -> Iterator[tuple[int, int, pl.DataFrame]]:
        """Pieces of the log in order: first event, event behind the last, and their columns from the file.

        Raises:
            DataError: the file has changed since it was read first.
        """
        names, kept, row, event = self._columns.from_file, self._events.kept, 0, 0
        chunks = self._table.chunks(names, task=task) if names else iter([pl.DataFrame()])
        for chunk in chunks:
            size = len(chunk) if names else len(self._events)
            if names:
                mine = kept[row : row + size]
                row += size
                if len(mine) < size:
                    break
                chunk = chunk if mine.all() else chunk.filter(pl.Series(mine))
                size = len(chunk)
            for start in range(0, size, rows):
                stop = min(start + rows, size)
                yield event + start, event + stop, chunk[start:stop]
            event += size
        if names and row != len(kept):
            raise DataError(f"{self._table.name} has changed while it was read: build again")

    @property
    def reads(self) -> bool:
        """Whether samples need columns of the log's rows."""
        return bool(self._columns.from_file)

    @property
    def anywhere(self) -> bool:
        """Whether these can be read without those of the rows before, or there are none."""
        return bool(self._table.parts) or not self.reads

    def apart(self, events: Events) -> LogRows:
        """The same for another process, with events of which it needs no more."""
        rows = copy.copy(self)
        rows._events, rows._columns = events, replace(self._columns, entry=replace(self._columns.entry, frames={}))
        if not self.anywhere:
            rows._table = replace(self._table, frame=pl.LazyFrame())
        return rows

    def some(self, first_row: int, rows: int) -> pl.DataFrame:
        """Columns from the file of the events in some rows of the log, which can be read `anywhere`.

        Raises:
            DataError: the file is damaged, or shorter than it was.
        """
        if not self.reads:
            return pl.DataFrame()
        chunk = self._table.some(first_row, rows).read(self._columns.from_file)
        if len(chunk) != rows:
            raise DataError(f"{self._table.name} has changed while it was read: build again")
        return chunk.filter(pl.Series(self._events.kept[first_row : first_row + rows]))

    def fitted(self, train: NDArray[np.bool_]) -> pl.DataFrame | None:
        """Raw columns of the events of train, on which FuxiCTR's vocabularies are fitted; None where there are none.

        Args:
            train: which events are samples of train, (N,).
        """
        columns = self._columns
        context = [c for c in columns.context if is_fitted(c)]
        found: list[pl.Series] = []
        if context:
            parts = []
            for start, stop, chunk in self.pieces(task="vocabularies"):
                mine = chunk.filter(pl.Series(train[start:stop]))
                parts.append(mine.select(pl.col(columns.entry.columns.raw_name(c)).alias(c["name"]) for c in context))
            found += pl.concat(parts).get_columns()
        users = self._events.users[train]
        for column in columns.user:
            if is_fitted(column):
                found.append(self._own_ids(users).alias(column["name"]))
        for column in columns.users:
            if is_fitted(column):
                found.append(self._of_users[column["name"]].gather(users).alias(column["name"]))
        return pl.DataFrame(found) if found else None

    def take(self, start: int, chunk: pl.DataFrame, events: NDArray[np.int64]) -> dict[str, Any]:
        """The columns of samples for `StoreBuilder.append`.

        Args:
            start: event that the piece begins with.
            chunk: columns of the piece from the file.
            events: the event of each sample, (R,), all in this piece.
        """
        columns = self._columns
        found: dict[str, Any] = {}
        users = self._events.users[events]
        for column in columns.user:
            if _is_code(column):
                found[column["name"]] = users.astype(np.int64)
            else:
                found[column["name"]] = self._values(column, self._own_ids(users))
        for column in columns.time:
            assert self._events.times is not None
            found[column["name"]] = self._events.times[events]
        for column in columns.users:
            found[column["name"]] = self._values(column, self._of_users[column["name"]].gather(users))
        within = events - start
        for name, values in self._of_piece(start, chunk).items():
            found[name] = values.gather(within) if isinstance(values, pl.Series) else values[within]
        return found

    def _of_piece(self, start: int, chunk: pl.DataFrame) -> dict[str, Any]:
        """Columns of a piece of the log, converted once for the samples of all splits."""
        if self._piece[0] == start:
            return self._piece[1]
        columns = self._columns
        found: dict[str, Any] = {}
        row = self._events.row_of(start) if len(chunk) else 0
        for column in columns.context:
            series = chunk[columns.entry.columns.raw_name(column)]
            found[column["name"]] = values_of(column, series, where=self._table.name, first_row=row)
        if columns.weight is not None:
            weights = chunk[columns.weight]
            if weights.null_count():
                row = self._events.row_of(start + int(weights.is_null().arg_max() or 0))
                raise DataError(
                    f"{self._table.name}: column {weights.name!r}, row {row}: the weight is missing: fill it in"
                )
            found[columns.weight] = weights.to_numpy()
        self._piece = (start, found)
        return found

    def _own_ids(self, users: NDArray[np.integer]) -> pl.Series:
        return self._events.user_ids.ids.gather(users)

    def _values(self, column: Mapping[str, Any], series: pl.Series) -> Any:
        return values_of(column, series, where=self._table.name)


def _is_code(column: Mapping[str, Any]) -> bool:
    """Whether a column of users is stored as codes, with the ids beside them."""
    return column["type"] == "meta" and column["dtype"] == "str"
