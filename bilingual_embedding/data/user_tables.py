"""A user's own jsonl, csv or parquet file to checked columns: texts, pairs, triplets, scored pairs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bilingual_embedding.data.text_files import kind, read_bytes, read_text, without_half_characters
from fuxictr_multimodal.errors import DataError

KINDS = "`text`, or `left` and `right` with `score` (0 to 1) or `negative` (a text or a list) if wanted"


def read_table(file: Path) -> dict[str, list[Any]]:
    """The known columns of the file, checked.

    Returns:
        `text`, or `left`, `right` and one of `score`, `negative` (then lists of equal length) where the file has it.

    Raises:
        DataError: naming the file, the column and the row.
    """
    frame = read_frame(file)
    names = set(frame.columns)
    if not ({"left", "right"} <= names or "text" in names):
        raise DataError(f"{file} has columns {', '.join(frame.columns)}; expected {KINDS}")
    wanted = ["left", "right"] if {"left", "right"} <= names else ["text"]
    columns: dict[str, list[Any]] = {name: _texts(file, frame[name]) for name in wanted}
    if wanted == ["text"]:
        return columns
    if "score" in names:
        score = frame["score"]
        score = (score.str.strip_chars() if score.dtype == pl.String else score).cast(pl.Float32, strict=False)
        bad = (score.is_null() | ~score.is_between(0, 1)).arg_true()
        if len(bad):
            raise DataError(f"{file}, row {bad[0] + 1}: score {frame['score'][bad[0]]!r} is not a number from 0 to 1")
        columns["score"] = score.to_list()
    elif "negative" in names:
        negative = frame["negative"]
        lists = negative.to_list() if negative.dtype == pl.List else [[text] for text in negative.to_list()]
        for number, row in enumerate(lists, start=1):
            if row is None or len(row) != len(lists[0]) or not all(isinstance(t, str) and t.strip() for t in row):
                raise DataError(
                    f"{file}, row {number}: negative {row!r} must be {len(lists[0] or [])} texts, as in the first row"
                )
        columns["negative"] = [[text.strip() for text in row] for row in lists]
    return columns


def read_frame(file: Path, *, text_columns: Sequence[str] = ()) -> pl.DataFrame:
    """A jsonl, csv, tsv or parquet file, plain or gzip, unchanged.

    Args:
        file: the last suffix before `.gz` says what it holds.
        text_columns: those of them that the file has come as text, letter by letter as they stand there, and so do all
            columns of csv and tsv: nothing is guessed to be a number or a date.

    Raises:
        DataError: a missing or unreadable file, another suffix, a text column of lists or other structures.
    """
    if kind(file) not in READERS:
        raise DataError(f"{file}: expected a file named {', '.join(READERS)}, or one of them with .gz after it")
    try:
        frame = READERS[kind(file)](file, text_columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    present = [name for name in dict.fromkeys(text_columns) if name in frame.columns]
    for name in present:
        if frame[name].dtype.is_nested() or frame[name].dtype in (pl.Binary, pl.Object):
            raise DataError(f"{file}: column {name!r} holds {frame[name].dtype}, expected text")
    return frame.with_columns(pl.col(present).cast(pl.String))


def _parquet(file: Path, text_columns: Sequence[str]) -> pl.DataFrame:
    content = io.BytesIO(read_bytes(file))
    try:
        return pl.read_parquet(content, use_pyarrow=True)  # on a damaged file the reader of polars may end the process
    except (Exception, pl.exceptions.PanicException) as error:  # of many kinds
        raise DataError(f"{file} cannot be read as parquet: {error}") from None


def _separated(file: Path, separator: str) -> pl.DataFrame:
    text = read_text(file)
    if not text.strip():
        raise DataError(f"{file} is empty")
    try:
        header = next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{file}: the first row cannot be read as column names: {error}") from None
    for name in filter(None, header):
        if header.count(name) > 1:
            raise DataError(f"{file}: column {name!r} occurs {header.count(name)} times; remove or rename one")
    try:
        frame = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
    except pl.exceptions.ComputeError:
        _check_widths(file, text, separator)
        raise
    filled = frame.select(pl.any_horizontal(pl.all().str.strip_chars() != "").fill_null(False)).to_series()
    return frame.head(len(filled) - (filled.reverse().arg_max() or 0) if filled.any() else 0)


def _check_widths(file: Path, text: str, separator: str) -> None:
    """Name the first row with more fields than there are columns, which a separator inside a text makes."""
    with contextlib.suppress(csv.Error):  # the reader of polars has said what is wrong
        rows = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=separator)
        width = len(next(rows))
        for number, row in enumerate(rows, start=1):
            if len(row) > width:
                raise DataError(
                    f"{file}, row {number}: {len(row)} fields for {width} columns; put quotes around texts that hold "
                    f"{separator!r}"
                )


def _jsonl(file: Path, text_columns: Sequence[str]) -> pl.DataFrame:
    text = read_text(file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{file} is empty")
    verbatim = _verbatim(file, lines, text_columns) if text_columns else {}
    try:
        # All rows are looked at: a column may begin late, or hold numbers first and then texts.
        frame = pl.read_ndjson(
            text.encode(), infer_schema_length=None, schema_overrides=dict.fromkeys(verbatim, pl.String)
        )
    except pl.exceptions.PolarsError:
        _verbatim(file, lines, ())
        raise
    return frame.with_columns(pl.Series(name, column, dtype=pl.String) for name, column in verbatim.items())


def _verbatim(file: Path, lines: Sequence[tuple[int, str]], names: Sequence[str]) -> dict[str, list[str | None]]:
    """Values of the existing columns as written, numbers too; an error names a line that is not an object."""
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    present: set[str] = set()
    for number, line in lines:
        try:
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=_no_value)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: expected an object {{...}}, found {line.strip()[:60]}")
        present.update(row)
        for name, column in columns.items():
            value = row.get(name)
            if isinstance(value, list | dict):
                raise DataError(f"{file}, line {number}: {name!r} is {str(value)[:60]}, expected text")
            if isinstance(value, bool):
                value = json.dumps(value)
            column.append(value and without_half_characters(value))
    return {name: column for name, column in columns.items() if name in present}


def _no_value(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value, write null")


READERS: dict[str, Callable[[Path, Sequence[str]], pl.DataFrame]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".parquet": _parquet,
    ".csv": lambda file, _: _separated(file, ","),
    ".tsv": lambda file, _: _separated(file, "\t"),
}


def _texts(file: Path, column: pl.Series) -> list[str]:
    if column.dtype != pl.String:
        raise DataError(f"{file}: column {column.name!r} holds {column.dtype}, expected text")
    bad = column.is_null().arg_true()
    if len(bad):
        raise DataError(f"{file}, row {bad[0] + 1}: column {column.name!r} is empty; remove the row or give it a text")
    return column.str.strip_chars().to_list()
