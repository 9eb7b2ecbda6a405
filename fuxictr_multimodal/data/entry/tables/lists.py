"""Columns of lists, or of text with a splitter, to jagged arrays of ids; histories cut at their newest items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.tables.files import EXACT_FLOAT
from fuxictr_multimodal.data.jagged import offsets_from_lengths, row_numbers
from fuxictr_multimodal.errors import DataError

SPLITTER = "^"
_SHOWN = 60


@dataclass(frozen=True)
class Lists:
    """Lists of all rows end to end: `values` (N,), and `offsets` (rows + 1,) int64 from 0."""

    values: pl.Series
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, series: pl.Series, *, splitter: str = SPLITTER) -> Lists:
        """Lists, or texts whose values have the splitter between them; a missing list and an empty text are empty.

        >>> lists = Lists.of(pl.Series(["a^b", None, "", "c"]))
        >>> lists.values.to_list(), lists.offsets.tolist()
        (['a', 'b', 'c'], [0, 2, 2, 2, 3])
        """
        if series.dtype == pl.Null:
            series = series.cast(pl.String)
        if series.dtype == pl.String:
            series = series.set(series == "", None).str.split(splitter)
        elif isinstance(series.dtype, pl.Array):
            series = series.arr.to_list()
        assert isinstance(series.dtype, pl.List)
        lengths = series.list.len().fill_null(0)
        # Arrow leaves out lists that are missing, where polars makes a missing value of them.
        values = pl.Series(values=series.to_arrow().flatten(), dtype=series.dtype.inner)
        return cls(values, offsets_from_lengths(lengths.to_numpy()))

    @classmethod
    def aligned(cls, series: pl.Series, history: Lists, *, splitter: str = SPLITTER) -> Lists:
        """Lists beside those of a history; in texts a gap is a missing value, and so is an empty text beside one item.

        >>> history = Lists.of(pl.Series(["a^b", "c", ""]))
        >>> lists = Lists.aligned(pl.Series(["1^", "", ""]), history)
        >>> lists.values.to_list(), lists.offsets.tolist()
        (['1', None, None], [0, 2, 3, 3])
        """
        if series.dtype not in (pl.String, pl.Null):
            return cls.of(series)
        texts = series.cast(pl.String).fill_null("")
        split = texts.str.split(splitter)  # an empty text is one empty value
        nothing = (texts == "") & pl.Series(np.diff(history.offsets) != 1)
        lists = cls.of(split.set(nothing, None) if nothing.any() else split)
        return cls(lists.values.set(lists.values == "", None), lists.offsets)

    def newest(self, keep: NDArray[np.bool_] | None, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions (n,) of the last `most` values of each row that `keep` (N,) marks, and the offsets (rows + 1,).

        >>> lists = Lists.of(pl.Series([[1, 0, 2], [3]]))
        >>> [part.tolist() for part in lists.newest(np.array([True, False, True, True]), 1)]
        [[2, 3], [0, 1, 2]]
        """
        lengths = np.diff(self.offsets)
        if keep is None:
            if not len(lengths) or lengths.max() <= most:
                return np.arange(len(self.values)), self.offsets
            positions, counts = np.arange(len(self.values)), lengths
        else:
            positions = np.flatnonzero(keep)
            counts = np.bincount(row_numbers(lengths)[positions], minlength=len(lengths))
        ends = np.cumsum(counts)
        from_end = np.repeat(ends, counts) - np.arange(len(positions))
        return positions[from_end <= most], offsets_from_lengths(np.minimum(counts, most))


def as_ids(values: pl.Series, dtype: str, *, absent: Any = None) -> tuple[pl.Series, NDArray[np.bool_]]:
    """Ids of histories or targets in their declared type, and which values are of another type, (N,).

    Args:
        values: as they are in the file.
        dtype: `int` or `str`.
        absent: an id that stands for none, such as that of padding; it becomes null, as an empty text does.
    """
    wanted = pl.Int64() if dtype == "int" else pl.String()
    found = values.dtype
    if isinstance(found, pl.Categorical | pl.Enum):
        values, found = values.cast(pl.String), pl.String()
    if found == pl.String:
        if dtype == "int":
            values = values.str.strip_chars()
        values = values.set(values == "", None)
    elif found.is_float():
        # Whole numbers with gaps arrive as floats from pandas.
        values = values.fill_nan(None)
        whole = ((values == values.floor()) & (values.abs() < EXACT_FLOAT)).fill_null(True)
        if not whole.all():
            return values.cast(wanted, strict=False), (~whole).to_numpy()
        values = values.cast(pl.Int64)
    elif not (found.is_integer() or found == pl.Null):
        return pl.Series([None] * len(values), dtype=wanted), np.ones(len(values), dtype=bool)
    cast = values.cast(wanted, strict=False)
    wrong = (cast.is_null() & values.is_not_null()).to_numpy()
    if absent is not None:
        cast = cast.set((cast == absent).fill_null(False), None)
    return cast, wrong


def check_plain_texts(series: pl.Series, *, splitter: str, where: str, first_row: int) -> None:
    """Refuse texts such as `["i1", "i2"]`, which pandas writes to csv for a list: each would be one id.

    Args:
        series: a column of histories, of any type.
        splitter: between the ids of one text.
        where: file and column, for the message.
        first_row: row of the file that the column begins with.

    Raises:
        DataError: naming the row.
    """
    if series.dtype != pl.String:
        return
    bracketed = series.str.contains(r"^\s*\[[^\[\]]*\]\s*$").fill_null(False)
    if bracketed.any():
        row = int(bracketed.arg_max() or 0)
        text = series[row] if len(series[row]) <= _SHOWN else f"{series[row][:_SHOWN]}..."
        raise DataError(
            f"{where}, row {first_row + row} (counted from 0): {text!r} is a list in brackets: write the ids with "
            f"{splitter} between them"
        )


def check_aligned(events: Mapping[str, Lists], history: Lists, name: str, *, where: str, first_row: int) -> None:
    """Refuse event columns whose lists are not as long as the history.

    Raises:
        DataError: naming the column and the row.
    """
    for column, lists in events.items():
        differs = np.flatnonzero(np.diff(lists.offsets) != np.diff(history.offsets))
        if len(differs):
            row = int(differs[0])
            raise DataError(
                f"{where}: column {column!r}, row {first_row + row}: {np.diff(lists.offsets)[row]} values for "
                f"{np.diff(history.offsets)[row]} items in {name!r}: both must be equally long"
            )
