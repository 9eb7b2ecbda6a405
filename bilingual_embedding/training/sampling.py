"""The rows of a training step, a pure function of seed and step, so that a resumed run needs no position.

Steps draw a source with given rates; the k-th step of a source takes the k-th batch of its shuffled epochs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import ConfigError


class SourceSchedule:
    """The source of every step, and how often it came before.

    >>> schedule = SourceSchedule([0.5, 0.5], steps=6, seed=0)
    >>> [schedule.at(step) for step in range(3)]
    [(1, 0), (0, 0), (0, 1)]
    """

    def __init__(self, rates: Sequence[float], *, steps: int, seed: int) -> None:
        share = np.asarray(rates, dtype=np.float64)
        if not len(share) or (share < 0).any() or share.sum() <= 0:
            raise ConfigError(f"rates of sources must be positive, found {list(rates)}")
        generator = np.random.default_rng(np.random.SeedSequence((seed, 0)))
        self.sources = generator.choice(len(share), size=steps, p=share / share.sum())
        self.occurrence = np.zeros(steps, dtype=np.int64)
        for source in range(len(share)):
            places = np.flatnonzero(self.sources == source)
            self.occurrence[places] = np.arange(len(places))

    def at(self, step: int) -> tuple[int, int]:
        """Source of a step, and the number of its batch."""
        return int(self.sources[step]), int(self.occurrence[step])


class RowBatches:
    """Batches of a fixed number of rows from epochs in shuffled order; a last partial batch is left out.

    Args:
        rows: how many there are; all of them make one batch where they are fewer than `batch_size`.
        batch_size: rows of a batch.
        seed: of the shuffle.
    """

    def __init__(self, rows: int, *, batch_size: int, seed: int) -> None:
        if rows < 2:
            raise ConfigError(f"a source of {rows} rows after cleaning cannot make a batch of pairs")
        self.rows, self.seed = rows, seed
        self.batch_size = min(batch_size, rows)
        self.per_epoch = rows // self.batch_size

    def batch(self, number: int) -> NDArray[np.int64]:
        """Rows of batch `number`, counted over all epochs."""
        epoch, place = divmod(number, self.per_epoch)
        return _shuffled(self.rows, self.seed, epoch)[place * self.batch_size : (place + 1) * self.batch_size]


class TokenBatches:
    """Batches of about `batch_tokens` tokens: an epoch's shuffled rows cut into parts of equal size.

    Args:
        lengths: tokens of each row.
        batch_tokens: aimed size; a batch differs from it by less than the longest row and one part in their number.
        seed: of the shuffle.
    """

    def __init__(self, lengths: NDArray[np.int64], *, batch_tokens: int, seed: int) -> None:
        if not len(lengths) or lengths.max() > batch_tokens:
            longest = int(lengths.max()) if len(lengths) else 0
            raise ConfigError(f"batch_tokens {batch_tokens} is below the longest row of {longest} tokens")
        self.lengths, self.seed = lengths, seed
        self.per_epoch = max(1, int(lengths.sum()) // batch_tokens)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Rows of batch `number`, counted over all epochs; never empty."""
        epoch, place = divmod(number, self.per_epoch)
        rows = _shuffled(len(self.lengths), self.seed, epoch)
        ends = np.cumsum(self.lengths[rows])
        # A row belongs to the part in which its last token falls: no row spans a whole part, so none is empty.
        part = (ends - 1) * self.per_epoch // ends[-1]
        return rows[part == place]


@functools.lru_cache(maxsize=16)
def _shuffled(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng(np.random.SeedSequence((seed, 1, epoch))).permutation(rows)
