"""What training users did before their last training sample: the only behaviour that item vectors may count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import offsets_from_lengths, slices

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class UserEvents:
    """Events of users, oldest first: user u has items `items[offsets[u]:offsets[u + 1]]`.

    Attributes:
        items: item of each event, (E,) int32.
        offsets: (U + 1,) int64 from 0.
        users: what tells each user from the others, the same in every build of the data, (U,).
        exposed: whether the target of a training sample stands among the events of its own user.
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
        size = int(items.max(initial=0)) + 1
        known = np.unique(users[rows].astype(np.int64) * size + items[rows])
        targets = users[samples].astype(np.int64) * size + items[samples]
        return cls(
            items[rows].astype(np.int32),
            offsets_from_lengths(lengths[there]),
            np.asarray(names, dtype=object)[there],
            bool(np.isin(targets, known).any()),
        )


def fold_of(user: Any, folds: int) -> int:
    """The fold of a user, 1 to `folds`.

    >>> [fold_of(user, 5) for user in (1, 2, "1", "anna")]
    [1, 1, 1, 3]
    """
    digest = hashlib.blake2b(str(user).encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % folds
