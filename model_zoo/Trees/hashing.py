"""Folds of samples by a hash, the same in every split and every process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOLDS = 10


def mixed(values: NDArray) -> NDArray[np.uint64]:
    """Numbers whose bits depend on all bits of these: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    found = values.astype(np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))


def fold_of(*columns: NDArray) -> NDArray[np.int64]:
    """The fold of each row, by these columns of whole numbers."""
    hashed = np.zeros(len(columns[0]), np.uint64)
    for values in columns:
        hashed = mixed(hashed ^ mixed(values))
    return (hashed % np.uint64(FOLDS)).astype(np.int64)
