"""Item vectors: from texts by TF-IDF and truncated SVD, or from a table of pretrained embeddings by item id.

Symbols: N items, D vector width, K keys of a table, W its width.
"""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PanicException

from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted import hdf5
from fuxictr_multimodal.system.untrusted.archives import npz_names, read_npz
from fuxictr_multimodal.system.untrusted.parquet import check_parquet
from fuxictr_multimodal.system.untrusted.sizes import check_regular
from fuxictr_multimodal.text.words import drop_invisible, word_characters

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

EXPECTED = "Expected are item ids and vectors: arrays 'key' and 'value' (.h5, .npz), or a column of each (.parquet)"
ROW_NUMBER = "row"  # the name of the `encode` stage for the place of a text in a file without ids


@dataclass(frozen=True)
class TextVectors:
    """Vectors (N, D) float32 of length 1 (0 for a text without a known word), and metadata for the manifest."""

    vectors: NDArray[np.float32]
    metadata: dict[str, Any]


def tfidf_svd(texts: Sequence[str], *, fit_rows: NDArray[np.bool_], dim: int, seed: int = 0) -> TextVectors:
    """Latent semantic vectors of texts: TF-IDF of words and pairs of words, truncated SVD, length 1.

    Words, weights and directions come from the texts of `fit_rows` (N,) only and are then applied to all. A small
    collection may have fewer than `dim` directions: the columns that are left are zero, so that the width is
    always `dim`. Source: Deerwester et al. 1990.

    Raises:
        DataError: if the chosen texts share no word, so that there is nothing to fit.

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
        weights = _two_columns(tfidf.fit_transform(fit_texts))
    except ValueError:  # the vectoriser's only complaint here is an empty vocabulary
        raise DataError(
            f"the texts of the {len(fit_texts)} items that occur in training rows have no word in "
            "common, so text vectors cannot be computed; check the titles, or pass a table of vectors"
        ) from None
    found = min(dim, min(weights.shape) - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal texts have no variance to explain
        svd = TruncatedSVD(found, random_state=seed).fit(weights)
    explained = float(svd.explained_variance_ratio_.sum())
    vectors = np.zeros((len(texts), dim), dtype=np.float32)
    vectors[:, :found] = unit_length(svd.transform(_two_columns(tfidf.transform(texts))))
    metadata = {
        "method": "tfidf_svd",
        "fitted_on_items": len(fit_texts),
        "vocabulary": len(tfidf.vocabulary_),
        "directions": found,
        "explained_variance": round(explained, 4) if np.isfinite(explained) else None,
        "items_without_vector": int((~vectors.any(axis=1)).sum()),
    }
    return TextVectors(vectors, metadata)


def _two_columns(weights: csr_matrix) -> csr_matrix:
    """The weights, with an empty column beside a single one: TruncatedSVD takes no fewer than two."""
    weights.resize(weights.shape[0], max(weights.shape[1], 2))
    return weights


def unit_length(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows divided by their Euclidean length; a zero row stays zero.

    >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-12)


def reduce_width(vectors_NW: NDArray[np.float32], dim: int) -> tuple[NDArray[np.float32], float]:
    """L2-normalise, centre, project on the `dim` directions of largest variance (PCA).

    Returns:
        (N, dim) float32 and the fraction of the variance that is kept. Directions that the vectors lack are zero.
        A zero row is an item without a vector: it stays zero and does not count.

    >>> reduced, kept = reduce_width(np.eye(4, dtype=np.float32), 3)
    >>> reduced.shape, round(kept, 6)
    ((4, 3), 1.0)
    """
    unit = unit_length(vectors_NW.astype(np.float64))
    known = (unit != 0).any(axis=1)
    centred = np.where(known[:, None], unit - unit.sum(axis=0) / max(known.sum(), 1), 0)
    variance, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-variance)[:dim]
    # An eigenvector's sign is arbitrary: its largest entry is made positive, the same on every machine.
    chosen = directions[:, order]
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    reduced = np.zeros((len(vectors_NW), dim), dtype=np.float32)
    reduced[:, : chosen.shape[1]] = centred @ chosen
    return reduced, float(variance[order].sum() / max(variance.sum(), 1e-30))


def fitted_width(vectors_NW: NDArray[np.float32], dim: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Vectors (N, dim): of that width unchanged, narrower ones padded with zeros, wider ones by `reduce_width`.

    Returns:
        The vectors, and metadata of what was done to them.
    """
    width = vectors_NW.shape[1]
    if width == dim:
        return vectors_NW, {}
    if width > dim:
        reduced, kept = reduce_width(vectors_NW, dim)
        return reduced, {"given_width": width, "variance_kept": round(kept, 4)}
    padded = np.zeros((len(vectors_NW), dim), dtype=np.float32)
    padded[:, :width] = vectors_NW
    return padded, {"given_width": width}


def pretrained_vectors(path: Path, *, item_ids: NDArray[np.integer], dim: int) -> TextVectors:
    """Vectors of items from the user's table of pretrained embeddings; an item that is not in the table gets zeros.

    Vectors of width W = `dim` are used unchanged, narrower ones are padded with zeros, and wider ones are reduced by
    `reduce_width` over these items; the metadata records this.

    Formats: `.h5` or `.npz` with the arrays `key` (K,) and `value` (K, W), FuxiCTR's names for pretrained
    embeddings; `.parquet` with a column of item ids and a column of lists, as the `encode` stage of a text encoder
    writes it. If there are more columns, the ids are in `key` or `item_id` and the lists in `value`.

    Args:
        path: the table.
        item_ids: the items, (N,).
        dim: width D of the result.

    Raises:
        DataError: if the file is unreadable, keys repeat or are not integers, a value is not finite, or no item is in
            the table.
    """
    keys, values = _checked_table(path)
    keys = _integer_keys(path, keys)
    return _placed(path, keys, values, item_ids=item_ids, dim=dim, shown=keys)


def vectors_of_ids(path: Path, *, ids: IdMap, dim: int | None) -> TextVectors:
    """`pretrained_vectors` of items with ids of any type: row i of the result is the item of code i.

    Args:
        path: the table; its keys are the user's ids.
        ids: of the items, (N,).
        dim: width of the result; by default that of the table.

    Raises:
        DataError: as `pretrained_vectors`.
    """
    keys, values = _checked_table(path)
    try:
        texts = [key.decode() if isinstance(key, bytes) else key for key in keys.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the key {error.object!r} is not UTF-8 text: write keys as text") from None
    series = pl.Series(keys) if keys.dtype.kind in "iu" else pl.Series(texts, strict=False)
    codes = ids.codes(series)
    known = codes > 0
    placed = _placed(
        path, codes[known], values[known], item_ids=np.arange(len(ids)), dim=dim or values.shape[1], shown=keys[known]
    )
    placed.metadata["keys"] = len(keys)
    return placed


def _checked_table(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    keys, values = (np.asarray(array) for array in _read_table(path))
    if keys.ndim != 1 or values.ndim != 2 or len(keys) != len(values):
        raise DataError(
            f"{path}: key has shape {keys.shape} and value {values.shape}; expected (rows,) and (rows, width)"
        )
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise DataError(f"{path}: vectors are of type {values.dtype}, not numbers")
    width = values.shape[1]
    if len(keys) and not width:
        raise DataError(f"{path}: the vectors have width 0")
    return keys, values


def _placed(
    path: Path,
    keys: NDArray[np.int64],
    values: NDArray[Any],
    *,
    item_ids: NDArray[np.integer],
    dim: int,
    shown: NDArray[Any],
) -> TextVectors:
    """Vectors of `item_ids` (N,) from rows of a table with whole numbers as keys; `shown` are the keys for messages."""
    width = values.shape[1]
    order = np.argsort(keys, kind="stable")
    repeated = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(repeated):
        raise DataError(f"{path}: key {shown[order][repeated[0]]} occurs more than once")
    place = np.minimum(np.searchsorted(keys[order], item_ids), len(keys) - 1) if len(keys) else item_ids * 0
    present = keys[order][place] == item_ids if len(keys) else np.zeros(len(item_ids), dtype=bool)
    if not present.any():
        raise DataError(f"{path}: none of the {len(item_ids)} items is in this table of {len(keys)} keys")
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: the vector of key {shown[bad[0]]} (row {bad[0]}) has a value that is not finite in float32"
        )
    vectors = np.zeros((len(item_ids), width), dtype=np.float32)
    vectors[present] = values[order[place[present]]]
    metadata: dict[str, Any] = {
        "method": "given",
        "file": path.name,
        "keys": len(keys),
        "items_without_vector": int((~vectors.any(axis=1)).sum()),
    }
    vectors, fitted = fitted_width(vectors, dim)
    return TextVectors(vectors, metadata | fitted)


def _read_table(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    readers = {".h5": _read_h5, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: a table of vectors must have the suffix {', '.join(readers)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder: pass the file of vectors")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    check_regular(path)
    try:
        return readers[path.suffix.lower()](path)
    except DataError:
        raise
    except (Exception, PanicException) as error:  # a damaged file makes the libraries raise errors of many kinds
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError(f"{path}: cannot be read as a table of vectors: {reason[0]}. {EXPECTED}") from error


def _read_h5(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        _check_names(path, list(file), [name for name in file if not hdf5.is_group(file, name)])
        return hdf5.read_dataset(file, "key", texts=True), hdf5.read_dataset(file, "value")


def _read_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with path.open("rb") as content:
        if not zipfile.is_zipfile(content):
            raise DataError(f"{path}: cannot be read as a table of vectors: cut, empty or no .npz file. {EXPECTED}")
    names = npz_names(path)
    _check_names(path, names, names)
    found = read_npz(path, ("key", "value"))
    return found["key"], found["value"]


def _check_names(path: Path, found: Sequence[str], arrays: Sequence[str]) -> None:
    if not {"key", "value"} <= set(arrays):
        what = "are not arrays" if {"key", "value"} <= set(found) else f"are not among {', '.join(found) or 'nothing'}"
        raise DataError(f"{path}: cannot be read as a table of vectors: 'key' and 'value' {what}. {EXPECTED}")


def _read_parquet(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    check_parquet(path, whole=True)
    frame = pl.read_parquet(path, use_pyarrow=True)  # on a damaged file the reader of polars may end the process
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List | pl.Array)]
    others = [name for name in frame.columns if name not in lists]
    key = next((name for name in ("key", "item_id") if name in others), others[0] if len(others) == 1 else None)
    value = "value" if "value" in lists else (lists[0] if len(lists) == 1 else None)
    if key is None or value is None:
        raise DataError(
            f"{path}: expected one column of item ids (or 'key' or 'item_id') and one column of lists (or 'value'); "
            f"found {', '.join(frame.columns)}"
        )
    if key == ROW_NUMBER:
        raise DataError(
            f"{path}: column {key!r} holds row numbers, not item ids; encode the texts again with --id-column, "
            "or rename the column if it holds item ids"
        )
    if frame[key].has_nulls():
        raise DataError(f"{path}: column {key!r} has no item id in row {frame[key].is_null().arg_max()}")
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
    """Keys as int64; FuxiCTR also writes them as strings of digits."""
    if np.issubdtype(keys.dtype, np.signedinteger):
        return keys.astype(np.int64)
    found = np.zeros(len(keys), dtype=np.int64)
    for row, key in enumerate(keys):
        try:
            found[row] = _whole(key)
        except (ValueError, TypeError, OverflowError):
            raise DataError(f"{path}: keys are item ids, so integers; found {key!r} (row {row})") from None
    return found


def _whole(key: Any) -> int:
    """A key of another type as an integer; `int` alone would round decimals, and read `True` and `1_0`."""
    if isinstance(key, str | bytes):
        text = key.decode() if isinstance(key, bytes) else key
        if "_" in text:
            raise ValueError
        return int(text)
    if isinstance(key, float | np.floating | bool | np.bool_) or int(key) != key:
        raise TypeError
    return int(key)
