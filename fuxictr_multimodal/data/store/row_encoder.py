"""Rows of a split as they come from a caller, and the same encoded and checked, as they lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.disk_columns import DiskColumns
from fuxictr_multimodal.data.store.encoding import StoreFeatureProcessor
from fuxictr_multimodal.data.store.history_checks import HistoryChecks
from fuxictr_multimodal.data.store.ids import IdMap, as_texts
from fuxictr_multimodal.data.store.manifest import Column


@dataclass(frozen=True)
class SplitRows:
    """Rows for `StoreBuilder.append`, whose arguments these are."""

    split: str
    columns: Mapping[str, Any]
    history_values: Any = None
    history_offsets: Any = None
    events: Mapping[str, Any] | None = None
    behaviours: Mapping[str, Sequence[Any]] | None = None


@dataclass
class EncodedRows:
    """Rows of a split that were checked.

    Attributes:
        split: their split.
        rows: their number.
        columns: columns of the split.
        data: their values by name as on disk, each (rows, ...).
        history: the first history; None in a flat dataset.
        behaviours: the further histories by name.
        texts: distinct texts of the meta columns whose codes in `data` count them from 0; empty where the codes are
            those of the dataset.
    """

    split: str
    rows: int
    columns: list[Column]
    data: dict[str, np.ndarray]
    history: JaggedArrays | None
    behaviours: dict[str, JaggedArrays]
    texts: dict[str, pl.Series] = field(default_factory=dict)


Numbered = Callable[[str, Any], Any]


@dataclass(frozen=True)
class RowEncoder:
    """Encodes rows with what was fitted; it knows no rows before these, so any process can do it for any rows.

    Attributes:
        columns: columns of the dataset on disk.
        processor: encodes raw columns; fitted.
        behaviours: names of the further kinds of history.
        max_len: maximum number of items in a history.
        growing: meta columns of texts that are numbered as they come.
    """

    columns: DiskColumns
    processor: StoreFeatureProcessor
    behaviours: tuple[str, ...]
    max_len: int
    growing: frozenset[str]

    def _on_disk(self, split: str, names: Mapping[str, Any]) -> list[Column]:
        """Columns of a split whose rows have columns of these names: `test` needs no label, train alone a weight."""
        weight = self.columns.weight
        return self.columns.of_split(
            labelled=self.columns.label in names or split != "test",
            weighted=weight is not None and (weight in names or split == "train"),
        )

    def encoded(self, rows: SplitRows, *, first_row: int, numbered: Numbered) -> EncodedRows:
        """The rows as on disk.

        Args:
            rows: as they come.
            first_row: row of the split that the first is, for messages.
            numbered: gives the texts of a meta column their codes.

        Raises:
            DataError: a column or a value is wrong.
        """
        where = f"{rows.split}.h5"
        on_disk = self._on_disk(rows.split, rows.columns)
        count = validation.check_columns(rows.columns, required=[c.name for c in on_disk], optional=(), where=where)
        raw = self.processor.transform(rows.columns, where=where)
        data = {
            c.name: self.columns.checked(c, numbered(c.name, raw[c.name]), where=where, first_row=first_row)
            for c in on_disk
        }
        checks = HistoryChecks(
            self.columns, self.processor, behaviours=self.behaviours, max_len=self.max_len, where=where
        )
        history, others = checks.checked(
            None if rows.history_values is None else (rows.history_values, rows.history_offsets, rows.events or {}),
            rows.behaviours or {},
            rows=count,
            first_row=first_row,
        )
        return EncodedRows(rows.split, count, on_disk, data, history, others)

    def apart(self, rows: SplitRows) -> EncodedRows:
        """The rows as on disk, but for the codes of texts, which stand for the rows' own `texts`.

        Raises:
            DataError: a column or a value is wrong; its row counts from the first of these.
        """
        texts: dict[str, pl.Series] = {}

        def numbered(name: str, values: Any) -> Any:
            found = as_texts(values) if name in self.growing else None
            if found is None:
                return values
            ids = IdMap.of(found)
            texts[name] = ids.ids
            return ids.codes(found)

        encoded = self.encoded(rows, first_row=0, numbered=numbered)
        encoded.texts = texts
        return encoded
