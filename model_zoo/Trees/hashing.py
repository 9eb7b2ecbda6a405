"""Folds of samples by a hash, the same in every split and every process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.hashing import mixed

FOLDS = 10


def fold_of(*columns: NDArray) -> NDArray[np.int64]:
    """The fold of each row, by these columns of whole numbers."""
    hashed = np.zeros(len(columns[0]), np.uint64)
    for values in columns:
        hashed = mixed(hashed ^ mixed(values))
    return (hashed % np.uint64(FOLDS)).astype(np.int64)
