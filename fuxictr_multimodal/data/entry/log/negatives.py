"""Negatives of a split's positives, drawn in blocks: the same whatever pieces they are asked for in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.recipes.negatives import NegativeSampler

Ints = NDArray[np.integer]
BLOCK = 1 << 16


class SplitNegatives:
    """The negatives of one split.

    Each block of 65,536 positives has a generator of its own, so that memory holds one block and the draws depend only
    on the seed, the split and the place of a positive in it.

    Args:
        sampler: draws what a user has not seen.
        users: code of the user of each positive of the split, (P,), in their order.
        seed: of the draws.
        split: code of the split.
    """

    def __init__(self, sampler: NegativeSampler, users: Ints, *, seed: int, split: int) -> None:
        self._sampler = sampler
        self._users = users
        self._seed, self._split = seed, split
        self._block = -1
        self._drawn: NDArray[np.int64] = np.empty((0, sampler.ratio), dtype=np.int64)

    def take(self, start: int, stop: int) -> NDArray[np.int64]:
        """Negatives of positives `start` to `stop - 1`, (stop - start, ratio)."""
        pieces = [self._drawn[:0]]
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            first = block * BLOCK
            pieces.append(self._of(block)[max(start - first, 0) : stop - first])
        return np.concatenate(pieces)

    def _of(self, block: int) -> NDArray[np.int64]:
        if block != self._block:
            generator = np.random.Generator(np.random.PCG64([self._seed, 2, self._split, block]))
            users = self._users[block * BLOCK : (block + 1) * BLOCK]
            self._drawn, self._block = self._sampler.draw(users, generator), block
        return self._drawn
