"""The raw public release of MicroLens: its tables, read and checked.

Files, for a size such as `MicroLens-50k`: `<size>_pairs.csv` (user, item, timestamp) or `<size>_pairs.tsv` (a user and
the user's items, oldest first, no times), `<size>_titles.csv` (item, title), `<size>_likes_and_views.txt` (item, likes,
views, with tabs) and `tags_to_summary.csv` (video, category). Source: https://github.com/westlake-repl/MicroLens.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import places_in_rows, row_numbers
from fuxictr_multimodal.data.recipes.raw_tables import RawFiles, RawTable, bad_value, read_table
from fuxictr_multimodal.errors import DataError, nearest

PAIRS = ("_pairs.csv", "_pairs.tsv")
TITLES = ("_titles.csv", "_title_en.csv")
LIKES = ("_likes_and_views.txt",)
CATEGORIES = "tags_to_summary.csv"
# Items are rows of a table: ids with so many gaps would make it mostly empty.
MAX_ROWS_AN_ITEM = 10


@dataclass(frozen=True)
class Release:
    """One size of the release. Items keep their ids: entry i of an item array is item i, 0 is padding.

    Attributes:
        size: the beginning of the file names, such as `MicroLens-50k`.
        pairs: columns `user`, `item` and `time`, sorted by user, then time, then the file's order; each pair once.
            Without times in the release, `time` is the place in the user's list.
        has_times: whether `time` is a timestamp.
        repeated: pairs that occurred again and were dropped.
        titles: text of each item, "" if there is none; None where the file is missing.
        categories: category of each item, or "".
        likes: total at the time of the crawl, -1 where unknown.
        views: the same.
        sources: what was read, by name.
        folder: where the files lie.
        others: names of the files of the folder that were not read.
    """

    size: str
    pairs: pl.DataFrame
    has_times: bool
    repeated: int
    titles: list[str] | None
    categories: list[str] | None
    likes: NDArray[np.int64] | None
    views: NDArray[np.int64] | None
    sources: dict[str, Path]
    folder: Path
    others: tuple[str, ...]

    def missing(self, ends: Sequence[str]) -> str:
        """The name of a file that was looked for, and the file beside it whose name is near."""
        wanted = [self.size + end for end in ends]
        hint = next((hint for name in wanted if (hint := nearest(name, self.others))), "")
        return f"{self.folder / wanted[0]} does not exist.{f' {hint} Rename it.' if hint else ''}"

    @property
    def num_items(self) -> int:
        """Rows of an item array: the highest id of the pairs, and one for padding."""
        return _rows_of_items(self.pairs)


def read_release(folder: Path, *, size: str | None = None) -> Release:
    """Read one size of the release from a folder.

    Args:
        folder: where the files lie.
        size: needed where the folder holds several sizes: a part of the file names, such as `50k`.

    Raises:
        DataError: no pairs, more than one size, or a value that does not fit; the message names file, column and row.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; it must hold <size>{PAIRS[0]} or <size>{PAIRS[1]}")
    raw = RawFiles(folder)
    prefix, file = _pairs_file(raw, size)
    has_times = file.lower().endswith(".csv")
    pairs = _from_csv(raw, file) if has_times else _from_tsv(raw, file)
    where = raw.where(file)
    if pairs.is_empty():
        raise DataError(f"{where}: there are no pairs of a user and an item")
    low = pairs.filter(pl.col("item") < 1)
    if len(low):
        raise DataError(f"{where}: column 'item': item {low['item'][0]} of user {low['user'][0]}: ids count from 1")
    pairs = pairs.sort("user", "time", maintain_order=True)
    once = pairs.unique(["user", "item"], keep="first", maintain_order=True)
    num_items, distinct = _rows_of_items(once), once["item"].n_unique()
    if num_items > MAX_ROWS_AN_ITEM * distinct + 1000:
        raise DataError(
            f"{where}: item ids go up to {num_items - 1} for only {distinct} items: renumber them without gaps"
        )
    titles_file = _first(raw, [prefix + end for end in TITLES])
    likes_file = _first(raw, [prefix + end for end in LIKES])
    categories_file = _first(raw, [CATEGORIES])
    likes, views = _likes_and_views(raw, likes_file, num_items) if likes_file else (None, None)
    read = [name for name in (file, titles_file, likes_file, categories_file) if name]
    return Release(
        size=prefix,
        pairs=once,
        has_times=has_times,
        repeated=len(pairs) - len(once),
        titles=_texts(raw, titles_file, "title", num_items) if titles_file else None,
        categories=_texts(raw, categories_file, "tag", num_items) if categories_file else None,
        likes=likes,
        views=views,
        sources=raw.sources(read),
        folder=folder,
        others=tuple(name for name in raw.names if name not in {raw.actual(one) for one in read}),
    )


def _rows_of_items(pairs: pl.DataFrame) -> int:
    return int(pairs["item"].to_numpy().max()) + 1


def _pairs_file(raw: RawFiles, size: str | None) -> tuple[str, str]:
    """Size and file of the pairs; the csv file, which has times, where both are there."""
    folder = raw.root
    found: dict[str, str] = {}
    for end in reversed(PAIRS):
        found |= {name[: -len(end)]: name for name in raw.names if name.lower().endswith(end)}
    chosen = [
        name for name in sorted(found) if size is None or size.lower() in name.lower().replace("_", "-").split("-")
    ]
    if not chosen:
        what = f"of size {size!r} " if size else ""
        raise DataError(f"{folder}: there are no pairs {what}: expected <size>{PAIRS[0]} or <size>{PAIRS[1]}")
    if len(chosen) > 1:
        raise DataError(f"{folder} holds several sizes ({', '.join(chosen)}): choose one with --size")
    return chosen[0], found[chosen[0]]


def _first(raw: RawFiles, names: Sequence[str]) -> str | None:
    return next((name for name in names if raw.has(name)), None)


def _from_csv(raw: RawFiles, file: str) -> pl.DataFrame:
    return read_table(raw, RawTable(file, {"user": int, "item": int, "timestamp": int})).rename({"timestamp": "time"})


def _from_tsv(raw: RawFiles, file: str) -> pl.DataFrame:
    table = read_table(raw, RawTable(file, {"user": int, "items": str}, separator="\t", header=False, quoted=False))
    twice = table["user"].filter(table["user"].is_duplicated())
    if len(twice):
        raise DataError(f"{raw.where(file)}: column 'user': user {twice[0]} has more than one line")
    lists = table["items"].str.strip_chars().str.split(" ")
    lengths = lists.list.len().to_numpy().astype(np.int64)
    items = pl.Series(lists.to_arrow().flatten()).cast(pl.Int64, strict=False)
    line = row_numbers(lengths)
    if items.has_nulls():
        bad = lists.list.eval(pl.element().cast(pl.Int64, strict=False).is_null()).list.any()
        raise bad_value(raw.where(file), "items", bad, table["items"], "a list of whole numbers with spaces")
    return pl.DataFrame({"user": table["user"].to_numpy()[line], "item": items, "time": places_in_rows(lengths)})


def _texts(raw: RawFiles, file: str, text: str, num_items: int) -> list[str]:
    """Text of each item, from a table of id and text, with or without a line of names."""
    lines = io.StringIO(raw.read_utf8(file).decode("utf-8"), newline="")
    # A blank line has no cells.
    cells = next(csv.reader(lines), None) or [""]
    header = not cells[0].strip(' "').lstrip("-").isdigit()
    if header and len(cells) < 2:
        raise DataError(f"{raw.where(file)}: expected two columns, the id of a video and its {text}")
    names = cells[:2] if header else ["item", text]
    table = read_table(raw, RawTable(file, {names[0]: int, names[1]: str}, header=header))
    ids, values = table.to_series(0).to_numpy(), table.to_series(1).str.strip_chars().to_list()
    texts = [""] * num_items
    for item, value in zip(ids.tolist(), values, strict=True):
        if 1 <= item < num_items and not texts[item]:
            texts[item] = value
    return texts


def _likes_and_views(raw: RawFiles, file: str, num_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    columns = {"item": int, "likes": int, "views": int}
    table = read_table(raw, RawTable(file, columns, separator="\t", header=False, quoted=False))
    for name in ("likes", "views"):
        negative = table[name] < 0
        if negative.any():
            raise bad_value(raw.where(file), name, negative, table[name], "a count from 0")
    known = table.filter(pl.col("item").is_between(1, num_items - 1))
    totals = []
    for name in ("likes", "views"):
        total = np.full(num_items, -1, dtype=np.int64)
        total[known["item"].to_numpy()] = known[name].to_numpy()
        totals.append(total)
    return totals[0], totals[1]
