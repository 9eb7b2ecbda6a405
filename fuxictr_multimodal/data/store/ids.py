"""The user's own ids beside their codes: one parquet file a column, in which row i is the id that code i stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.parquet import check_parquet
from fuxictr_multimodal.system.writing import writing

IDS_FOLDER = "ids"
UNKNOWN = -1
ID = "id"


def ids_name(column: str) -> str:
    """Name of the file of a column's ids, relative to the dataset's folder."""
    return f"{IDS_FOLDER}/{column}.parquet"


@dataclass(frozen=True)
class IdMap:
    """Ids of any type and their codes: whole numbers from 0, or from 1 where code 0 is padding.

    Attributes:
        ids: the id of each code, (codes,), of the user's own type. Ids are distinct; only code 0, the padding, may be
            null.

    >>> shops = IdMap.of(pl.Series(["north", "south", None, "north"]), padding=True)
    >>> shops.codes(pl.Series(["south", "west", "north"])).tolist()
    [2, -1, 1]
    >>> shops.originals(np.array([2, 0])).to_list()
    ['south', None]
    """

    ids: pl.Series

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _plain(self.ids).alias(ID))

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and self.ids.dtype == other.ids.dtype and self.ids.equals(other.ids)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, values: pl.Series, *, padding: bool = False) -> IdMap:
        """Number the distinct values in the order in which they come first; missing values have no code.

        Args:
            values: ids with repetitions: text, whole numbers, bytes, dates.
            padding: keep code 0 for padding, as the item column needs; ids then begin at 1.

        Raises:
            DataError: the values are of a type that is no id, such as numbers with fractions or lists.
        """
        distinct = _plain(values).drop_nulls().unique(maintain_order=True)
        return cls(pl.concat([pl.Series([None], dtype=distinct.dtype), distinct]) if padding else distinct)

    def extended(self, values: pl.Series) -> IdMap:
        """The same codes, then those of ids that are new, in the order in which they come first."""
        values = self._as_ids(values, strict=True)
        fresh = IdMap.of(values.filter(pl.Series(self.codes(values) == UNKNOWN))).ids
        return IdMap(pl.concat([self.ids, fresh])) if len(fresh) else self

    def codes(self, values: pl.Series) -> NDArray[np.int64]:
        """The code of each id, (rows,); -1 for an id that is missing or not known.

        Whole numbers of any width, texts of them, and categories of polars find the same id.
        """
        if not len(self.ids):
            return np.full(len(values), UNKNOWN, dtype=np.int64)
        wanted = self._as_ids(values, strict=False).to_frame(ID)
        known = self.ids.to_frame().with_row_index("code")
        # Nulls never join, so that padding is found by no id.
        found = wanted.join(known, on=ID, how="left", maintain_order="left")["code"]
        return found.cast(pl.Int64).fill_null(UNKNOWN).to_numpy()

    def originals(self, codes: np.ndarray) -> pl.Series:
        """The id of each code, (rows,); null for padding and for what is not a code."""
        codes = np.asarray(codes, dtype=np.int64)
        there = (codes >= 0) & (codes < len(self.ids))
        index = pl.Series(codes).set(pl.Series(~there), None)
        return self.ids.gather(index) if len(self.ids) else pl.Series(ID, [None] * len(codes), dtype=self.ids.dtype)

    def write(self, path: Path) -> None:
        """Write the ids as a parquet file; the folder is made."""
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            self.ids.to_frame().write_parquet(path, compression="zstd", statistics=False)

    @classmethod
    def read(cls, path: Path) -> IdMap:
        """Read what `write` wrote.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            check_parquet(path, whole=[ID])
            # Without memory mapping, so that the dataset can be replaced while it is in use; on a damaged file the
            # reader of polars may end the process.
            return cls(pl.read_parquet(path, columns=[ID], use_pyarrow=True, memory_map=False)[ID])
        except FileNotFoundError:
            raise DataError(f"{path} is missing: {BUILD_AGAIN}") from None
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"{path} is damaged ({first}): {BUILD_AGAIN}") from None

    def _as_ids(self, values: pl.Series, *, strict: bool) -> pl.Series:
        """The values in the type of the ids; what does not fit is null, or an error where `strict`."""
        values, wanted = _plain(values, fractions=not strict), self.ids.dtype
        if values.dtype == wanted or values.dtype == pl.Null:
            return values.cast(wanted)
        number, text = wanted.is_integer(), wanted == pl.String
        if number and values.dtype.is_float():
            # Integers with gaps arrive as floats from pandas.
            values = values.set((values != values.floor()) | values.is_nan() | values.is_infinite(), None)
        elif not (
            (number and (values.dtype.is_integer() or values.dtype == pl.String))
            or (text and values.dtype.is_integer())
        ):
            raise DataError(f"ids are {wanted}, but these values are {values.dtype}: give ids of the same type")
        cast = values.cast(wanted, strict=False)
        lost = cast.is_null() & values.is_not_null()
        if strict and lost.any():
            raise DataError(f"id {values.filter(lost)[0]!r} does not fit among ids of type {wanted}")
        if number and values.dtype == pl.String:
            # "007" is not the number 7.
            cast = cast.set((cast.cast(pl.String) != values).fill_null(True), None)
        return cast


def _plain(values: pl.Series, *, fractions: bool = False) -> pl.Series:
    """Categories as text; a type that is no id is refused."""
    dtype = values.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    fits = dtype.is_integer() or dtype.is_temporal() or dtype in (pl.String, pl.Binary, pl.Boolean, pl.Null)
    if not fits and not (fractions and dtype.is_float()):
        raise DataError(f"values of type {dtype} cannot be ids: ids are text, whole numbers or bytes")
    return values


def as_texts(values: Any) -> pl.Series | None:
    """A column of texts, some of them missing, as a series; None for a column of anything else."""
    if isinstance(values, pl.Series):
        series = values
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "OUT":
            return None
        try:
            series = pl.Series(array.tolist(), dtype=pl.String, strict=True)
        except (TypeError, pl.exceptions.PolarsError):
            return None
    if isinstance(series.dtype, pl.Categorical | pl.Enum | pl.Null):
        series = series.cast(pl.String)
    return series if series.dtype == pl.String else None
