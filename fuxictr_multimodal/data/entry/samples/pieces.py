"""Rows of samples that are ready, piece by piece: what the first pass sees of them, and what `StoreBuilder` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.samples.behaviour import UserFolds
from fuxictr_multimodal.data.entry.samples.events import SampleEvents
from fuxictr_multimodal.data.entry.samples.histories import HistoryReader, JaggedIds
from fuxictr_multimodal.data.entry.samples.sources import Source
from fuxictr_multimodal.data.entry.tables.files import CHUNK_ROWS
from fuxictr_multimodal.data.entry.tables.lists import as_ids
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.data.store.row_encoder import SplitRows
from fuxictr_multimodal.errors import DataError


@dataclass(frozen=True)
class Piece:
    """Some rows of a table of samples.

    Attributes:
        source: number of the table.
        first_row: row of the table that they begin with.
        rows: their number.
        frame: the rows; None where who works on them reads them.
    """

    source: int
    first_row: int
    rows: int
    frame: pl.DataFrame | None = None

    def read(self, sources: list[Source], columns: list[str] | None = None) -> tuple[Source, pl.DataFrame]:
        """The table, and the rows."""
        source = sources[self.source]
        return source, source.some(self.first_row, self.rows, columns) if self.frame is None else self.frame


def pieces_of(
    sources: list[Source], columns: list[str] | None = None, *, apart: bool, task: str = ""
) -> Iterator[Piece]:
    """All rows in order.

    Args:
        sources: the tables.
        columns: to read, all by default.
        apart: other processes work on the pieces, and read themselves what can be read from anywhere.
        task: name of the phase for the progress; "" shows none.
    """
    for number, source in enumerate(sources):
        if apart and source.anywhere:
            for start in range(0, source.table.rows, CHUNK_ROWS):
                yield Piece(number, start, min(CHUNK_ROWS, source.table.rows - start))
            continue
        at = 0
        for chunk in source.chunks(columns, task=f"{source.key}: {task}" if task else ""):
            yield Piece(number, at, len(chunk), chunk)
            at += len(chunk)


@dataclass(frozen=True)
class SampleRows:
    """Makes rows for `StoreBuilder` of pieces.

    Attributes:
        entry: the entry.
        sources: its tables.
        reader: of histories; None in a flat dataset.
        ids: of the items.
        events: the event features, learnt.
        folds: of the users, where item vectors depend on them.
    """

    entry: Entry
    sources: list[Source]
    reader: HistoryReader | None
    ids: IdMap | None
    events: SampleEvents | None
    folds: UserFolds | None = None

    def apart(self) -> SampleRows:
        """The same without what other processes do not need."""
        return replace(self, entry=replace(self.entry, frames={}), sources=[source.apart() for source in self.sources])

    def __call__(self, piece: Piece) -> Iterator[SplitRows]:
        """The rows of a piece, split by split.

        Raises:
            DataError: a value is wrong.
        """
        source, chunk = piece.read(self.sources)
        columns, histories = self._encoded(source, chunk, piece.first_row)
        for split, rows in source.splits_of(piece.first_row, len(chunk)):
            yield _split_rows(split, columns, histories, rows)

    def _encoded(self, source: Source, chunk: pl.DataFrame, at: int) -> tuple[dict[str, Any], dict[str, JaggedIds]]:
        columns, weight = self.entry.columns, self.entry.settings.weight_col
        found: dict[str, Any] = {}
        for column in (*columns.samples, *columns.users):
            series = chunk[columns.raw_name(column)]
            found[column["name"]] = values_of(column, series, where=source.name, first_row=at)
        for name in (columns.label, weight):
            if name is not None and name in chunk.columns:
                found[name] = chunk[name].to_numpy()
        if self.reader is None:
            return found, {}
        assert self.ids is not None
        assert self.events is not None
        found[self.entry.settings.item_col] = self.ids.codes(targets_of(self.entry, chunk, source, at))
        histories = self.reader.read(chunk, source=source, first_row=at)
        if self.folds is not None:
            found |= self.folds.of(chunk)
        targets, histories = self.events.encode(chunk, histories, source=source, first_row=at)
        return found | targets, {name: history.coded(self.ids) for name, history in histories.items()}


@dataclass(frozen=True)
class Look:
    """The items of a piece.

    Attributes:
        size: rows of the piece.
        targets: distinct targets in the order in which they come first, (n,).
        counts: how often each is one of a training sample, (n,).
        in_histories: distinct items of histories in the order in which they come first.
    """

    size: int
    targets: pl.Series
    counts: NDArray[np.int64]
    in_histories: pl.Series


@dataclass(frozen=True)
class Looks:
    """The first pass in another process, over samples whose events and items have no features to learn."""

    entry: Entry
    sources: list[Source]
    reader: HistoryReader
    columns: list[str]

    def apart(self) -> Looks:
        """The same without what other processes do not need."""
        return replace(self, entry=replace(self.entry, frames={}), sources=[source.apart() for source in self.sources])

    def __call__(self, piece: Piece) -> Look:
        """What a piece shows.

        Raises:
            DataError: a value is wrong.
        """
        source, _, targets, histories = self.read(piece)
        return self.of(piece, source, targets, histories)

    def read(self, piece: Piece) -> tuple[Source, pl.DataFrame, pl.Series, dict[str, JaggedIds]]:
        """The table of a piece, its rows, and their targets and histories by the user's ids."""
        source, chunk = piece.read(self.sources, self.columns)
        targets = targets_of(self.entry, chunk, source, piece.first_row)
        return source, chunk, targets, self.reader.read(chunk, source=source, first_row=piece.first_row)

    def of(self, piece: Piece, source: Source, targets: pl.Series, histories: Mapping[str, JaggedIds]) -> Look:
        """What the targets and histories of a piece show."""
        ids = IdMap.of(targets)
        counts = np.zeros(len(ids), dtype=np.int64)
        for split, rows in source.splits_of(piece.first_row, piece.rows):
            if split == "train":
                counts += np.bincount(ids.codes(targets if rows is None else targets.gather(rows)), minlength=len(ids))
        found = targets.clear()
        for history in histories.values():
            found = distinct(found, history.ids)
        return Look(piece.rows, ids.ids, counts, found)


def targets_of(entry: Entry, chunk: pl.DataFrame, source: Source, first_row: int) -> pl.Series:
    """The target item of each row, by the user's ids.

    Raises:
        DataError: a row has none.
    """
    own = entry.columns.own
    assert own is not None
    name = entry.columns.raw_name(own)
    ids, _ = as_ids(chunk[name], own["dtype"], absent=own.get("fill_na"))
    if ids.null_count():
        row = first_row + int(ids.is_null().arg_max() or 0)
        raise DataError(
            f"{source.name}: column {name!r}, row {row} (counted from 0): the sample has no item: remove such samples"
        )
    return ids


def distinct(found: pl.Series, more: pl.Series) -> pl.Series:
    """Distinct ids in the order in which they come first."""
    fresh = more.unique(maintain_order=True).drop_nulls()
    return pl.concat([found, fresh.alias(found.name)]).unique(maintain_order=True)


def _split_rows(
    split: str,
    columns: Mapping[str, Any],
    of_columns: Mapping[str, JaggedIds],
    rows: NDArray[np.int64] | None,
) -> SplitRows:
    """The rows of one split."""
    histories = list(of_columns.items())
    if rows is not None:
        columns = {
            name: values.gather(rows) if isinstance(values, pl.Series) else values[rows]
            for name, values in columns.items()
        }
        histories = [(name, history.take(rows)) for name, history in histories]
    if not histories:
        return SplitRows(split, columns)
    first = histories[0][1]
    return SplitRows(
        split,
        columns,
        first.codes,
        first.offsets,
        events=first.events,
        behaviours={name: (one.codes, one.offsets, one.events) for name, one in histories[1:]},
    )
