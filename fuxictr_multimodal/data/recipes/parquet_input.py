"""Read raw parquet files in batches; errors name file, column and row.

A file may be a folder of parts, as Spark writes it. Memory is one batch of decoded columns; files are read as
streams, so a file of one row group costs no more. Rows in messages count from 0 within the file, or within the part
that is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fuxictr_multimodal.data.jagged import offsets_from_lengths, row_at
from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.system.untrusted.parquet import check_parquet

BATCH_ROWS = 65_536
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Scalars:
    """A column with one value a row: `int`, `float` (integers are fine) or `str`."""

    kind: type


@dataclass(frozen=True)
class Arrays:
    """A column with `width` numbers in every row: `int` or `float`."""

    kind: type
    width: int


@dataclass(frozen=True)
class Lists:
    """A column with any number of integers a row."""


@dataclass(frozen=True)
class Anything:
    """A column of any type, missing values and all, that is handed on as an arrow array without a dictionary."""


ColumnForm = Scalars | Arrays | Lists | Anything
# Values (N,) of all rows end to end, and offsets (rows + 1,) from 0.
Ragged = tuple[np.ndarray, np.ndarray]


class ParquetInput:
    """One raw parquet file, or the parts of one, with the columns to read.

    Args:
        path: the file, a folder of parts or a glob of them; see `parquet_files`.
        columns: form of each wanted column; others in the file are not read.

    Raises:
        DataError: a file is missing, truncated or not parquet, or a column is missing, there twice or of another type.
    """

    def __init__(self, path: Path, columns: Mapping[str, ColumnForm]) -> None:
        self.path = path
        self._columns = dict(columns)
        self._parts: list[tuple[Path, int]] = []
        self.names: list[str] = []  # of all parts
        first: pa.Schema | None = None
        for part in parquet_files(path):
            schema, rows = _schema(part)
            first = first or schema
            for name, form in self._columns.items():
                _check_column(part, name, schema, form, first)
            self._parts.append((part, rows))
            self.names += [name for name in schema.names if name not in self.names]
        self.rows = sum(rows for _, rows in self._parts)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[int, dict[str, Any]]]:
        """The first row of each batch, and its columns by name, in the file's order.

        Scalars are arrays (rows,), arrays are (rows, width), lists a pair of values and offsets, anything an arrow
        array; dtypes are those of the file.

        Raises:
            DataError: a missing value, a row of another width, or a damaged page.
        """
        before = 0
        for part, expected in self._parts:
            first = 0
            # A small buffer instead of whole column chunks: memory does not depend on the row groups.
            with _reading(part), pq.ParquetFile(part, buffer_size=READ_BYTES, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=rows, columns=list(self._columns)):
                    decoded = {
                        name: _decode(part, name, form, batch.column(name), first)
                        for name, form in self._columns.items()
                    }
                    yield before + first, decoded
                    first += batch.num_rows
            if first != expected:
                raise DataError(f"{part}: {first:,} rows could be read of {expected:,}: the file is damaged")
            before += expected

    def read(self) -> dict[str, np.ndarray]:
        """All rows of scalar and array columns at once; for tables that are known to be small."""
        batches = [columns for _, columns in self.batches()]
        if not batches:
            raise DataError(f"{self.path}: the file has no rows")
        return {name: np.concatenate([columns[name] for columns in batches]) for name in self._columns}


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or its parts in the order of their names.

    Args:
        path: a file; a folder with the files `*.parquet` (Spark's `part-00000-....snappy.parquet`), of which hidden
            ones and those that begin with `_` are left out; or files of a folder by a pattern, `rows/part-*.parquet`.

    Raises:
        DataError: there is no such file, or the folder has no part.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        seen = [file for file in sorted(path.iterdir()) if not file.name.startswith((".", "_"))]
        parts = [file for file in seen if file.is_file() and file.suffix.lower() == ".parquet"]
        folders = [folder.name for folder in seen if folder.is_dir() and "=" in folder.name]
        if folders:
            raise DataError(
                f"{path} is partitioned into folders ({folders[0]}): write it without partitions, as *.parquet files "
                "in one folder"
            )
        if not parts:
            raise DataError(f"{path} is a folder without *.parquet files")
        return parts
    parts = [part for part in sorted(path.parent.glob(path.name)) if part.is_file()]
    if not parts:
        raise DataError(f"{path} does not exist")
    return parts


def _decode(path: Path, name: str, form: ColumnForm, column: pa.Array, first: int) -> np.ndarray | Ragged | pa.Array:
    if isinstance(form, Anything):
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if column.null_count:
        row = first + int(np.argmax(np.asarray(column.is_null())))
        remedy = ": an empty list stands for none" if isinstance(form, Lists) else ""
        raise DataError(f"{path}: row {row}, column {name!r}: the value is missing{remedy}")
    if isinstance(form, Scalars):
        return _plain(column)
    lengths = np.asarray(pc.list_value_length(column))
    values = column.flatten()
    offsets = offsets_from_lengths(lengths)
    if values.null_count:
        at = int(np.argmax(np.asarray(values.is_null())))
        row = first + row_at(offsets, at)
        raise DataError(f"{path}: row {row}, column {name!r}: a value is missing")
    if isinstance(form, Lists):
        # Lists that are all empty may have any type: their writer had no value to tell it from.
        if len(values) and not _is(values.type, int):
            raise DataError(f"{path}: column {name!r} holds {column.type}, expected lists of int")
        return _plain(values) if len(values) else np.empty(0, np.int64), offsets
    if (lengths != form.width).any():
        row = int(np.argmax(lengths != form.width))
        raise DataError(
            f"{path}: row {first + row}, column {name!r}: there are {lengths[row]} values, expected {form.width}"
        )
    return _plain(values).reshape(len(column), form.width)


def _plain(values: pa.Array) -> np.ndarray:
    """Values without nulls as numpy has them."""
    return np.asarray(values.dictionary_decode() if pa.types.is_dictionary(values.type) else values)


def jagged_from_left_padded(padded: np.ndarray, *, where: str, name: str, first_row: int = 0) -> Ragged:
    """Histories without their padding, from rows that are padded with 0 on the left.

    Args:
        padded: item ids (R, T), newest last.
        where: the file, for a message.
        name: the column, for a message.
        first_row: row of the file that `padded` begins with.

    Returns:
        Values (N,) and offsets (R + 1,) int64 from 0.

    Raises:
        DataError: a row has a 0 after an item: it is padded on the other side, or has a hole.

    >>> jagged_from_left_padded(np.array([[0, 0, 7], [0, 0, 0], [5, 6, 7]]), where="x", name="item_seq")
    (array([7, 5, 6, 7]), array([0, 1, 1, 4]))
    """
    real = padded != 0
    wrong = real[:, :-1] & ~real[:, 1:]
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        slot = int(np.argmax(wrong[row])) + 1
        raise DataError(
            f"{where}: row {first_row + row}, column {name!r}: slot {slot} is 0 after an item: histories are padded "
            "with 0 on the left, the newest item comes last"
        )
    return padded[real], offsets_from_lengths(np.count_nonzero(real, axis=1))


def parquet_rows(path: Path) -> int:
    """Rows of a file or of all its parts, from the footers.

    Raises:
        DataError: a file is missing, truncated or not parquet.
    """
    return sum(_schema(part)[1] for part in parquet_files(path))


def _schema(path: Path) -> tuple[pa.Schema, int]:
    with _reading(path):
        check_parquet(path)
    with _reading(path), pq.ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: damaged, truncated or not a parquet file ({reason}): download it again") from None


def _check_column(path: Path, name: str, schema: pa.Schema, form: ColumnForm, first: pa.Schema) -> None:
    """Refuse a column that is missing, there twice, of another type than wanted or than in the first part."""
    count = schema.names.count(name)
    if not count:
        raise DataError(f"{path}: column {name!r} is missing. {did_you_mean(name, schema.names)}")
    if count > 1:
        raise DataError(f"{path}: column {name!r} occurs {count} times: rename or drop all but one")
    found = schema.field(name).type
    if isinstance(form, Anything):
        wanted = first.field(name).type
        kinds = {_kind(found), _kind(wanted)} - {"null"}
        if len(kinds) > 1:
            raise DataError(f"{path}: column {name!r} holds {found}, but {wanted} in the parts before")
        return
    if pa.types.is_null(found):
        return  # without a value there is no wrong one; a missing one is named with its row
    if isinstance(form, Scalars):
        fits = _is(found, form.kind) or (form.kind is float and _is(found, int))
        wanted = form.kind.__name__
    else:
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        fits, wanted = lists, "lists of int"
        if isinstance(form, Arrays):
            wanted = f"arrays of {form.width} {form.kind.__name__}"
            fits = lists and (_is(found.value_type, form.kind) or pa.types.is_null(found.value_type))
            fits = fits and (not pa.types.is_fixed_size_list(found) or found.list_size == form.width)
    if not fits:
        raise DataError(f"{path}: column {name!r} holds {found}, expected {wanted}")


def _is(found: pa.DataType, kind: type) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if kind is int:
        return pa.types.is_integer(found)
    if kind is float:
        return pa.types.is_floating(found)
    return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)


def _kind(found: pa.DataType) -> str:
    """The type without what does not matter: its width, and whether a dictionary holds its values."""
    return next((kind.__name__ for kind in (int, float, str) if _is(found, kind)), str(found))
