"""The `encode` stage: a file of texts to a parquet file of vectors, or to an item table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bilingual_embedding.data.readers import read_lines
from bilingual_embedding.data.text_files import kind
from bilingual_embedding.data.user_tables import READERS, read_frame
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.vectors.encoding import encode_texts
from bilingual_embedding.vectors.item_vectors import check_item_ids, reduced_item_table, whole_numbers
from fuxictr_multimodal.errors import ConfigError, DataError, Unwritable
from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.text.words import drop_invisible

VECTOR = "vector"
EXACT_FLOATS = 2**53  # whole numbers below have their own float64
Embed = Callable[[Sequence[str]], tuple[NDArray[np.float32], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file of texts, and the file of vectors to make of it.

    Attributes:
        source: `.txt` or another name in `.gz` with one text per line, or a table that `read_frame` reads.
        target: parquet to write: the id column (`row`, from 0, without one) and `vector`; with `item_dim` the columns
            `item_id`, every number from 0 to the highest, and `item_emb_d<item_dim>`.
        text_columns: joined by a full stop where there are several; empty values are left out.
        id_column: ids of any type, which travel unchanged; those of an item table are whole numbers from 1.
        item_dim: width of an item table.

    Raises:
        ConfigError: values that do not go together.
    """

    source: Path
    target: Path
    text_columns: Sequence[str] = ("text",)
    id_column: str | None = None
    item_dim: int | None = None

    def __post_init__(self) -> None:
        if self.target.suffix.lower() != ".parquet":
            raise ConfigError(f"output {self.target} must end in .parquet")
        if self.target.is_dir():
            raise ConfigError(f"output {self.target} is a folder: pass a file")
        if self.target.resolve() == self.source.resolve():
            raise ConfigError(f"output {self.target} is also the input: choose another file")
        if self.item_dim is not None and self.id_column is None:
            raise ConfigError("an item table needs the items' ids: name their column with --id-column")
        if self.item_dim is not None and self.item_dim < 1:
            raise ConfigError(f"an item table cannot have the width {self.item_dim}")
        if self.id_column == VECTOR and self.item_dim is None:
            raise ConfigError(
                f"the id column cannot be named {VECTOR!r}, which is the column of the vectors: rename it"
            )


def embed_by(
    encoder: Encoder, tokenizer: BilingualTokenizer, *, precision: str = "float32", progress: bool = False
) -> Embed:
    """Texts to vectors by an encoder of ours, with tokens, truncated texts, seconds and rates."""

    def embed(texts: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        found = encode_texts(encoder, tokenizer, texts, precision=precision, progress=progress)
        measured = ("distinct", "tokens", "truncated", "seconds", "texts_per_s", "tokens_per_s")
        return found.vectors, {name: getattr(found, name) for name in measured}

    return embed


def embed_by_published(embed_texts: Callable[[Sequence[str]], NDArray[np.float32]]) -> Embed:
    """Texts to vectors by another encoder, with distinct texts, seconds and rate."""

    def embed(texts: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        started = time.perf_counter()
        vectors = embed_texts(texts)
        seconds = time.perf_counter() - started
        rate = len(texts) / max(seconds, 1e-9)
        return vectors, {"distinct": len(set(texts)), "seconds": seconds, "texts_per_s": rate}

    return embed


def write_vectors(file: TextFile, embed: Embed) -> dict[str, Any]:
    """Encode every text of a file; a row without one (null, empty, white space) has a vector of zeros and is counted.

    Args:
        file: what is read and written.
        embed: texts (N) to vectors (N, D) and what it measured.

    Returns:
        Texts, items_without_text, width, of an item table its rows too, and what `embed` measured.

    Raises:
        ConfigError: an id column of a file without columns.
        DataError: naming file, column and row.
    """
    source, target, item_dim = file.source, file.target, file.item_dim
    ids, texts = _read(source, file.text_columns, file.id_column)
    items = None
    if item_dim is not None:
        try:
            items = whole_numbers(ids)
            check_item_ids(items)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
    if not len(rows):
        raise DataError(f"{source} contains no text")
    make_folder(target.parent)
    found, facts = embed([texts[row] for row in rows])
    vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    vectors[rows] = found
    facts = {"texts": len(texts), "items_without_text": len(texts) - len(rows), "width": found.shape[1], **facts}
    name = VECTOR
    if item_dim is not None and items is not None:
        vectors, kept = reduced_item_table(items, vectors, item_dim)
        name = f"item_emb_d{item_dim}"
        ids = pl.Series("item_id", np.arange(len(vectors)), dtype=pl.Int32)
        count = len(vectors) - 1
        facts.update(items=count, items_without_text=count - len(rows), width=item_dim, variance_kept=kept)
    frame = pl.DataFrame([ids, pl.Series(name, vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))])
    try:
        with replace_atomically(target) as temporary:
            frame.write_parquet(temporary)
    except Unwritable as error:
        raise Unwritable(f"output {error}") from None
    return facts


def _read(source: Path, text_columns: Sequence[str], id_column: str | None) -> tuple[pl.Series, list[str]]:
    """Ids and texts; a row without a text has an empty one."""
    if kind(source) not in READERS:
        if kind(source) != ".txt" and source.suffix.lower() != ".gz":
            raise DataError(f"{source}: expected a file named .txt, {', '.join(READERS)}, or one of them in .gz")
        if id_column is not None:
            raise ConfigError(f"{source} has no columns, so --id-column {id_column} does not apply")
        texts = read_lines(source)
        return pl.Series("row", np.arange(len(texts))), [_text([line]) for line in texts]
    frame = read_frame(source, text_columns=text_columns)
    if id_column in frame.columns and kind(source) != ".parquet" and _inexact(frame[id_column]):
        frame = read_frame(source, text_columns=[*text_columns, id_column])
    for name in [*text_columns, *([id_column] if id_column else [])]:
        if name not in frame.columns:
            raise DataError(f"{source} has no column {name!r}; it has {', '.join(frame.columns)}")
    texts = [_text(values) for values in zip(*(frame[name] for name in text_columns), strict=True)]
    if id_column is None:
        return pl.Series("row", np.arange(len(texts))), texts
    return _ids(source, frame[id_column]), texts


def _text(values: Sequence[str | None]) -> str:
    """The values that show something, joined."""
    stripped = (value.strip() for value in values if value is not None and drop_invisible(value).strip())
    return ". ".join(stripped)


def _inexact(column: pl.Series) -> bool:
    """Whether numbers of JSON were read in a type that rounds them, or that parquet does not have."""
    return column.dtype == pl.Int128 or (column.dtype == pl.Float64 and (column.abs() >= EXACT_FLOATS).any())


def _ids(source: Path, column: pl.Series) -> pl.Series:
    """The ids as they are, but that text files write whole numbers as text: these are numbers where nothing is lost."""
    empty = column.is_null()
    if column.dtype == pl.String:
        empty |= column.str.strip_chars() == ""
    elif column.dtype.is_float():
        empty |= column.is_nan()
    missing = empty.fill_null(True).arg_true()
    if len(missing):
        raise DataError(f"{source}, row {missing[0] + 1}: column {column.name!r} is empty, expected an id in every row")
    if column.dtype == pl.String and kind(source) in (".csv", ".tsv"):
        numbers = column.cast(pl.Int64, strict=False)
        if (numbers.cast(pl.String) == column).fill_null(False).all():
            return numbers
    return column
