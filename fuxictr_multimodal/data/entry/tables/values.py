"""Values of one column as the dataset takes them: raw where they are fitted, else numbers, padded lists or vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.tables.lists import SPLITTER, Lists
from fuxictr_multimodal.data.jagged import places_in_rows, row_numbers
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.errors import DataError


def values_of(column: Mapping[str, Any], series: pl.Series, *, where: str, first_row: int = 0) -> Any:
    """The values of a column for `StoreBuilder`, (rows, ...).

    A missing value is `fill_na`, else 0 for numbers and the empty text, as in FuxiCTR; a missing vector is zero.

    Args:
        column: as on disk.
        series: the values in the file.
        where: the table, for messages.
        first_row: row of the table that the values begin with, for messages.

    Raises:
        DataError: a list of numbers holds something else, or a vector is of another width.
    """
    place = f"{where}: column {column['name']!r}"
    if column["type"] == "embedding":
        return vectors(series, column.get("pretrain_dim"), where=place, first_row=first_row)
    if column["type"] == "sequence" and not is_fitted(column):
        return padded(column, series, where=place, first_row=first_row)
    if is_fitted(column):
        return series
    if column["type"] == "meta" and column["dtype"] == "str":
        return series.fill_null(str(column.get("fill_na", "")))
    if series.dtype == pl.String:
        raise DataError(f"{place} is encoded (it has `vocab_size`) and needs dtype int, not text")
    kind = pl.Float64 if column["type"] == "numeric" else pl.Int64
    return series.cast(kind).fill_null(column.get("fill_na") or 0).to_numpy()


def numbers_of(
    series: pl.Series, *, where: str, first_row: int = 0, rows: NDArray[np.int64] | None = None
) -> pl.Series:
    """Values of an event feature with bins, (N,) float64; an empty text is a missing one.

    Args:
        series: the values, (N,).
        where: table and column, for messages.
        first_row: row that they begin with.
        rows: of each value where a row has several, (N,), counted from `first_row`; by default each has its own.

    Raises:
        DataError: one is no number.
    """
    check_single(series, where=where)
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        series = series.str.strip_chars()
        series = series.set(series == "", None)
    numbers = series.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & series.is_not_null()
    if wrong.any():
        at = int(wrong.arg_max() or 0)
        row = first_row + (at if rows is None else int(rows[at]))
        raise DataError(
            f"{where}, row {row} (counted from 0): {series[at]!r} is no number: leave out `bins` for categories"
        )
    return numbers


def check_single(series: pl.Series, *, where: str) -> None:
    """Refuse lists where an event feature has one value.

    Raises:
        DataError: naming the type.
    """
    if series.dtype.is_nested():
        raise DataError(f"{where} holds {series.dtype}, but an event feature is one number or text")


def vectors(series: pl.Series, width: int | None, *, where: str, first_row: int = 0) -> np.ndarray:
    """Lists of numbers, or texts of them, as (rows, width) float32; a missing one is zero.

    Args:
        series: the lists.
        width: of all vectors; by default that of the first one.
        where: table and column, for messages.
        first_row: row of the table that the series begins with.

    Raises:
        DataError: a value is no number, or a vector is of another width.

    >>> vectors(pl.Series([[1.0, 2.0], None]), None, where="items").tolist()
    [[1.0, 2.0], [0.0, 0.0]]
    """
    lists = Lists.of(_numbers(series))
    lengths = np.diff(lists.offsets)
    there = np.flatnonzero(lengths)
    width = width or (int(lengths[there[0]]) if len(there) else 1)
    odd = there[lengths[there] != width]
    if len(odd):
        raise DataError(
            f"{where}, row {first_row + int(odd[0])}: a vector of {lengths[odd[0]]} numbers, but {width} are expected"
        )
    flat = lists.values.cast(pl.Float32, strict=False)
    if flat.null_count():
        at = int(flat.is_null().arg_max() or 0)
        row = first_row + int(row_numbers(lengths)[at])
        raise DataError(f"{where}, row {row}: the vector holds {lists.values[at]!r}, which is no number")
    found = np.zeros((len(series), width), dtype=np.float32)
    found[there] = flat.to_numpy().reshape(len(there), width)
    return found


def padded(column: Mapping[str, Any], series: pl.Series, *, where: str, first_row: int = 0) -> np.ndarray:
    """Lists of encoded ids as (rows, max_len) int64, padded with 0 and cut as FuxiCTR does: on the side of `padding`.

    Raises:
        DataError: a value is no whole number.
    """
    lists = Lists.of(series, splitter=column.get("splitter", SPLITTER))
    lengths = np.diff(lists.offsets)
    codes = lists.values.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
    if len(codes) and codes.min() < 0:
        at = int(np.argmin(codes))
        row = first_row + int(row_numbers(lengths)[at])
        raise DataError(f"{where}, row {row}: {lists.values[at]!r} is no encoded id: ids count from 0")
    width = column.get("max_len") or max(1, int(lengths.max(initial=0)))
    found = np.zeros((len(series), width), dtype=np.int64)
    rows, places = row_numbers(lengths), places_in_rows(lengths)
    if column.get("padding", "post") == "pre":
        places = places - lengths[rows] + width
    inside = (places >= 0) & (places < width)
    found[rows[inside], places[inside]] = codes[inside]
    return found


def _numbers(series: pl.Series) -> pl.Series:
    """Texts such as `[0.1, 0.2]`, `0.1 0.2` or `0.1^0.2` as lists of texts."""
    return series.str.extract_all(r"[^\s,;^\[\]]+") if series.dtype == pl.String else series
