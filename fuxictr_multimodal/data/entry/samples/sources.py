"""The tables of samples: one a split, or one that is cut into splits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.splits import by_column, by_order, by_time, by_user, fold_codes
from fuxictr_multimodal.data.entry.tables.files import CHUNK_ROWS, Table
from fuxictr_multimodal.data.entry.tables.times import TimeReader
from fuxictr_multimodal.data.entry.tables.users import Users
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.errors import DataError

_SPLIT = "\0split"


@dataclass(frozen=True)
class Source:
    """One table of samples, joined with the features of their users.

    Attributes:
        key: `train_data`, `valid_data` or `test_data`.
        split: the split that it is; None where it is cut.
        table: its rows, with the features of their users.
        files: what is read.
        codes: the split of each row, (rows,), where it is cut.
        method: how the samples were split, in words.
        users: the users' table, or None.
        plain: the rows without the features of users, where there are users.
    """

    key: str
    split: str | None
    table: Table
    codes: NDArray[np.int8] | None
    method: str
    users: Users | None = None
    plain: Table | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.table.name

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return self.table.files

    def chunks(self, columns: Collection[str] | None, *, task: str = "") -> Iterator[pl.DataFrame]:
        """The rows in order, in pieces."""
        return self.table.chunks(columns, task=task)

    def some(self, first: int, rows: int, columns: Collection[str] | None = None) -> pl.DataFrame:
        """Some rows of a table that can be read `anywhere`.

        Raises:
            DataError: the file is damaged, or shorter than it was.
        """
        table = (self.plain or self.table).some(first, rows)
        found = (table if self.users is None else self.users.join(table)).read(columns)
        if len(found) != rows:
            raise DataError(f"{self.name} has changed while it was read: build again")
        return found

    @property
    def anywhere(self) -> bool:
        """Whether some rows can be read without those before."""
        return bool((self.plain or self.table).parts)

    def apart(self) -> Source:
        """The same for another process, which reads `some` rows or gets them."""
        plain = self.plain or self.table
        plain = plain if self.anywhere else replace(plain, frame=pl.LazyFrame())
        return replace(self, table=plain, plain=None if self.users is None else plain)

    def splits_of(self, first_row: int, rows: int) -> Iterator[tuple[str, NDArray[np.int64] | None]]:
        """Splits of some rows, each with the rows' places in the piece, or None for all of them."""
        if self.codes is None:
            assert self.split is not None
            yield self.split, None
            return
        codes = self.codes[first_row : first_row + rows]
        for code, split in enumerate(SPLITS):
            places = np.flatnonzero(codes == code)
            if len(places):
                yield split, None if len(places) == rows else places

    def train_rows(self) -> pl.LazyFrame:
        """Rows of the training split; nothing is read yet."""
        if self.codes is None:
            return self.table.frame
        frame = self.table.frame.with_columns(pl.Series(_SPLIT, self.codes))
        return frame.filter(pl.col(_SPLIT) == 0).drop(_SPLIT)


def open_sources(entry: Entry, users: Users | None) -> list[Source]:
    """Open the tables of an entry's samples, and cut `train_data` where the entry says so.

    Raises:
        DataError: a table is missing or wrong, or a split would be empty.
    """
    keys = [f"{split}_data" for split in SPLITS if getattr(entry.settings, f"{split}_data") is not None]
    plain = {key: _open(entry, key, users) for key in keys}
    tables = plain if users is None else {key: users.join(table) for key, table in plain.items()}
    if entry.settings.split is None:
        return [
            Source(key, key.removesuffix("_data"), table, None, "given files", users, plain[key])
            for key, table in tables.items()
        ]
    codes, method = _cut(entry, tables["train_data"])
    return [Source("train_data", None, tables["train_data"], codes, method, users, plain["train_data"])]


def _open(entry: Entry, key: str, users: Users | None) -> Table:
    columns, settings = entry.columns, entry.settings
    dtypes = columns.dtypes(columns.samples)
    if columns.own is not None:
        dtypes[columns.raw_name(columns.own)] = columns.own["dtype"]
        dtypes |= dict.fromkeys(columns.histories, "list")
        if settings.item_data is None:
            dtypes |= columns.dtypes(columns.items)
    for event in settings.event_cols or ():
        several = event.history if isinstance(event.history, dict) else {"": event.history}
        dtypes |= {name: "list" for name in several.values() if name is not None}
        if event.target is not None:
            dtypes.setdefault(event.target, "any")
    split = settings.split
    if split is not None:
        wanted = {"time": split.time, "user": split.user or entry.user_col, "column": split.column}.get(split.by)
        if wanted is not None:
            dtypes.setdefault(wanted, "any")
    if users is not None:
        dtypes.setdefault(users.key, "any")
    if columns.own is not None and columns.by_behaviour(entry.where):
        dtypes.setdefault(entry.user_col, "any")
    dtypes[columns.label] = "float"
    optional = {columns.label} if key == "test_data" else set()
    if settings.weight_col is not None:
        dtypes[settings.weight_col] = "float"
        optional |= {settings.weight_col} if key != "train_data" else set()
    return entry.table(key, dtypes, optional=optional)


def _cut(entry: Entry, table: Table) -> tuple[NDArray[np.int8], str]:
    """The split of each row of `train_data`, and how it was cut in words."""
    split = entry.settings.split
    assert split is not None
    every = np.ones(table.rows, dtype=bool)
    if split.by == "order":
        cut = by_order(every, valid=split.valid, test=split.test)
    elif split.by == "time":
        assert split.time is not None
        reader = TimeReader(f"{table.name}: column {split.time!r}")
        parts, at = [], 0
        for chunk in table.chunks([split.time], rows=4 * CHUNK_ROWS):
            parts.append(reader.read(chunk[split.time], first_row=at))
            at += len(chunk)
        cut = by_time(np.concatenate(parts), every, valid=split.valid, test=split.test)
    elif split.by == "user":
        user = split.user or entry.user_col
        ids = table.read([user])[user]
        codes = IdMap.of(ids).codes(ids)
        # Samples without a user are one user.
        cut = by_user(codes + 1, every, valid=split.valid, test=split.test, seed=split.seed)
    else:
        assert split.column is not None
        values = table.read([split.column])[split.column].cast(pl.String).to_list()
        where = f"{table.name}: column {split.column!r}"
        cut = by_column(fold_codes(values, where=where), every, column=split.column)
    return cut.checked(table.name, test="test" in _wanted_splits(entry)).of, cut.method


def _wanted_splits(entry: Entry) -> tuple[str, ...]:
    split = entry.settings.split
    return SPLITS if split is not None and split.by != "column" and split.test > 0 else SPLITS[:2]
