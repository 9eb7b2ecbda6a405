"""Feature columns as they lie on disk: dtype, role and shape of each, and values checked against them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.manifest import FOLD_COL, Column, folds_name

DTYPES = {"meta": "int64", "numeric": "float32", "embedding": "float32"}
WIDTHS = {"sequence": "max_len", "embedding": "pretrain_dim"}


@dataclass(frozen=True)
class DiskColumns:
    """Columns of one dataset.

    Attributes:
        feature_cols: FuxiCTR's columns, complete.
        features: the same in the feature map, by name, after fitting.
        label: name of the label.
        item_col: the item's own id, and the target column of a split; None in a flat dataset, whose columns are all
            in the splits.
        items: rows of the item table.
        weight: name of the weight of a sample, or None.
        folds: number of folds of users.
        folded: item features with values for each of them.
    """

    feature_cols: Sequence[Mapping[str, Any]]
    features: Mapping[str, Mapping[str, Any]]
    label: str
    item_col: str | None
    items: int
    weight: str | None = None
    folds: int = 0
    folded: Collection[str] = ()

    def of_items(self) -> list[Column]:
        """Columns of the item table, in the order of `feature_cols`."""
        return [self._column(column, "item") for column in self.feature_cols if self._of_item(column)]

    def of_folds(self) -> list[Column]:
        """Columns of the item table with a feature's values for each fold, in the same order."""
        return [
            Column(folds_name(column.name), column.dtype, "fold", (self.folds, *column.shape))
            for column in self.of_items()
            if column.name in self.folded
        ]

    def of_events(self) -> list[Column]:
        """Columns that go with the items of each history, in the order of `feature_cols`."""
        return [self._column(column, "event") for column in self.feature_cols if column.get("source") == "event"]

    def of_split(self, *, labelled: bool, weighted: bool = False) -> list[Column]:
        """Columns of a split: label, weight and target, then the others in the order of `feature_cols`."""
        first = [Column(self.label, "uint8", "label")] if labelled else []
        if weighted:
            assert self.weight is not None
            first.append(Column(self.weight, "float32", "weight"))
        if self.item_col is not None:
            first.append(Column(self.item_col, "int32", "target"))
        if self.folds:
            first.append(Column(FOLD_COL, "uint8", "fold"))
        return [
            *first,
            *(self._column(column, _role(column)) for column in self.feature_cols if not self._of_item(column)),
        ]

    def _of_item(self, column: Mapping[str, Any]) -> bool:
        return self.item_col is not None and column.get("source") == "item"

    def checked(self, column: Column, values: np.ndarray, *, where: str, first_row: int) -> np.ndarray:
        """The values in the dtype on disk.

        Args:
            column: one of `of_items` or `of_split`.
            values: encoded values, (rows, *column.shape).
            where: the file, for the message.
            first_row: row number of the first value, for the message.

        Raises:
            DataError: a shape, dtype or value is wrong; the message names the first such row.
        """
        if column.role == "label":
            return validation.as_labels(values, name=column.name, where=where, first_row=first_row)
        if column.role == "weight":
            return validation.as_weights(values, name=column.name, where=where, first_row=first_row)
        if column.role == "meta":
            return validation.as_meta(values, name=column.name, where=where, first_row=first_row)
        place: dict[str, Any] = {"name": column.name, "shape": column.shape, "where": where, "first_row": first_row}
        if column.dtype == "float32":
            return validation.as_floats(values, **place)
        if column.role == "fold":
            remedy = f"there are {self.folds} folds, and 0 is none"
            return validation.as_ids(values, low=0, high=self.folds + 1, remedy=remedy, **place).astype(np.uint8)
        if column.role == "target":
            remedy = "a target must be a row of the item table, and item 0 is padding"
            return validation.as_ids(values, low=1, high=self.items, remedy=remedy, **place)
        size = self.features[column.name]["vocab_size"]
        return validation.as_ids(values, low=0, high=size, remedy=f"its vocab_size is {size}", **place)

    def _column(self, column: Mapping[str, Any], role: str) -> Column:
        spec = self.features[column["name"]]
        width = WIDTHS.get(spec["type"])
        shape = () if width is None else (spec[width],)
        return Column(column["name"], DTYPES.get(spec["type"], "int32"), role, shape)


def _role(column: Mapping[str, Any]) -> str:
    if column["type"] == "meta":
        return "meta"
    return "event" if column.get("source") == "event" else "context"
