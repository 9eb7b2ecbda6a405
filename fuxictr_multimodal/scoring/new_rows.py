"""New samples of a dataset that a script built: a parquet file of raw columns, targets and lists of items.

Memory: one piece of 65,536 rows. Items are the dataset's ids, or the user's where the dataset keeps these; raw
categories use the vocabularies that FuxiCTR fitted on training rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.entry.tables.lists import Lists as IdLists
from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths, row_at, row_numbers
from fuxictr_multimodal.data.recipes.parquet_input import Anything, Arrays, ColumnForm, Lists, ParquetInput, Scalars
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.raw_rows import Piece, RawRows, Reading

HISTORY_NAMES = ("item_seq", "history")


class NewRows(RawRows):
    """The rows of a parquet file or its parts.

    Args:
        path: a parquet file, a folder of parts or a glob of them, with the context columns of the dataset in raw form,
            the target item, and the history as lists of items, newest last, with or without 0 on the left; further
            histories under the names of the dataset's behaviours, and features of their events as lists in
            `<history>_<feature>`, encoded. Other columns are ignored.
        reading: the dataset and the model that they are read for.
        history_column: name of the lists; `item_seq` or `history` where not given.

    Raises:
        DataError: the file or a column is missing or of another form; the message names file, column and row.
    """

    def __init__(self, path: Path, reading: Reading, *, history_column: str | None = None) -> None:
        super().__init__(path, reading)
        features, store = reading.feature_map.features, reading.store
        forms = {name: _form(spec, features[name]) for name, spec in self._specs.items()}
        self._ids = None if self._target is None else store.ids(self._target)
        self._names: list[str] = []
        if self._target is not None:
            self._names = [history_column or self._find_history(), *self._behaviours]
            own = Anything() if self._ids else Scalars(int)
            forms |= {self._target: own, **dict.fromkeys(self._names, Anything() if self._ids else Lists())}
            forms |= {f"{name}_{event}": Lists() for name in self._names for event in self._events}
            forms |= {event: Scalars(int) for event in self._events}
        self._file = ParquetInput(path, forms)
        self.num_samples = self._file.rows
        if not self.num_samples:
            raise DataError(f"{path}: the file has no samples to score")

    def columns(self, names: list[str]) -> dict[str, pl.Series]:
        """Columns of the file as they are, of any type, whole; those that it lacks are left out."""
        there = {name: Anything() for name in names if name in self._file.names}
        if not there:
            return {}
        pieces = [pl.DataFrame(columns) for _, columns in ParquetInput(self.path, there).batches()]
        # Parts may differ in the width of their integers.
        return pl.concat(pieces, how="vertical_relaxed").to_dict()

    def _pieces(self) -> Iterator[Piece]:
        for first, columns in self._file.batches():
            if self._target is None:
                yield Piece(first, columns, None)
                continue
            target = columns[self._target]
            codes = self._ids.codes(pl.Series(target)) if self._ids else np.asarray(target)
            yield Piece(first, columns, codes, {name: self._history(name, columns, first) for name in self._names})

    def _find_history(self) -> str:
        names = ParquetInput(self.path, {}).names
        found = [name for name in HISTORY_NAMES if name in names]
        if not found:
            raise DataError(
                f"{self.path}: no column of histories: it must be named {' or '.join(HISTORY_NAMES)}, or as "
                "--history-column says"
            )
        return found[0]

    def _history(self, name: str, columns: Mapping[str, Any], first: int) -> JaggedArrays:
        """A history without its padding, in rows of the item table; unknown items are still in it."""
        if self._ids:
            lists = IdLists.of(pl.Series(columns[name]))
            values, offsets = self._ids.codes(lists.values), lists.offsets
            real = lists.values.is_not_null().to_numpy()
        else:
            values, offsets = columns[name]
            real = values != 0
            self._refuse_holes(name, real, offsets, first)
        events = {}
        for event in self._events:
            events[event], own = columns[f"{name}_{event}"]
            if not np.array_equal(own, offsets):
                row = first + int(np.argmax(np.diff(own) != np.diff(offsets)))
                raise DataError(f"{self.path}: row {row}: {name}_{event} is not as long as {name!r}")
        if real.all():
            return JaggedArrays(values, offsets, events)
        kept = np.bincount(row_numbers(np.diff(offsets))[real], minlength=len(offsets) - 1)
        events = {event: of_items[real] for event, of_items in events.items()}
        return JaggedArrays(values[real], offsets_from_lengths(kept), events)

    def _refuse_holes(self, name: str, real: np.ndarray, offsets: np.ndarray, first: int) -> None:
        # A 0 after an item of the same row: neither padding on the left nor an item.
        hole = real[:-1] & ~real[1:]
        hole[offsets[1:-1][(offsets[1:-1] > 0) & (offsets[1:-1] < len(real))] - 1] = False
        if hole.any():
            row = row_at(offsets, int(np.argmax(hole)))
            raise DataError(
                f"{self.path}: row {first + row}, column {name!r}: 0 after an item: histories are padded "
                "with 0 on the left, the newest item comes last"
            )


def _form(spec: Mapping[str, Any], feature: Mapping[str, Any]) -> ColumnForm:
    """What a context column looks like in a file of new rows."""
    if is_fitted(spec):
        return Anything()
    if spec["type"] == "categorical":
        return Scalars(int)
    if spec["type"] == "sequence":
        return Arrays(int, feature["max_len"])
    return Arrays(float, feature["pretrain_dim"]) if spec["type"] == "embedding" else Scalars(float)
