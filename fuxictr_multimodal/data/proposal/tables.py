"""Look at the user's files: rows, columns and a bounded sample of their values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from fuxictr_multimodal.data.entry.tables.files import files_of, format_of, reading
from fuxictr_multimodal.data.proposal.facts import Facts, look
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.archives import check_gzip
from fuxictr_multimodal.system.untrusted.parquet import check_parquet

# A file of up to so many bytes and rows is read whole, column by column; of a larger one so many rows are.
WHOLE_BYTES, WHOLE_ROWS = 256 << 20, 3_000_000
SAMPLE_ROWS = 200_000
LIST_ROWS = 4_000
SLICES = 20
SEPARATORS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Look:
    """One file of the user, or a glob or folder of its parts.

    Attributes:
        path: as the user wrote it.
        data_format: `csv` or `parquet`.
        rows: number of rows; estimated where `whole` is not set and the format is csv.
        whole: whether all rows were examined, of columns without lists.
        columns: by name, in the order of the file.
        sep: separator of a csv file.
    """

    path: str
    data_format: str
    rows: int
    whole: bool
    columns: dict[str, Facts]
    sep: str = ","

    @property
    def name(self) -> str:
        """Name for messages and comments."""
        return Path(self.path).name or self.path

    @property
    def seen(self) -> str:
        """Number of rows, and how many of them were examined."""
        if self.whole:
            return f"{self.rows:,} rows"
        examined = max((facts.examined for facts in self.columns.values()), default=0)
        return f"{'about ' if self.data_format == 'csv' else ''}{self.rows:,} rows, of which {examined:,} were examined"


def look_at(path: str) -> Look:
    """Look at a csv or parquet file, a folder of its parts or a glob.

    Raises:
        DataError: there is no such file, it is damaged, of another format, or empty.
    """
    files = files_of(path, data_format=None, where="fxmm init")
    data_format = format_of(files[0], "fxmm init")
    if data_format not in ("csv", "parquet"):
        raise DataError(f"fxmm init reads csv and parquet files, not {files[0]}")
    with reading(path):
        found = _parquet(path, files) if data_format == "parquet" else _csv(path, files)
    if not found.rows:
        raise DataError(f"{path} has no rows")
    return found


def _parquet(path: str, files: list[Path]) -> Look:
    counts = []
    for file in files:
        check_parquet(file)
        counts.append(pq.read_metadata(file).num_rows)
    rows = sum(counts)
    frame = pl.concat([pl.scan_parquet(file, glob=False, hive_partitioning=False) for file in files])
    schema = frame.collect_schema()
    whole = sum(file.stat().st_size for file in files) <= WHOLE_BYTES and rows <= WHOLE_ROWS
    columns = {}
    for name, dtype in schema.items():
        long = isinstance(dtype, pl.List | pl.Array)
        wanted = rows if whole and not long else min(rows, LIST_ROWS if long else SAMPLE_ROWS)
        columns[name] = look(_spread(frame.select(name), rows, wanted))
    return Look(path, "parquet", rows, whole, columns)


def _spread(frame: pl.LazyFrame, rows: int, wanted: int) -> pl.Series:
    """Some rows of one column from all over the table: a log is often ordered by time or by user."""
    if wanted >= rows:
        return frame.collect(engine="streaming").to_series()
    size = -(-wanted // SLICES)
    starts = [index * (rows - size) // (SLICES - 1) for index in range(SLICES)]
    return pl.concat([frame.slice(start, size).collect() for start in starts]).to_series()


def _csv(path: str, files: list[Path]) -> Look:
    for file in files:
        check_gzip(file)
    sep = _separator(files[0])
    frame = pl.concat([pl.scan_csv(file, separator=sep, infer_schema=False) for file in files])
    size = sum(file.stat().st_size for file in files)
    packed = any(file.suffix == ".gz" for file in files)
    whole = size <= (WHOLE_BYTES // 8 if packed else WHOLE_BYTES)
    sample = (frame if whole else frame.head(SAMPLE_ROWS)).collect(engine="streaming")
    rows = sample.height
    if all(re.match(r"[-+.]?\d|_duplicated|$", name) for name in sample.columns):
        raise DataError(
            f"{path} has no header: its first line must name the columns, found {', '.join(sample.columns[:5])}"
        )
    if not whole:
        # Bytes of the examined rows, each with its separators.
        bytes_examined = sum(int(column.str.len_bytes().sum() or 0) + rows for column in sample.iter_columns())
        rows = max(rows, round(rows * size * (4 if packed else 1) / max(bytes_examined, 1)))
    columns = {column.name: look(column, text_file=True) for column in sample.iter_columns()}
    return Look(path, "csv", rows, whole, columns, sep)


def _separator(file: Path) -> str:
    """The separator that cuts the first line into most columns."""
    header = pl.scan_csv(file, has_header=False, infer_schema=False, separator="\x1f", n_rows=1, quote_char=None)
    line = str(header.collect().row(0)[0])
    best = max(SEPARATORS, key=line.count)
    return best if line.count(best) else ","
