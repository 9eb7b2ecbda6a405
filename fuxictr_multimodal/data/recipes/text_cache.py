"""Vectors of texts that were encoded before, by a hash of the text; a file that is damaged is never believed.

Symbols: N texts, K texts in the file, D width of their vectors.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import kept_if_possible, locked, remove_stale_temporaries, replace_atomically
from fuxictr_multimodal.system.untrusted.archives import ZIP_ERRORS, read_npz

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
KEY_BYTES, CHECK_BYTES = 16, 32
ARRAYS = ("check", "keys", "vectors")
FILE_NAME = "vectors.npz"


def encoded_once(texts: Sequence[str], load: Callable[[], Embed], *, folder: Path) -> tuple[NDArray[np.float32], int]:
    """Vectors (N, D) of distinct texts, and how many of them were not in the cache.

    Processes that share the cache add to it one after another; each file is written aside and renamed. Where it cannot
    be written, a warning says so and the vectors are returned all the same.

    Args:
        texts: N distinct texts.
        load: loads the encoder; called where a text is missing.
        folder: the cache of this encoder, and of no other.

    Raises:
        DataError: the encoder gives no finite vectors of one width.
    """
    file = folder / FILE_NAME
    stored = _read(file, warn=True)
    keys = [hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest() for text in texts]
    missing = [row for row, key in enumerate(keys) if key not in stored]
    if missing:
        made = _checked(load()([texts[row] for row in missing]), rows=len(missing))
        width = next((len(vector) for vector in stored.values()), made.shape[1])
        if width != made.shape[1]:
            raise DataError(f"{file} has vectors of width {width}, the encoder {made.shape[1]}: remove the folder")
        fresh = {keys[row]: vector for row, vector in zip(missing, made, strict=True)}
        try:
            with kept_if_possible(file):
                folder.mkdir(parents=True, exist_ok=True)
                with locked(folder / ".lock"):
                    remove_stale_temporaries([file])
                    # Another process may have added texts meanwhile.
                    _write(file, {**_read(file, warn=False), **fresh})
        except DataError as error:  # of the lock
            logging.warning("%s cannot be written (%s); the result is not affected", file, error)
        stored = {**stored, **fresh}
    return np.stack([stored[key] for key in keys]), len(missing)


def _checked(vectors: NDArray[np.float32], *, rows: int) -> NDArray[np.float32]:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise DataError(f"the encoder gives an array of shape {vectors.shape} for {rows} texts, not a vector for each")
    if not np.isfinite(vectors).all():
        raise DataError("the encoder gives values that are not finite: its weights are damaged; train or copy it again")
    return vectors


def _read(file: Path, *, warn: bool) -> dict[bytes, NDArray[np.float32]]:
    """Vectors (D,) by key; none of a file that is missing or damaged."""
    if not file.exists():
        return {}
    try:
        found = read_npz(file, ARRAYS)
        if absent := [name for name in ARRAYS if name not in found]:
            raise ValueError(f"it has no array {absent[0]!r}")
        keys_KB, vectors_KD = found["keys"], found["vectors"]
        if found["check"].tobytes() != _check(file, keys_KB, vectors_KD):
            raise ValueError("its checksum is another one")
        return dict(zip(map(bytes, keys_KB), vectors_KD, strict=True))
    except (*ZIP_ERRORS, ValueError, KeyError, TypeError) as error:
        if warn:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logging.warning("%s is damaged (%s): its texts are encoded again", file, reason)
        return {}


def _write(file: Path, vectors: dict[bytes, NDArray[np.float32]]) -> None:
    keys_KB = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(-1, KEY_BYTES)
    vectors_KD = np.stack(list(vectors.values()))
    check = np.frombuffer(_check(file, keys_KB, vectors_KD), dtype=np.uint8)
    with replace_atomically(file) as temporary, temporary.open("wb") as content:
        np.savez(content, keys=keys_KB, vectors=vectors_KD, check=check)


def _check(file: Path, keys_KB: NDArray[np.uint8], vectors_KD: NDArray[np.float32]) -> bytes:
    """Checksum of the arrays, their shapes and types, and of the encoder, after which the folder is named."""
    digest = hashlib.blake2b(file.parent.name.encode(), digest_size=CHECK_BYTES)
    for array in (keys_KB, vectors_KD):
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
