"""A user's own jsonl or parquet file to checked columns: texts, pairs, triplets, scored pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from fuxictr_multimodal.errors import DataError

KINDS = "`text`, or `left` and `right` with `score` (0 to 1) or `negative` (a text or a list) if wanted"


def read_table(file: Path) -> dict[str, list[Any]]:
    """Columns of the file that we know, each checked.

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
        score = frame["score"].cast(pl.Float32, strict=False)
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


def read_frame(file: Path) -> pl.DataFrame:
    """A jsonl, parquet or csv file as it is.

    Raises:
        DataError: a missing or unreadable file, or another suffix.
    """
    readers = {".jsonl": pl.read_ndjson, ".ndjson": pl.read_ndjson, ".parquet": pl.read_parquet, ".csv": pl.read_csv}
    if file.suffix not in readers:
        raise DataError(f"{file}: expected a file named {', '.join(readers)}")
    if not file.is_file():
        raise DataError(f"{file} does not exist")
    try:
        return readers[file.suffix](file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _texts(file: Path, column: pl.Series) -> list[str]:
    if column.dtype != pl.String:
        raise DataError(f"{file}: column {column.name!r} holds {column.dtype}, expected text")
    bad = column.is_null().arg_true()
    if len(bad):
        raise DataError(f"{file}, row {bad[0] + 1}: column {column.name!r} is empty; remove the row or give it a text")
    return column.str.strip_chars().to_list()
