"""Item texts to item vectors: TF-IDF with truncated SVD, or a given table aligned by item id.

Symbols: N items, D vector width, K keys of a given table, W its width.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.words import drop_invisible, word_characters

SUFFIXES = (".h5", ".npz", ".parquet")


@dataclass(frozen=True)
class TextVectors:
    """Vectors (N, D) float32 of length 1 (0 for a text without a known word), and facts for the manifest."""

    vectors: NDArray[np.float32]
    facts: dict[str, Any]


def tfidf_svd(texts: Sequence[str], *, fit_rows: NDArray[np.bool_], dim: int, seed: int = 0) -> TextVectors:
    """Latent semantic vectors of texts: TF-IDF of words and pairs of words, truncated SVD, length 1.

    Words, weights and directions come from the texts of `fit_rows` (N,) only and are then applied to all. A small
    collection may have fewer than `dim` directions: the columns that are left are zero, so that the width is
    always `dim`. Source: Deerwester et al. 1990.

    Raises:
        DataError: if the chosen texts do not share two words, so that there is nothing to fit.

    >>> found = tfidf_svd(["red car", "red blue car", "blue sky", ""], fit_rows=np.ones(4, bool), dim=8)
    >>> found.vectors.shape, np.linalg.norm(found.vectors, axis=1).round(3).tolist()
    ((4, 8), [1.0, 1.0, 1.0, 0.0])
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [drop_invisible(unicodedata.normalize("NFC", text)) for text in texts]
    fit_texts = [text for text, chosen in zip(texts, fit_rows, strict=True) if chosen]
    # A word of a single item cannot say how two items resemble each other.
    tfidf = TfidfVectorizer(
        sublinear_tf=True,
        stop_words="english",
        ngram_range=(1, 2),
        min_df=2,
        token_pattern=f"[{word_characters()}]{{2,}}",
    )
    try:
        weights = tfidf.fit_transform(fit_texts)
    except ValueError:  # the vectoriser's only complaint here is an empty vocabulary
        weights = None
    if weights is None or min(weights.shape) < 2:
        raise DataError(
            f"the texts of the {len(fit_texts)} items that occur in training rows share fewer than two words, "
            "so no text vectors can be made; check the titles or give a table of vectors"
        )
    found = min(dim, weights.shape[0] - 1, weights.shape[1] - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal texts have no variance to explain
        svd = TruncatedSVD(found, random_state=seed).fit(weights)
    explained = float(svd.explained_variance_ratio_.sum())
    vectors = np.zeros((len(texts), dim), dtype=np.float32)
    vectors[:, :found] = unit_length(svd.transform(tfidf.transform(texts)))
    facts = {
        "method": "tfidf_svd",
        "fitted_on_items": len(fit_texts),
        "vocabulary": int(weights.shape[1]),
        "directions": found,
        "explained_variance": round(explained, 4) if np.isfinite(explained) else None,
        "items_without_vector": int((~vectors.any(axis=1)).sum()),
    }
    return TextVectors(vectors, facts)


def unit_length(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows divided by their Euclidean length; a zero row stays zero.

    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)


def given_vectors(path: Path, *, item_ids: NDArray[np.integer], dim: int) -> TextVectors:
    """Vectors of items from a table that the user gives, as they are; an item that the table lacks gets zeros.

    Formats: `.h5` or `.npz` with the arrays `key` (K,) and `value` (K, W), the toolkit's names for pretrained
    embeddings; `.parquet` with the columns `key` and `value`, or `item_id` and one column of lists.

    Raises:
        DataError: if the file is unreadable, W is not `dim`, keys repeat or are no integers, a value is not
            finite, or no item is in the table.
    """
    keys, values = _read_table(path)
    if keys.ndim != 1 or values.ndim != 2 or len(keys) != len(values):
        raise DataError(
            f"{path}: key has shape {keys.shape} and value {values.shape}; wanted are (rows,) and (rows, {dim})"
        )
    if values.shape[1] != dim:
        raise DataError(
            f"{path}: vectors have width {values.shape[1]}, the dataset's embedding column has pretrain_dim {dim}; "
            "change one of them"
        )
    keys = _integer_keys(path, keys)
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise DataError(f"{path}: vectors are of type {values.dtype}, not numbers")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(f"{path}: the vector of key {keys[bad[0]]} (row {bad[0]}) has a value that is not finite")

    order = np.argsort(keys, kind="stable")
    repeated = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(repeated):
        raise DataError(f"{path}: key {keys[order][repeated[0]]} occurs more than once")
    place = np.minimum(np.searchsorted(keys[order], item_ids), len(keys) - 1) if len(keys) else item_ids * 0
    present = keys[order][place] == item_ids if len(keys) else np.zeros(len(item_ids), dtype=bool)
    if not present.any():
        raise DataError(f"{path}: none of the {len(item_ids)} items is in this table of {len(keys)} keys")
    vectors = np.zeros((len(item_ids), dim), dtype=np.float32)
    vectors[present] = values[order[place[present]]]
    facts = {
        "method": "given",
        "file": path.name,
        "keys": len(keys),
        "items_without_vector": int((~present).sum()),
    }
    return TextVectors(vectors, facts)


def _read_table(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: a table of vectors ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r") as file:
                return file["key"][:], file["value"][:]
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return file["key"], file["value"]
    except KeyError:
        raise DataError(f"{path}: the arrays 'key' and 'value' are wanted") from None
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not readable as a table of vectors: {error}") from error
    return _read_parquet(path)


def _read_parquet(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: not readable as parquet: {error}") from error
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List | pl.Array)]
    key = next((name for name in ("key", "item_id") if name in frame.columns), None)
    value = "value" if "value" in lists else (lists[0] if len(lists) == 1 else None)
    if key is None or value is None:
        raise DataError(
            f"{path}: wanted are a column 'key' or 'item_id' and one column of lists (or 'value'); "
            f"found {', '.join(frame.columns)}"
        )
    vectors = frame[value]
    if isinstance(vectors.dtype, pl.List):
        widths = vectors.list.len().fill_null(0)
        width = int(widths[0]) if len(widths) else 0
        odd = frame.filter(widths != width)
        if len(odd):
            raise DataError(f"{path}: column {value!r} has lists of different lengths, first at key {odd[key][0]}")
        vectors = vectors.list.to_array(width)
    return frame[key].to_numpy(), vectors.to_numpy()


def _integer_keys(path: Path, keys: NDArray[Any]) -> NDArray[np.int64]:
    """Keys as int64; the toolkit also writes them as strings of digits."""
    if np.issubdtype(keys.dtype, np.integer):
        return keys.astype(np.int64)
    try:
        if np.issubdtype(keys.dtype, np.floating):
            raise TypeError
        return np.array([int(key) for key in keys], dtype=np.int64)
    except (ValueError, TypeError):
        raise DataError(f"{path}: keys are item ids, so integers; found for example {keys[0]!r}") from None
