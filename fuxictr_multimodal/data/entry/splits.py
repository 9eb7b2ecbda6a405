"""The split of each sample: by time, by user, by each user's last items, by the order of rows or by a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.recipes.histories import run_starts
from fuxictr_multimodal.data.recipes.interactions import SPLITS, TEST, TRAIN, VALID
from fuxictr_multimodal.errors import DataError, did_you_mean

Ints = NDArray[np.integer]
NO_SAMPLE = -1
LEAST_EVENTS = 3


@dataclass(frozen=True)
class Split:
    """How rows are split.

    Attributes:
        of: `TRAIN`, `VALID` or `TEST` of each row, -1 for one that is no sample, (N,) int8.
        known: rows that lie in the training data: what is fitted reads these only, (N,).
        method: the split in words, for the manifest.
        notes: what to tell the user, one line each.
    """

    of: NDArray[np.int8]
    known: NDArray[np.bool_]
    method: str
    notes: tuple[str, ...] = ()

    def checked(self, where: str, *, test: bool) -> Split:
        """The same, if no split that is wanted is empty.

        Raises:
            DataError: one is empty.
        """
        for code, name in enumerate(SPLITS[: 3 if test else 2]):
            if not (self.of == code).any():
                raise DataError(f"{where}: the {name} split is empty ({self.method}): there are too few samples for it")
        return self


def by_time(times: Ints, samples: NDArray[np.bool_], *, valid: float, test: float) -> Split:
    """Cut at two moments, so that valid and test have their fractions of the samples; rows of one time together.

    Rows of the cut's own time go to the earlier side, so train is at least its fraction.

    >>> by_time(np.array([1, 2, 3, 4]), np.ones(4, bool), valid=0.25, test=0.25).of.tolist()
    [0, 0, 1, 2]
    """
    of = np.full(len(times), NO_SAMPLE, dtype=np.int8)
    mine = np.sort(times[samples])
    if not len(mine):
        return Split(of, samples, "by time")
    # 1 - 0.1 - 0.1 is not 0.8 in floating point, and must not move a row.
    wanted = np.ceil(np.round(np.array([1 - valid - test, 1 - test]) * len(mine), 6)).astype(np.int64)
    first, second = mine[np.maximum(wanted, 1) - 1]
    later = (times > first).astype(np.int8) + (times > second)
    of[samples] = later[samples]
    before = f"{_percent(test)} of the samples test, {_percent(valid)} before them" if test else _percent(valid)
    return Split(of, later == TRAIN, f"by time: the last {before} valid")


def by_order(samples: NDArray[np.bool_], *, valid: float, test: float) -> Split:
    """Cut in the order of the rows.

    >>> by_order(np.ones(10, bool), valid=0.2, test=0.1).of.tolist()
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 2]
    """
    split = by_time(np.arange(len(samples)), samples, valid=valid, test=test)
    return Split(split.of, split.known, split.method.replace("time", "order", 1))


def by_user(users: Ints, samples: NDArray[np.bool_], *, valid: float, test: float, seed: int) -> Split:
    """Give whole users to a split at random; fractions are of the users that have a sample.

    Args:
        users: code of each row's user, (N,), from 0.
        samples: which rows are samples, (N,).
        valid: fraction of the users.
        test: fraction of the users.
        seed: of the choice.
    """
    there = np.flatnonzero(np.bincount(users[samples]) if samples.any() else np.zeros(0))
    order = np.random.Generator(np.random.PCG64([seed, 1])).permutation(len(there))
    first, second = round(test * len(there)), round(test * len(there)) + round(valid * len(there))
    of_user = np.full(int(users.max(initial=-1)) + 1, TRAIN, dtype=np.int8)
    of_user[there[order[:first]]], of_user[there[order[first:second]]] = TEST, VALID
    of = of_user[users]
    method = f"users at random: {_percent(valid)} valid, {_percent(test)} test, the rest train (seed {seed})"
    return Split(np.where(samples, of, np.int8(NO_SAMPLE)), of == TRAIN, method)


def last_items(users: Ints, times: Ints, samples: NDArray[np.bool_], *, test: bool) -> Split:
    """Each user's last sample is test, the one before it valid, earlier ones train (without test: the last is valid).

    Of samples of one time, the later row is the last. Users with fewer than 3 samples are in train only.

    >>> last_items(np.zeros(4, int), np.array([3, 1, 2, 4]), np.ones(4, bool), test=True).of.tolist()
    [1, 0, 0, 2]
    """
    rows = np.flatnonzero(samples)
    order = rows[np.lexsort((times[rows], users[rows]))]
    start, _ = run_starts(users[order], times[order])
    sizes = np.bincount(start, minlength=len(order))[start] if len(order) else start
    from_end = start + sizes - 1 - np.arange(len(order))
    long_enough = sizes >= LEAST_EVENTS
    held_out = (TEST, VALID) if test else (VALID,)
    split = np.full(len(order), TRAIN, dtype=np.int8)
    for place, code in enumerate(held_out):
        split[(from_end == place) & long_enough] = code
    of = np.full(len(users), NO_SAMPLE, dtype=np.int8)
    of[order] = split
    # An event that is no sample is known to train if it is older than all that is held out of its user.
    first_held_out = np.full(int(users.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    later = order[split != TRAIN]
    np.minimum.at(first_held_out, users[later], times[later])
    known = np.where(samples, of == TRAIN, times < first_held_out[users])
    short = len(np.unique(users[order[~long_enough]]))
    which = "test, the one before it valid" if test else "valid"
    notes = (f"{short:,} users have fewer than {LEAST_EVENTS} samples: they are in train only",) if short else ()
    return Split(of, known, f"the last sample of each user {which}; earlier ones train", notes)


def by_column(codes: NDArray[np.int8], samples: NDArray[np.bool_], *, column: str) -> Split:
    """Take the split from a column, whose values are `codes` (N,) as `fold_codes` gives them."""
    return Split(np.where(samples, codes, np.int8(NO_SAMPLE)), codes == TRAIN, f"by column {column!r}")


def fold_codes(values: Sequence[str | None], *, where: str, first_row: int = 0) -> NDArray[np.int8]:
    """`TRAIN`, `VALID` or `TEST` of the texts `train`, `valid` and `test`, (rows,) int8.

    Raises:
        DataError: another value, named with its row.

    >>> fold_codes(["valid", "train"], where="log.csv: column 'fold'").tolist()
    [1, 0]
    """
    known = {name: code for code, name in enumerate(SPLITS)}
    codes = np.fromiter((known.get(value or "", -1) for value in values), dtype=np.int8, count=len(values))
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"{where}, row {first_row + row}: {values[row]!r} is no split. {did_you_mean(str(values[row]), known)}"
        )
    return codes


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g}%"


def newest_positive(
    users: Ints, times: Ints, split: NDArray[np.int8], positive: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mark the last positive sample of each user in each split, (N,); of samples of one time the later row.

    >>> newest_positive(np.zeros(3, int), np.array([1, 2, 3]), np.array([0, 0, 1], np.int8), np.ones(3, bool)).tolist()
    [False, True, True]
    """
    rows = np.flatnonzero(positive & (split >= 0))
    keys = users[rows].astype(np.int64) * len(SPLITS) + split[rows]
    order = rows[np.lexsort((times[rows], keys))]
    keys = users[order].astype(np.int64) * len(SPLITS) + split[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = keys[1:] != keys[:-1]
    marked = np.zeros(len(users), dtype=bool)
    marked[order[last]] = True
    return marked
