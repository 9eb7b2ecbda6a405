"""Columns of a dataset under construction whose codes stand for ids of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.ids import IdMap, as_texts, ids_name
from fuxictr_multimodal.errors import DataError, did_you_mean


class IdColumns:
    """Id maps that the caller gave, and those that grow here as texts of a meta column come.

    Args:
        feature_cols: complete columns of the dataset.
        item_col: the item's own id, or None.
        where: the dataset, for messages.
    """

    def __init__(self, feature_cols: Sequence[Mapping[str, Any]], *, item_col: str | None, where: str) -> None:
        self._known = [column["name"] for column in feature_cols]
        self._growing = {c["name"] for c in feature_cols if c["type"] == "meta" and c["dtype"] == "str"}
        self._item_col = item_col
        self._where = where
        self._maps: dict[str, IdMap] = {}

    @property
    def names(self) -> list[str]:
        """Columns that have ids, sorted."""
        return sorted(self._maps)

    @property
    def growing(self) -> frozenset[str]:
        """Columns of texts that are numbered as they come."""
        return frozenset(self._growing)

    def get(self, name: str | None) -> IdMap | None:
        """The ids of a column, or None."""
        return None if name is None else self._maps.get(name)

    def add(self, ids: Mapping[str, IdMap]) -> None:
        """Take maps of the caller.

        Raises:
            DataError: there is no such column, it has ids already, or its ids have no place for padding.
        """
        for name, one in ids.items():
            if name not in self._known:
                raise DataError(f"{self._where}: ids of {name!r}: no such column. {did_you_mean(name, self._known)}")
            if name in self._maps:
                raise DataError(f"{self._where}: column {name!r} has its ids already")
            if name == self._item_col and (not len(one) or one.ids[0] is not None):
                raise DataError(
                    f"{self._where}: ids of column {name!r} need code 0 for padding: IdMap.of(..., padding=True)"
                )
            self._maps[name] = one
            self._growing.discard(name)

    def check_items(self, rows: int) -> None:
        """Refuse ids of items that are more or fewer than the rows of the item table."""
        ids = self.get(self._item_col)
        if ids is not None and len(ids) != rows:
            raise DataError(
                f"item.h5: column {self._item_col!r} has {len(ids)} ids, padding included, but the item table has "
                f"{rows} rows"
            )

    def numbered(self, name: str, values: Any) -> Any:
        """Texts of a meta column of `dtype: str` as codes, -1 where missing; other values as they are."""
        texts = as_texts(values) if name in self._growing else None
        if texts is None:
            return values
        ids = self._maps.get(name, IdMap.of(texts.clear())).extended(texts)
        self._maps[name] = ids
        return ids.codes(texts)

    def check_codes(self, name: str, codes: np.ndarray, *, where: str, first_row: int) -> None:
        """Refuse a code that stands for no id."""
        if name in self._maps:
            validation.check_codes(codes, len(self._maps[name]), name=name, where=where, first_row=first_row)

    def write(self, folder: Path) -> None:
        """Write the ids of every column into the folder of the dataset."""
        for name, ids in self._maps.items():
            ids.write(folder / ids_name(name))
