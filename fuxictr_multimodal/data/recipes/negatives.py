"""Sampled negatives: items that a user has not seen, uniform or by popularity, with an exact ratio.

Symbols: P positives of a call, R negatives for each, N items, U users (codes from 0).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError

Ints = NDArray[np.integer]

ROUNDS = 30


class NegativeSampler:
    """Draws R different items for each positive, none of which its user has seen at any time.

    An item is drawn with a probability in proportion to its weight among the items that are left for the user; an item
    of weight 0 is never drawn. One seed gives one sequence of draws.

    Args:
        users: code of the user of each interaction, (I,).
        items: item of each interaction, (I,); these are the seen items.
        weights: weight of each item, (N,), whole numbers from 0.
        ratio: R, at least 1.
        seed: of the generator.
        names: what to call each user code in a message, (U,).

    Raises:
        DataError: a user has fewer than R items left.

    >>> sampler = NegativeSampler(users=np.array([0, 0, 1]), items=np.array([1, 2, 1]),
    ...                           weights=np.array([0, 1, 1, 1, 1]), ratio=2, seed=1, names=np.array([7, 8]))
    >>> np.sort(sampler.draw(np.array([0, 0]))).tolist()
    [[3, 4], [3, 4]]
    """

    def __init__(
        self, *, users: Ints, items: Ints, weights: Ints, ratio: int, seed: int, names: Ints | pl.Series
    ) -> None:
        self._num_items = len(weights)
        self.ratio = ratio
        self._weights = weights.astype(np.int64)
        self._ends = np.cumsum(self._weights)
        # Sorted and distinct; np.unique would hash first, which is slower where almost all are distinct.
        seen = np.sort(users.astype(np.int64) * self._num_items + items)
        self._seen = seen[np.append(True, seen[1:] != seen[:-1])[: len(seen)]]
        self._rng = np.random.Generator(np.random.PCG64(seed))
        in_pool = self._weights > 0
        seen_of_pool = np.bincount(
            self._seen // self._num_items, weights=in_pool[self._seen % self._num_items], minlength=len(names)
        )
        left = int(in_pool.sum()) - seen_of_pool.astype(np.int64)
        if (left < ratio).any():
            user = int(np.argmax(left < ratio))
            raise DataError(
                f"user {names[user]} has seen all but {left[user]} of the {int(in_pool.sum())} items that negatives "
                f"are drawn from, but {ratio} are wanted for each positive: lower the ratio"
            )

    def draw(self, users: Ints, generator: np.random.Generator | None = None) -> NDArray[np.int64]:
        """Negatives (P, R) for positives of these users (P,), by the sampler's generator unless another is given."""
        rng = generator or self._rng
        drawn = self._draw(len(users) * self.ratio, rng).reshape(len(users), self.ratio)
        wrong = np.flatnonzero(self._wrong(users, drawn).any(axis=1))
        for _ in range(ROUNDS):
            if not len(wrong):
                return drawn
            bad = self._wrong(users[wrong], drawn[wrong])
            again = drawn[wrong]
            again[bad] = self._draw(int(bad.sum()), rng)
            drawn[wrong] = again
            wrong = wrong[self._wrong(users[wrong], again).any(axis=1)]
        # Few rows are left, of users who have seen most of the weight: they draw from what is left for them.
        for row in wrong:
            drawn[row] = self._exactly(int(users[row]), rng)
        return drawn

    def _draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        ticket = rng.integers(0, self._ends[-1], count)
        return np.searchsorted(self._ends, ticket, side="right")

    def _wrong(self, users: Ints, drawn: Ints) -> NDArray[np.bool_]:
        """Which draws are seen by their user or repeat an earlier one of their row, (P, R)."""
        keys = users.astype(np.int64)[:, None] * self._num_items + drawn
        place = np.minimum(np.searchsorted(self._seen, keys), len(self._seen) - 1)
        wrong = self._seen[place] == keys
        order = np.argsort(drawn, axis=1, kind="stable")
        in_order = np.take_along_axis(drawn, order, axis=1)
        repeats = np.zeros_like(wrong)
        np.put_along_axis(repeats, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
        return wrong | repeats

    def _exactly(self, user: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """R draws without replacement from the items that the user has left."""
        low, high = np.searchsorted(self._seen, [user * self._num_items, (user + 1) * self._num_items])
        weights = self._weights.copy()
        weights[self._seen[low:high] % self._num_items] = 0
        return rng.choice(self._num_items, self.ratio, replace=False, p=weights / weights.sum())
