"""Counts of items and of pairs of items in the histories of train, each without the user who is asked about.

A history of train may hold the target of an earlier sample of the same user. So a sample of train reads counts over the
other users, as one of a user whom train does not know: those of its own user are subtracted, exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from model_zoo.Trees.samples import Samples

# Pairs that are counted at most: of users with long histories some items are left out beyond that.
MOST_PAIRS = 100_000_000
# Keys that are collected until duplicates are dropped.
PENDING = 20_000_000


@dataclass(frozen=True)
class SparseCounts:
    """A sparse matrix of counts whose entries are looked up many at a time.

    Attributes:
        keys: row * columns + column of each entry, ascending.
        counts: its value.
        columns: of the matrix.
    """

    keys: NDArray
    counts: NDArray
    columns: int

    def get(self, rows: NDArray, columns: NDArray) -> NDArray:
        """The entries at these places, which broadcast; 0 where there is none."""
        wanted = rows * self.columns + columns
        if not len(self.keys):
            return np.zeros(wanted.shape, np.int64)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, self.counts[places], 0)


@dataclass(frozen=True)
class Histories:
    """Who holds which items in train.

    Attributes:
        users: the users of train, ascending, (U,).
        held: 1 where a user (row) has an item (column) in a history.
        holders: users who hold an item, (I,).
        pairs: users who hold both of two different items, (I, I).
    """

    users: NDArray
    held: SparseCounts
    holders: NDArray
    pairs: SparseCounts

    @classmethod
    def of(cls, train: Iterable[Samples], items: int, *, most_pairs: int = MOST_PAIRS) -> Histories:
        """Count the histories of train.

        Args:
            train: the samples.
            items: of the item table, I.
            most_pairs: at most so many pairs are counted.
        """
        users, keys = _held(train, items)
        row, column = np.divmod(keys, items)
        kept = _within_budget(row, len(users), most_pairs)
        row, column, keys = row[kept], column[kept], keys[kept]
        held = sparse.csr_array((np.ones(len(row), np.int32), (row, column)), shape=(len(users), items))
        pairs = (held.T @ held).tocoo()
        different = pairs.row != pairs.col
        pair_keys = pairs.row[different].astype(np.int64) * items + pairs.col[different]
        order = np.argsort(pair_keys)
        return cls(
            users,
            SparseCounts(keys, np.ones(len(keys), np.int8), items),
            np.bincount(column, minlength=items),
            SparseCounts(pair_keys[order], pairs.data[different][order], items),
        )

    def rows_of(self, samples: Samples) -> NDArray:
        """The row of the user of each sample of train, (B,); U for other samples."""
        if samples.user is None or not len(self.users):
            return np.full(len(samples), len(self.users))
        places = np.minimum(np.searchsorted(self.users, samples.user), len(self.users) - 1)
        return np.where(self.users[places] == samples.user, places, len(self.users))


def _held(train: Iterable[Samples], items: int) -> tuple[NDArray, NDArray]:
    """The users, ascending, and the distinct user * items + item of their histories, ascending."""
    users, keys = np.empty(0, np.int64), np.empty(0, np.int64)
    waiting: list[tuple[NDArray, NDArray]] = []
    size = 0

    def merge() -> tuple[NDArray, NDArray]:
        owners = np.concatenate([users[keys // items], *(owner for owner, _ in waiting)])
        held = np.concatenate([keys % items, *(item for _, item in waiting)])
        every, row = np.unique(owners, return_inverse=True)
        return every, np.unique(row * items + held)

    for samples in train:
        assert samples.user is not None, "samples of train have a user"
        waiting.append((samples.user[samples.rows], samples.history))
        size += len(samples.history)
        if size > PENDING:
            users, keys = merge()
            waiting, size = [], 0
    return merge()


def _within_budget(row: NDArray, users: int, most_pairs: int) -> NDArray:
    """Which of the entries, sorted by row, stay: a row of n of them makes n² pairs."""
    lengths = np.bincount(row, minlength=users)
    least, most = 1, max(int(lengths.max(initial=0)), 1)
    while least < most:
        middle = (least + most + 1) // 2
        if (np.minimum(lengths, middle).astype(np.int64) ** 2).sum() <= most_pairs:
            least = middle
        else:
            most = middle - 1
    if not (lengths > least).any():
        return np.ones(len(row), bool)
    logging.info("Co-occurrence counts %d items of each user at most, to bound its memory", least)
    # A random choice, the same each time.
    order = np.lexsort((np.random.default_rng(0).random(len(row)), row))
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return place < least
