"""Files to sources: aligned lines, STS csv, Bible json, and a user's own jsonl, csv or parquet.

| format | files | gives |
|---|---|---|
| `lines` | one text per line, one file per language | texts; pairs when there are two files |
| `sts_csv` | `sentence1,sentence2,score` (0 to 5), no header, one file per language | texts; scored pairs, across the \
languages both ways when there are two files, and then also pairs of translations |
| `bible_json` | list of books with `chapters` of verses, one file per language | texts are chapters; pairs are verses |
| `table` | jsonl, csv or parquet: `text`, or `left`, `right` and `score` or `negative` | what the columns say |

Text files are UTF-8, plain or gzip. A byte order mark, either kind of line end and blank lines at the end do not count.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import Field

from bilingual_embedding.data.text_files import read_text, without_half_characters
from bilingual_embedding.data.texts import Pairs, ScoredPairs, Source
from bilingual_embedding.data.user_tables import read_table
from fuxictr_multimodal.config.binder import ListOf, Settings, UserPath
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

STS_HIGHEST_SCORE = 5.0


class SourceSettings(Settings):
    """A source of texts, pairs or scored pairs."""

    format: str = Field(description="How its files are read: `lines`, `sts_csv`, `bible_json` or `table`.")
    paths: ListOf[UserPath] = Field(description="One or two files below `data_root`.")
    languages: ListOf[str] = Field(description="Language of each file; of a table, of its left and right side.")
    books: ListOf[int] = Field(
        (), description="Of `bible_json`, the first book and the one after the last, counted from 0. By default all."
    )


def read_source(name: str, settings: SourceSettings, data_root: Path) -> Source:
    """Read one source.

    Raises:
        ConfigError: an unknown format, or another number of languages than of files.
        DataError: a missing file, a bad row (named), files that are not aligned.
    """
    where = f"source {name!r}"
    if settings.format not in FORMATS:
        raise ConfigError(f"{where}: format {settings.format!r} is unknown. {did_you_mean(settings.format, FORMATS)}")
    files = [data_root / path for path in settings.paths]
    if not 1 <= len(files) <= 2 or (len(files) != len(settings.languages) and settings.format != "table"):
        raise ConfigError(f"{where}: expected one or two paths and as many languages, found {len(files)} and "
                          f"{len(settings.languages)}")  # fmt: skip
    if len(settings.books) not in (0, 2):
        raise ConfigError(f"{where}: books must be a first and a last number, found {list(settings.books)}")
    for file in files:
        if not file.is_file():
            raise DataError(f"{where}: {file} does not exist; set data_root to the folder that contains it")
    source = FORMATS[settings.format](name, files, settings)
    if not any(source.texts.values()):
        raise DataError(f"{where}: {files[0]} contains no text")
    return source


def read_lines(file: Path) -> list[str]:
    """Texts of a file, one per line, white space around them removed; blank lines at the end are none."""
    lines = _all_lines(file)
    return lines[: _last_text(lines)]


def _all_lines(file: Path) -> list[str]:
    lines = [line.strip() for line in read_text(file).replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return lines if lines[-1] else lines[:-1]


def _last_text(lines: Sequence[str]) -> int:
    """Lines up to the last that has a text."""
    return max((number for number, line in enumerate(lines, start=1) if line), default=0)


def _lines(name: str, files: Sequence[Path], settings: SourceSettings) -> Source:
    columns = [_all_lines(file) for file in files]
    # A blank line at the end is a text that is missing where the other file has one, and no line where it has none.
    rows = max(_last_text(column) for column in columns)
    columns = [column[:rows] for column in columns]
    _check_aligned(files, columns, "lines")
    pairs = Pairs(columns[0], columns[1]) if len(columns) == 2 else None
    return Source(name, dict(zip(settings.languages, columns, strict=True)), pairs)


def _sts_csv(name: str, files: Sequence[Path], settings: SourceSettings) -> Source:
    tables = [list(_sts_rows(file)) for file in files]
    _check_aligned(files, tables, "rows")
    texts = {
        language: [text for row in table for text in row[:2]]
        for language, table in zip(settings.languages, tables, strict=True)
    }
    score = np.array([row[2] for row in tables[0]], dtype=np.float32) / STS_HIGHEST_SCORE
    first, second = [row[0] for row in tables[0]], [row[1] for row in tables[0]]
    if len(files) == 1:
        return Source(name, texts, scored=ScoredPairs(first, second, score))
    for number, (one, other) in enumerate(zip(*tables, strict=True), start=1):
        if one[2] != other[2]:
            raise DataError(
                f"{files[1]}, row {number}: score {other[2]} differs from {one[2]} in {files[0]}: not aligned"
            )
    other_first, other_second = [row[0] for row in tables[1]], [row[1] for row in tables[1]]
    return Source(
        name,
        texts,
        pairs=Pairs(first + second, other_first + other_second),
        scored=ScoredPairs(first + second, other_second + other_first, np.concatenate([score, score])),
    )


def _sts_rows(file: Path) -> Iterator[tuple[str, str, float]]:
    try:
        rows = list(csv.reader(io.StringIO(read_text(file), newline="")))
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as csv: {error}") from None
    while rows and not "".join(rows[-1]).strip():
        rows.pop()
    for number, row in enumerate(rows, start=1):
        try:
            first, second, score = row[0].strip(), row[1].strip(), float(row[2])
        except (IndexError, ValueError):
            raise DataError(f"{file}, row {number}: expected sentence1,sentence2,score, found {row!r}") from None
        if not 0 <= score <= STS_HIGHEST_SCORE:
            raise DataError(f"{file}, row {number}: score {score} is not from 0 to 5")
        yield first, second, score


def _bible_json(name: str, files: Sequence[Path], settings: SourceSettings) -> Source:
    first, last = settings.books or (0, None)
    books = [[chapter for book in read_bible(file)[first:last] for chapter in book] for file in files]
    _check_aligned(files, books, "chapters")
    for number, chapters in enumerate(zip(*books, strict=True), start=1):
        if len({len(chapter) for chapter in chapters}) > 1:
            raise DataError(
                f"{files[1]}: chapter {number} of the file differs in its verses from {files[0]}: not aligned"
            )
    texts = {
        language: [" ".join(chapter) for chapter in chapters]
        for language, chapters in zip(settings.languages, books, strict=True)
    }
    verses = [[verse for chapter in chapters for verse in chapter] for chapters in books]
    return Source(name, texts, Pairs(verses[0], verses[1]) if len(verses) == 2 else None)


def read_bible(file: Path) -> list[list[list[str]]]:
    """Books of chapters of verses."""
    text = read_text(file)
    try:
        books = json.loads(text)
        return [
            [[without_half_characters(str(verse)).strip() for verse in chapter] for chapter in book["chapters"]]
            for book in books
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} is not a list of books with chapters of verses: {error!r}") from None


def _table(name: str, files: Sequence[Path], settings: SourceSettings) -> Source:
    if len(files) > 1:
        raise ConfigError(f"source {name!r}: format table takes one path; use one source for each file")
    columns, languages = read_table(files[0]), settings.languages
    language = "+".join(languages) if languages else "any"
    if "left" in columns:
        left, right = columns["left"], columns["right"]
        sides = (languages[0], languages[-1]) if languages else (language, language)
        texts: dict[str, list[str]] = {side: [] for side in sides}
        texts[sides[0]] += left
        texts[sides[1]] += right
        if "score" in columns:
            return Source(name, texts, scored=ScoredPairs(left, right, np.asarray(columns["score"], dtype=np.float32)))
        return Source(name, texts, pairs=Pairs(left, right, columns.get("negative")))
    return Source(name, {language: columns["text"]})


def _check_aligned(files: Sequence[Path], columns: Sequence[Sequence], what: str) -> None:
    for (one, first), (other, second) in pairwise(zip(files, columns, strict=True)):
        if len(first) != len(second):
            raise DataError(f"{one} has {len(first)} {what} and {other} has {len(second)}: they are not aligned")


FORMATS: dict[str, Callable[[str, Sequence[Path], SourceSettings], Source]] = {
    "lines": _lines,
    "sts_csv": _sts_csv,
    "bible_json": _bible_json,
    "table": _table,
}
