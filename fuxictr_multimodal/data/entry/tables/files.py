"""The user's tables: csv or parquet, a file, a glob or a folder of parts, or a data frame; typed, and checked once.

Rows in messages count from 1 after the header of a csv file, and from 0 in a parquet file or a data frame.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PanicException, PolarsError

from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.data.entry.tables.file_print import FilePrint
from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.system.untrusted.archives import check_gzip
from fuxictr_multimodal.system.untrusted.parquet import check_parquet

CHUNK_ROWS = 250_000
SUFFIXES = {"csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt"), "parquet": (".parquet", ".pq"), "npz": (".npz",)}
# Whole numbers beyond are not exact in a float.
EXACT_FLOAT = 2**53
# What pyarrow and polars raise of a column of objects that do not belong together.
_OF_OBJECTS = (PolarsError, PanicException, pa.ArrowException, TypeError, ValueError, OverflowError)
# No csv file has such a name, and the reader of a frame may.
_ROW = "\0row"
_WANTED = {"int": "a whole number", "float": "a number"}


@dataclass(frozen=True)
class Part:
    """A parquet file of a table.

    Attributes:
        frame: its columns.
        rows: their number.
        name: as the user wrote it.
        print: of the file that was opened.
    """

    frame: pl.LazyFrame
    rows: int
    name: str
    print: FilePrint


@dataclass(frozen=True)
class Table:
    """One table of the user: its wanted columns, typed.

    Attributes:
        frame: the columns in the order that was asked for; nothing is read before it is collected.
        files: what is read, in order; empty for a data frame.
        name: for messages: the path as the user wrote it, or what the frame is.
        rows: number of rows.
        parts: the parquet files; empty for tables that can only be read from their beginning.
    """

    frame: pl.LazyFrame
    files: tuple[Path, ...]
    name: str
    rows: int
    parts: tuple[Part, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.frame.collect_schema().names()

    def chunks(
        self, columns: Collection[str] | None = None, *, rows: int = CHUNK_ROWS, task: str = ""
    ) -> Iterator[pl.DataFrame]:
        """The rows in order, in pieces of at most `rows`; memory holds a few pieces.

        Args:
            columns: to read, all by default.
            rows: of a piece.
            task: name of the phase for the progress; "" shows none.

        Raises:
            DataError: the file is damaged.
        """
        frame = self.frame if columns is None else self.frame.select(list(columns))
        with Line(self.rows, task, unit="row", shown=bool(task)) as line, reading(self.name):
            for chunk in frame.collect_batches(chunk_size=rows, maintain_order=True):
                if chunk.height:
                    yield chunk
                    line.update(chunk.height)

    def some(self, first: int, rows: int) -> Table:
        """The rows `first` to `first + rows - 1` of a table that has `parts`; the others are not read.

        polars would read all earlier parts of several.

        Raises:
            DataError: a file is another one than when the table was opened, perhaps on another machine.
        """
        kinds, pieces = self.frame.collect_schema(), []
        at = 0
        for part in self.parts:
            start, stop = max(first - at, 0), min(first + rows - at, part.rows)
            if start < stop:
                part.print.check(part.name)
                pieces.append(part.frame.slice(start, stop - start).cast(kinds))
            at += part.rows
        whole = pl.concat(pieces) if pieces else self.frame.clear()
        return Table(whole, self.files, self.name, rows)

    def read(self, columns: Collection[str] | None = None) -> pl.DataFrame:
        """All rows at once.

        Raises:
            DataError: the file is damaged.
        """
        frame = self.frame if columns is None else self.frame.select(list(columns))
        with reading(self.name):
            return frame.collect(engine="streaming")


def scan(
    source: Any,
    *,
    dtypes: Mapping[str, str],
    where: str,
    data_format: str | None = None,
    optional: Collection[str] = (),
    sep: str = ",",
) -> Table:
    """Open a table, check that its columns are there and have values of their types, and type them.

    Text of a csv file is read as UTF-8, then typed: an empty field is missing, spaces around a number do not count. A
    NaN counts as missing. A parquet column of another type than declared is converted where no value is lost.

    Args:
        source: a file, a glob, a folder of parts, or a data frame of polars or pandas.
        dtypes: the wanted columns by name: `int`, `float`, `str`, `list` (lists, or text that the caller splits) or
            `any` (as it is in the file: text in a csv file).
        where: what the table is, for messages: `dataset 'Shop': train_data`.
        data_format: `csv` or `parquet`; by default what the suffix says.
        optional: columns that may be missing.
        sep: separator of csv files.

    Raises:
        DataError: no such file, a missing column (nearest named), parts that differ, or a value of another type, named
            with file, column and row.
    """
    frame = as_frame(source, where=where)
    if frame is not None:
        present = _present(frame.collect_schema(), dtypes, optional, where)
        typed, _ = _typed(frame, present, dtypes, where, first_row=0)
        return Table(typed, (), where, int(frame.select(pl.len()).collect().item()))
    paths = files_of(source, data_format=data_format, where=where)
    # A file says by its name what it is; the entry's format is for names that do not.
    data_format = _ending(paths[0]) or data_format or format_of(paths[0], where)
    parts: list[tuple[pl.LazyFrame, int]] = []
    first: dict[str, pl.DataType] = {}
    for path in paths:
        raw, rows = _open(path, data_format, sep)
        schema = _schema(raw, path)
        present = _present(schema, dtypes, optional, str(path))
        if parts and present.keys() != first.keys():
            raise DataError(
                f"{path}: column {min(present.keys() ^ first.keys())!r} is in some of the parts of {source} only"
            )
        typed, counted = _typed(raw, present, dtypes, str(path), first_row=1 if data_format == "csv" else 0, rows=rows)
        for name, kind in typed.collect_schema().items():
            if name in first and not _alike(first[name], kind):
                raise DataError(
                    f"{path}: column {name!r} holds {schema[name]}, but {first[name]} in {paths[0].name}: write all "
                    "parts with the same types"
                )
            first[name] = kind
        parts.append((typed, counted))
    frames = [frame for frame, _ in parts]
    whole = pl.concat(frames, how="vertical_relaxed") if len(parts) > 1 else frames[0]
    anywhere: tuple[Part, ...] = ()
    if data_format == "parquet":
        anywhere = tuple(
            Part(frame, rows, str(path), FilePrint.of(path)) for path, (frame, rows) in zip(paths, parts, strict=True)
        )
    return Table(whole, tuple(paths), str(source), sum(rows for _, rows in parts), anywhere)


def as_frame(source: Any, *, where: str = "the data frame") -> pl.LazyFrame | None:
    """A data frame of polars or pandas as a lazy one; None for anything else.

    Raises:
        DataError: a column of objects of several types, named.
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        return source.lazy()
    if type(source).__module__.split(".")[0] != "pandas" or not hasattr(source, "columns"):
        return None
    try:
        return pl.from_pandas(source).lazy()
    except _OF_OBJECTS as error:
        for name in source.columns:
            try:
                pl.from_pandas(source[[name]])
            except _OF_OBJECTS as wrong:
                raise DataError(
                    f"{where}: column {name!r} holds objects that are no numbers, texts or lists of one type "
                    f"({first_line(wrong)}): convert it"
                ) from None
        raise DataError(f"{where} cannot be read as a table: {first_line(error)}") from None


def files_of(source: Any, *, data_format: str | None, where: str) -> list[Path]:
    """The file, or the parts of a folder or a glob in the order of their names.

    Raises:
        DataError: there is none.
    """
    path = user_path(source)
    endings = SUFFIXES[data_format] if data_format else tuple(end for ends in SUFFIXES.values() for end in ends)
    if path.is_file():
        return [path]
    # FuxiCTR names a file or a folder of parts without its ending.
    with_ending = path.with_name(f"{path.name}{endings[0]}") if path.name else path
    if not path.exists() and data_format and with_ending.is_file():
        return [with_ending]
    if path.is_dir():
        seen = [file for file in sorted(path.iterdir()) if not file.name.startswith((".", "_"))]
        folders = [folder.name for folder in seen if folder.is_dir() and "=" in folder.name]
        if folders:
            raise DataError(
                f"{where}: {path} is partitioned into folders ({folders[0]}): write its parts as one folder"
            )
        parts = [file for file in seen if file.is_file() and file.name.lower().endswith(endings)]
        if not parts:
            raise DataError(f"{where}: the folder {path} has no files that end with {', '.join(endings)}")
        kinds = {format_of(part, where) for part in parts}
        if len(kinds) > 1:
            raise DataError(f"{where}: the folder {path} has files of several formats: set data_format")
        return parts
    parts = [part for part in sorted(path.parent.glob(path.name)) if part.is_file()] if path.name else []
    if not parts:
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near) if near and len(near) < 30 else ""
        missing = "" if path.parent.is_dir() else f" (nor does the folder {path.parent})"
        raise DataError(f"{where}: {path} does not exist{missing}. {hint}".rstrip())
    return parts


def format_of(path: Path, where: str) -> str:
    """`csv`, `parquet` or `npz` by the ending of a file's name.

    Raises:
        DataError: another ending.
    """
    found = _ending(path)
    if found is None:
        raise DataError(f"{where}: the format of {path} is not clear from its name: set data_format to csv or parquet")
    return found


def _ending(path: Path) -> str | None:
    return next((kind for kind, ends in SUFFIXES.items() if path.name.lower().endswith(ends)), None)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what polars and pyarrow say of a damaged file into one line that names it."""
    try:
        yield
    except (PolarsError, PanicException, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name} cannot be read: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What an error says first, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _open(path: Path, data_format: str, sep: str) -> tuple[pl.LazyFrame, int | None]:
    """The file with its rows where they are known; csv as text."""
    if data_format == "csv":
        sep = "\t" if sep == "," and ".tsv" in path.name.lower() else sep
        check_gzip(path)
        return pl.scan_csv(path, separator=sep, infer_schema=False, glob=False), None
    with reading(str(path)):
        check_parquet(path)
        rows = pq.read_metadata(path).num_rows
    # Other processes, which may work in another folder, read the frame too.
    return pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False), rows


def _schema(frame: pl.LazyFrame, path: Path) -> pl.Schema:
    with reading(str(path)):
        return frame.collect_schema()


def _present(schema: pl.Schema, dtypes: Mapping[str, str], optional: Collection[str], where: str) -> pl.Schema:
    """The wanted columns that are there."""
    for name in dtypes:
        if name not in schema and name not in optional:
            raise DataError(f"{where}: column {name!r} is missing. {did_you_mean(name, schema.names())}")
        if f"{name}_duplicated_0" in schema:
            raise DataError(f"{where}: column {name!r} occurs more than once: remove or rename one")
    return pl.Schema({name: schema[name] for name in dtypes if name in schema})


def _typed(
    frame: pl.LazyFrame,
    present: pl.Schema,
    dtypes: Mapping[str, str],
    where: str,
    *,
    first_row: int,
    rows: int | None = None,
) -> tuple[pl.LazyFrame, int]:
    """The columns in their types and the number of rows, after one pass over what may not fit."""
    columns, checks = [], {}
    for name, found in present.items():
        values, bad = _cast(pl.col(name), found, dtypes[name], f"{where}: column {name!r}")
        columns.append(values.alias(name))
        if bad is not None:
            checks[name] = bad
    if checks or rows is None:
        with reading(where):
            # Of a csv file, polars refuses a row with too many fields only where it reads all columns.
            whole = [pl.all().null_count().name.prefix("nulls ")] if rows is None else []
            counts = frame.select(pl.len(), *whole, **{f"bad {name}": bad.sum() for name, bad in checks.items()})
            found_counts = counts.collect(engine="streaming").row(0, named=True)
        rows = found_counts["len"]
        for name, bad in checks.items():
            if found_counts[f"bad {name}"]:
                row, value = frame.select(pl.col(name)).with_row_index(_ROW).filter(bad).first().collect().row(0)
                raise DataError(
                    f"{where}: column {name!r}, row {row + first_row}: {value!r} is not {_WANTED[dtypes[name]]}"
                )
    return frame.select(columns), rows


def _alike(one: Any, other: Any) -> bool:
    """Whether columns of two parts can be one column: widths of numbers do not matter, nor a part without values."""
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return _alike(one.inner, other.inner)
    if pl.Null in (one, other) or one == other:
        return True
    return (one.is_integer() and other.is_integer()) or (one.is_float() and other.is_float())


def _cast(column: pl.Expr, found: pl.DataType, dtype: str, where: str) -> tuple[pl.Expr, pl.Expr | None]:
    """A column in its declared type, and what tells the values that do not fit (None where all do)."""
    if isinstance(found, pl.Categorical | pl.Enum):
        column, found = column.cast(pl.String), pl.String()
    nested = isinstance(found, pl.List | pl.Array)
    if dtype == "any":
        return column, None
    if dtype == "list":
        if not nested and found not in (pl.String, pl.Null):
            raise DataError(f"{where} holds {found}, not lists or text")
        if isinstance(found, pl.List | pl.Array) and found.inner.is_nested():
            raise DataError(f"{where} holds {found}, but a row must be one list of numbers or texts")
        return column.arr.to_list() if isinstance(found, pl.Array) else column, None
    if nested or found in (pl.Binary, pl.Object) or isinstance(found, pl.Struct):
        raise DataError(f"{where} is declared as {dtype}, but holds {found}")
    if dtype == "str":
        if found.is_float():
            # Whole numbers with gaps arrive as floats from pandas.
            whole = (column == column.floor()) & (column.abs() < EXACT_FLOAT)
            text = pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String))
            return text.otherwise(column.fill_nan(None).cast(pl.String)), None
        return column.cast(pl.String), None
    if found.is_temporal():
        raise DataError(f"{where} is declared as {dtype}, but holds {found}")
    if found == pl.String:
        trimmed = column.str.strip_chars()
        column = pl.when(trimmed != "").then(trimmed).otherwise(pl.lit(None, dtype=pl.String))
    numbers = column.cast(pl.Float64, strict=False)
    if dtype == "float":
        return numbers.fill_nan(None), column.is_not_null() & numbers.is_null() if found == pl.String else None
    whole = (numbers == numbers.floor()) & (numbers.abs() < EXACT_FLOAT)
    from_float = pl.when(whole).then(numbers).cast(pl.Int64, strict=False)
    if found.is_float() or found.is_decimal():
        return from_float, numbers.fill_nan(None).is_not_null() & from_float.is_null()
    values = column.cast(pl.Int64, strict=False)
    if found == pl.String:
        # pandas writes whole numbers with gaps as 3.0.
        values = pl.coalesce(values, from_float)
    lossless = (found.is_integer() and found not in (pl.UInt64, pl.Int128)) or found in (pl.Boolean, pl.Null)
    return values, None if lossless else column.is_not_null() & values.is_null()
