"""Splits, histories and counts from a log of interactions, computed without information from the future.

One row is one interaction. All arrays of a call have one entry per row, (N,), in any order.
Users and items are dense codes from 0. "Earlier" always means a strictly smaller timestamp: rows of the same
time (MovieLens users rate whole pages in one second) never see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import row_numbers
from fuxictr_multimodal.data.recipes.histories import History, Timeline, run_starts

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


def split_by_time(timestamps: Ints, *, train_fraction: float, valid_fraction: float) -> NDArray[np.int8]:
    """Cut a log at two moments: the split (`TRAIN`, `VALID` or `TEST`) of each row, (N,).

    Rows of one timestamp go together, to the earlier side, so a fraction is reached or slightly exceeded.

    >>> split_by_time(np.array([5, 1, 2, 3, 3, 4]), train_fraction=0.5, valid_fraction=0.2).tolist()
    [2, 0, 0, 0, 0, 1]
    """
    assert len(timestamps), "an empty log has no quantiles"
    in_order = np.sort(timestamps)
    cuts = np.ceil(np.array([train_fraction, train_fraction + valid_fraction]) * len(in_order)).astype(np.int64) - 1
    first, second = in_order[np.clip(cuts, 0, len(in_order) - 1)]
    return ((timestamps > first).astype(np.int8) + (timestamps > second)).astype(np.int8)


def last_fraction_within(keys: Ints, timestamps: Ints, *, fraction: float) -> NDArray[np.bool_]:
    """Mark the last `fraction` of each key's rows by time, (N,).

    Rows of one timestamp go together: the cut is the change of time that lies nearest to the wanted row (the
    later one of two equally near). A key's first time is never marked, so every key keeps a row before the cut.

    >>> last_fraction_within(np.zeros(6, int), np.array([1, 1, 2, 3, 4, 4]), fraction=0.3).tolist()
    [False, False, False, False, True, True]
    >>> last_fraction_within(np.zeros(2, int), np.array([7, 7]), fraction=0.5).tolist()
    [False, False]
    """
    order = np.lexsort((timestamps, keys))
    key_start, time_start = run_starts(keys[order], timestamps[order])
    rows = np.arange(len(order))
    key_change = np.flatnonzero(key_start == rows)
    sizes = np.diff(np.append(key_change, len(order)))
    key_of_row = row_numbers(sizes)
    wanted = key_change + (1 - fraction) * sizes

    # A cut is the first row of a time, or the end of the key; the first row of a key is not a cut.
    cuts = np.flatnonzero((time_start == rows) & (key_start != rows))
    cuts = np.concatenate([cuts, key_change + sizes])
    cut_key = np.concatenate([key_of_row[cuts[: len(cuts) - len(key_change)]], np.arange(len(key_change))])
    distance = np.abs(cuts - wanted[cut_key])
    best = np.lexsort((-cuts, distance, cut_key))
    nearest = cuts[best][np.unique(cut_key[best], return_index=True)[1]]

    marked = np.empty(len(order), dtype=bool)
    marked[order] = rows >= nearest[key_of_row]
    return marked


def earlier_items(users: Ints, timestamps: Ints, items: Ints, *, keep: NDArray[np.bool_], max_len: int) -> History:
    """Each row's history: the last `max_len` items that its user had earlier, of rows where `keep` is true.

    Items of one time keep the order in which they came. Memory: 4 bytes a row for each of about six arrays.

    >>> history = earlier_items(np.zeros(4, int), np.array([1, 2, 2, 3]), np.array([9, 8, 7, 6]),
    ...                         keep=np.array([True, True, False, True]), max_len=64)
    >>> taken = history.take(np.arange(4))
    >>> taken.items.tolist(), taken.offsets.tolist()
    ([9, 9, 9, 8], [0, 0, 1, 2, 4])
    """
    return Timeline(users, timestamps).history(items, keep, max_len=max_len)


def sums_before(
    keys: Ints, timestamps: Ints, values: NDArray, *, counted: NDArray[np.bool_], num_keys: int
) -> tuple[Ints, Floats]:
    """How many counted rows with the row's key are known, and the sum of their values: two (N,).

    A counted row (a training row) knows the earlier counted rows only, never itself, so that with labels as
    values its label is not in its own feature; any other row knows all counted rows.

    >>> count, total = sums_before(np.zeros(4, int), np.array([1, 2, 2, 3]), np.array([1, 0, 1, 1]),
    ...                            counted=np.array([True, True, True, False]), num_keys=1)
    >>> count.tolist(), total.tolist()
    ([0, 1, 1, 3], [0.0, 1.0, 1.0, 2.0])
    """
    rows = np.flatnonzero(counted)
    order = rows[np.lexsort((timestamps[rows], keys[rows]))]
    key_start, time_start = run_starts(keys[order], timestamps[order])
    total_before = np.concatenate([[0.0], np.cumsum(values[order], dtype=np.float64)])

    count = np.bincount(keys[rows], minlength=num_keys)[keys]
    total = np.asarray(np.bincount(keys[rows], weights=values[rows], minlength=num_keys), dtype=np.float64)[keys]
    count[order] = time_start - key_start
    total[order] = total_before[time_start] - total_before[key_start]
    return count, total


def smoothed_mean(total: NDArray, count: Ints, *, prior: float, strength: float) -> Floats:
    """Mean as if `strength` rows with the mean `prior` had been seen before.

    >>> smoothed_mean(np.array([0, 8]), np.array([0, 10]), prior=0.5, strength=10.0).tolist()
    [0.5, 0.65]
    """
    return (total + strength * prior) / (count + strength)


@dataclass(frozen=True)
class Levels:
    """Deciles of a value: levels 1 to 10 by nine boundaries, and 0 where the value is not known."""

    boundaries: Floats

    @classmethod
    def fit(cls, values: Floats, known: NDArray[np.bool_]) -> Levels:
        """Take the boundaries from the known values; without any, all levels are 1 or 0."""
        chosen = values[known]
        return cls(np.quantile(chosen, np.linspace(0.1, 0.9, 9)) if len(chosen) else np.full(9, np.inf))

    def of(self, values: Floats, known: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The level of each value, int32.

        >>> levels = Levels.fit(np.arange(1.0, 11.0), np.ones(10, dtype=bool))
        >>> levels.of(np.array([0.0, 5.0, 99.0, 99.0]), np.array([True, True, True, False])).tolist()
        [1, 5, 10, 0]
        """
        return np.where(known, 1 + np.searchsorted(self.boundaries, values), 0).astype(np.int32)


def additive_scores(
    keys: Sequence[Ints], labels: Ints | Floats, *, fit_rows: NDArray[np.bool_], strength: float
) -> tuple[Floats, ...]:
    """The smoothed mean label of each row's key, as a deviation from the overall mean: one (N,) a key column.

    Fitted on `fit_rows`; an unknown key has deviation 0. The sum over (user, item) is the classic additive
    baseline that any model with such features should pass.
    """
    mean = labels[fit_rows].mean()
    scores = []
    for column in keys:
        size = int(column.max()) + 1
        count = np.bincount(column[fit_rows], minlength=size)
        excess = np.bincount(column[fit_rows], weights=labels[fit_rows] - mean, minlength=size)
        scores.append((excess / (count + strength))[column])
    return tuple(scores)
