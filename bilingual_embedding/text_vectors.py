"""The `encode` stage: a file of texts to a parquet file of vectors, or to an item table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bilingual_embedding.encoder import Encoder
from bilingual_embedding.encoding import encode_texts
from bilingual_embedding.item_vectors import item_table, reduce_width
from bilingual_embedding.readers import read_lines
from bilingual_embedding.tokenizer import BilingualTokenizer
from bilingual_embedding.user_tables import read_frame
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.files import replace_atomically

TEXT_SUFFIXES = (".txt", ".gz")


def encode_file(
    encoder: Encoder,
    tokenizer: BilingualTokenizer,
    *,
    source: Path,
    target: Path,
    text_columns: Sequence[str] = ("text",),
    id_column: str | None = None,
    item_dim: int | None = None,
    precision: str = "float32",
    progress: bool = False,
) -> dict[str, Any]:
    """Encode every text of a file.

    Args:
        source: `.txt` or `.gz` with a text a line, or `.parquet`, `.jsonl`, `.csv`.
        target: parquet to write: the id column (`row`, from 0, without one) and `vector`; with `item_dim` the columns
            `item_id`, every number from 0 to the highest, and `item_emb_d<item_dim>`.
        text_columns: joined by a full stop where there are several; missing values are left out.
        id_column: integer ids; needed for an item table.
        item_dim: width of an item table.

    Returns:
        Facts: texts, distinct, tokens, truncated, seconds and rates, and of an item table its rows.

    Raises:
        DataError: naming file, column and row.
    """
    if target.suffix != ".parquet":
        raise ConfigError(f"output {target} must end in .parquet")
    if item_dim is not None and id_column is None:
        raise ConfigError("an item table needs the items' ids: name their column with --id-column")
    ids, texts = _read(source, text_columns, id_column)
    found = encode_texts(encoder, tokenizer, texts, precision=precision, progress=progress)
    facts: dict[str, Any] = {
        "texts": len(texts), "distinct": found.distinct, "tokens": found.tokens, "truncated": found.truncated,
        "seconds": found.seconds, "texts_per_s": found.texts_per_s, "tokens_per_s": found.tokens_per_s,
    }  # fmt: skip
    if item_dim is None:
        frame = _frame(id_column or "row", ids, "vector", found.vectors)
    else:
        reduced, kept = reduce_width(found.vectors, item_dim)
        table = item_table(ids, reduced)
        frame = _frame("item_id", np.arange(len(table)), f"item_emb_d{item_dim}", table)
        facts.update(items=len(table) - 1, items_without_text=len(table) - 1 - len(ids), variance_kept=kept)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(target) as temporary:
        frame.write_parquet(temporary)
    return facts


def _read(source: Path, text_columns: Sequence[str], id_column: str | None) -> tuple[NDArray[np.int64], list[str]]:
    if source.suffix in TEXT_SUFFIXES:
        if not source.is_file():
            raise DataError(f"{source} does not exist")
        if id_column is not None:
            raise ConfigError(f"{source} has no columns, so --id-column {id_column} names nothing")
        texts = read_lines(source)
        return np.arange(len(texts)), texts
    frame = read_frame(source)
    for name in [*text_columns, *([id_column] if id_column else [])]:
        if name not in frame.columns:
            raise DataError(f"{source} has no column {name!r}; it has {', '.join(frame.columns)}")
    for name in text_columns:
        if frame[name].dtype != pl.String:
            raise DataError(f"{source}: column {name!r} holds {frame[name].dtype}, expected text")
    texts = frame.select(pl.concat_str(text_columns, separator=". ", ignore_nulls=True)).to_series().to_list()
    if id_column is None:
        return np.arange(len(texts)), texts
    column = frame[id_column]
    if not column.dtype.is_integer() or column.has_nulls():
        raise DataError(f"{source}: column {id_column!r} must hold an integer id in every row, found {column.dtype}")
    return column.cast(pl.Int64).to_numpy(), texts


def _frame(id_name: str, ids: NDArray[np.integer], name: str, vectors: NDArray[np.float32]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            id_name: ids.astype(np.int32 if id_name == "item_id" else np.int64),
            name: pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
        }
    )
