"""What training users did before their last training sample: the only behaviour that item vectors may count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.hashing import mixed
from fuxictr_multimodal.data.jagged import offsets_from_lengths, slices
from fuxictr_multimodal.data.store.ids import IdMap

Ints = NDArray[np.integer]
# Length of the history of a user without a sample.
NEVER = -1
# Values that are let lie in memory before what is replaced is dropped.
LEAST_POOL = 4_000_000


@dataclass(frozen=True)
class UserEvents:
    """Events of users, oldest first: user u has items `items[offsets[u]:offsets[u + 1]]`.

    Attributes:
        items: item of each event, (E,) int32.
        offsets: (U + 1,) int64 from 0.
        users: what tells each user from the others, the same in every build of the data, (U,).
        exposed: whether the target of a sample of any split stands among the events of its own user.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    users: Sequence[Any] | NDArray
    exposed: bool

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, chosen: NDArray[np.bool_]) -> UserEvents:
        """The chosen users, (U,)."""
        rows = np.flatnonzero(chosen)
        lengths = np.diff(self.offsets)[rows]
        where, offsets = slices(self.offsets[rows], lengths)
        users = np.asarray(self.users, dtype=object)[rows]
        return replace(self, items=self.items[where], offsets=offsets, users=users)

    def folds(self, folds: int) -> NDArray[np.uint8]:
        """The fold of each user, 1 to `folds`, by a hash of its id that depends on nothing else, (U,)."""
        return np.fromiter((fold_of(user, folds) for user in self.users), dtype=np.uint8, count=len(self))

    @classmethod
    def of_log(
        cls, users: Ints, times: Ints, items: Ints, *, samples: NDArray, events: NDArray, names: Any
    ) -> UserEvents:
        """Of a log: the events that stand in the history of a training sample, by their strictly earlier time.

        Args:
            users: code of each row's user, (rows,).
            times: time of each row, (rows,).
            items: item of each row, (rows,).
            samples: rows that are training samples, (rows,).
            events: rows that histories hold and that lie in the training data, (rows,).
            names: the id of each user by code.
        """
        count = int(users.max(initial=-1)) + 1
        last = np.full(count, np.iinfo(np.int64).min)
        np.maximum.at(last, users[samples], times[samples])
        rows = np.flatnonzero(events & (times < last[users]))
        rows = rows[np.lexsort((times[rows], users[rows]))]
        lengths = np.bincount(users[rows], minlength=count)
        there = np.flatnonzero(lengths)
        known = np.unique(_pairs(users[rows], items[rows]))
        targets = _pairs(users[samples], items[samples])
        return cls(
            items[rows].astype(np.int32),
            offsets_from_lengths(lengths[there]),
            np.asarray(names, dtype=object)[there],
            bool(np.isin(targets, known).any()),
        )


class LongestHistories:
    """Collects the longest history of each user from training samples that come in pieces.

    Of equally long ones the latest is kept. Memory: these histories twice, and the targets of valid and test.
    """

    def __init__(self) -> None:
        self._users: IdMap | None = None
        self._pool: list[NDArray[np.int32]] = []
        self._size = 0
        self._starts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._lengths: NDArray[np.int64] = np.full(0, NEVER)
        self._prints: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._exposed = False
        # Distinct pairs of user and target in valid and test, as one number each.
        self._held_out: list[NDArray[np.int64]] = []

    def add(self, users: pl.Series, values: Ints, offsets: NDArray[np.int64], targets: Ints) -> None:
        """Add training samples.

        Args:
            users: of each sample, (rows,); one without a user is left out.
            values: items of all histories end to end, (N,).
            offsets: sample r has items `offsets[r]` to `offsets[r + 1]`, (rows + 1,).
            targets: (rows,).
        """
        codes = self._codes(users)
        lengths, prints = np.diff(offsets), _prints(values, offsets)
        known = np.flatnonzero(codes >= 0)
        # In a history of its own, or of another sample of its user: then these two samples have different ones.
        self._exposed |= bool((values == np.repeat(np.where(codes >= 0, targets, -1), lengths)).any())
        first = np.unique(codes[known], return_index=True)
        new = self._lengths[first[0]] == NEVER
        self._prints[first[0][new]] = prints[known[first[1][new]]]
        self._exposed |= bool((prints[known] != self._prints[codes[known]]).any())
        order = known[np.lexsort((known, lengths[known], codes[known]))]
        last = order[np.append(codes[order][1:] != codes[order][:-1], True)] if len(order) else order
        better = last[lengths[last] >= self._lengths[codes[last]]]
        where, at = slices(offsets[better], lengths[better])
        self._starts[codes[better]], self._lengths[codes[better]] = self._size + at[:-1], lengths[better]
        self._pool.append(values[where].astype(np.int32, copy=False))
        self._size += len(where)
        if self._size > 2 * self._lengths.clip(min=0).sum() + LEAST_POOL:
            self._compact()

    def add_held_out(self, users: pl.Series, targets: Ints) -> None:
        """Add samples of valid and test, whose histories are not counted: a counted one may hold their targets.

        Args:
            users: of each sample, (rows,); one without a user is left out.
            targets: numbered like the items of training histories, at least 0, (rows,).
        """
        if self._exposed:
            return
        codes = self._codes(users)
        self._held_out.append(np.unique(_pairs(codes, targets)[codes >= 0]))

    def _codes(self, users: pl.Series) -> NDArray[np.int64]:
        """The code of each user, -1 without one; new users get one."""
        self._users = IdMap.of(users) if self._users is None else self._users.extended(users)
        self._grow(len(self._users))
        return self._users.codes(users)

    def _grow(self, users: int) -> None:
        more = users - len(self._starts)
        self._starts, self._prints = np.pad(self._starts, (0, more)), np.pad(self._prints, (0, more))
        self._lengths = np.pad(self._lengths, (0, more), constant_values=NEVER)

    def _compact(self) -> None:
        where, offsets = slices(self._starts, self._lengths.clip(min=0))
        pool = np.concatenate(self._pool)[where] if self._pool else np.zeros(0, dtype=np.int32)
        self._pool, self._size, self._starts = [pool], len(pool), offsets[:-1]

    def events(self) -> UserEvents:
        """Those of the users that have a history."""
        self._compact()
        there = np.flatnonzero(self._lengths > 0)
        lengths = self._lengths[there]
        ids: list[Any] = [] if self._users is None else self._users.ids.gather(there).to_list()
        if self._held_out and not self._exposed:
            counted = _pairs(np.repeat(there, lengths), self._pool[0])
            self._exposed = bool(np.isin(np.concatenate(self._held_out), counted).any())
        return UserEvents(self._pool[0], offsets_from_lengths(lengths), ids, self._exposed)


def _pairs(users: Ints, items: Ints) -> NDArray[np.int64]:
    """One number for each pair of a user and an item."""
    return (users.astype(np.int64) << 32) | items.astype(np.int64)


def _prints(values: Ints, offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each history that two different ones share by a chance of 2^-64."""
    place = np.arange(len(values), dtype=np.uint64)
    place -= np.repeat(offsets[:-1], np.diff(offsets)).astype(np.uint64)
    of_place = mixed((place << np.uint64(32)) + values.astype(np.uint64))
    total = np.append(np.uint64(0), np.cumsum(of_place, dtype=np.uint64))
    return total[offsets[1:]] - total[offsets[:-1]]


def fold_of(user: Any, folds: int) -> int:
    """The fold of a user, 1 to `folds`.

    >>> [fold_of(user, 5) for user in (1, 2, "1", "anna")]
    [1, 1, 1, 3]
    """
    digest = hashlib.blake2b(str(user).encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % folds
