"""Numbers that look random and are the same on every machine, for folds and prints of what is alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mixed(values: NDArray) -> NDArray[np.uint64]:
    """Numbers whose bits depend on all bits of these: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    found = values.astype(np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
