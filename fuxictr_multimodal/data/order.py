"""The seeded order in which an epoch visits the rows of a split: pure functions of seed, epoch and block boundaries.

A split is a list of blocks, each a range of rows `(start, stop)` as stored on disk. A shuffled epoch visits the blocks
in random order and pools them into windows; rows are shuffled inside a window. A reader thus touches every block
once and holds one window, and both loader modes, on every machine, give the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Block = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Blocks that are in memory together.

    Attributes:
        blocks: row ranges, in the order in which they are pooled end to end.
        picks: positions in the pooled rows, in the order in which they are yielded.
    """

    blocks: tuple[Block, ...]
    picks: np.ndarray | range

    def rows(self) -> np.ndarray:
        """The same picks as row numbers of the split, int64."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.blocks])[self.picks]


def shuffled_windows(blocks: Sequence[Block], *, seed: int, epoch: int, window: int, skip: int = 0) -> Iterator[Window]:
    """Yield the windows of a shuffled epoch, from the row after `skip` rows on.

    Args:
        blocks: row ranges of the split.
        seed, epoch: not negative; together they are the entropy of numpy's PCG64.
        window: the most blocks in a window; windows are made as even as the number of blocks allows.
        skip: rows of this epoch that were already yielded. Skipped windows cost nothing.

    >>> for part in shuffled_windows([(0, 3), (3, 6), (6, 8)], seed=1, epoch=0, window=2):
    ...     print(part.blocks, part.rows())
    ((0, 3), (3, 6)) [4 5 1 2 3 0]
    ((6, 8),) [7 6]
    """
    visit = _generator(seed, epoch).permutation(len(blocks))
    count = -(-len(blocks) // window)
    for index, members in enumerate(np.array_split(visit, count) if count else ()):
        pooled = tuple(blocks[member] for member in members)
        size = sum(stop - start for start, stop in pooled)
        if skip < size:
            yield Window(pooled, _generator(seed, epoch, index).permutation(size)[skip:])
        skip = max(skip - size, 0)


def stored_windows(blocks: Sequence[Block], *, skip: int = 0) -> Iterator[Window]:
    """Yield one window a block in stored order, from the row after `skip` rows on.

    >>> [window.rows().tolist() for window in stored_windows([(0, 3), (3, 6), (6, 8)], skip=4)]
    [[4, 5], [6, 7]]
    """
    for start, stop in blocks:
        if skip < stop - start:
            yield Window(((start, stop),), range(skip, stop - start))
        skip = max(skip - (stop - start), 0)


def epoch_rows(blocks: Sequence[Block], *, seed: int, epoch: int, window: int) -> np.ndarray:
    """Return all row numbers of a shuffled epoch in order, (rows,) int64.

    >>> epoch_rows([(0, 3), (3, 6), (6, 8)], seed=1, epoch=0, window=2)
    array([4, 5, 1, 2, 3, 0, 7, 6])
    """
    windows = shuffled_windows(blocks, seed=seed, epoch=epoch, window=window)
    return np.concatenate([np.empty(0, np.int64), *(part.rows() for part in windows)])


def _generator(seed: int, epoch: int, *spawn_key: int) -> np.random.Generator:
    # A window has its own generator, so that resuming in the middle of an epoch draws nothing for what it skips.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch), spawn_key=spawn_key)))
