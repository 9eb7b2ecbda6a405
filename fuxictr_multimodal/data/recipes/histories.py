"""Histories of a log: the events that a user had strictly earlier, for each kind of event, with their features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import slices

Ints = NDArray[np.integer]
MOST_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True)
class History:
    """One kind of history of all rows: row i has `pool[start[i]:stop[i]]`, oldest first.

    Attributes:
        items: the item of each event of the pool, (P,) int32.
        start: place in the pool of the first event of each row, (N,).
        stop: where the events of each row end, (N,).
        columns: what else is known of the events of the pool, by name, each (P,).
    """

    items: NDArray[np.int32]
    start: Ints
    stop: Ints
    columns: Mapping[str, NDArray]

    def take(self, rows: Ints) -> Taken:
        """The histories of some rows."""
        start = self.start[rows].astype(np.int64)
        where, offsets = slices(start, self.stop[rows] - start)
        return Taken(self, where, offsets)


@dataclass(frozen=True)
class Taken:
    """Histories of R rows: events end to end.

    Attributes:
        history: where they come from.
        where: place of each event in the pool, (M,).
        offsets: row r has events `offsets[r]` to `offsets[r + 1]`, (R + 1,) from 0.
    """

    history: History
    where: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def items(self) -> NDArray[np.int32]:
        """Item of each event, (M,)."""
        return self.history.items[self.where]

    def column(self, name: str) -> NDArray:
        """What is known of each event under a name, (M,)."""
        return self.history.columns[name][self.where]

    def of_rows(self, values: NDArray) -> NDArray:
        """The value of its row for each event, (M,), from values (R,)."""
        return np.repeat(values, np.diff(self.offsets))


class Timeline:
    """The events of a log in the order of users and times. Equal times keep the order of the rows.

    An event is earlier than a row if its time is strictly smaller: events of one time never see each other.

    Args:
        users: code of each row's user, (N,).
        times: time of each row, (N,); None for a log without times, in which earlier rows are earlier.
    """

    def __init__(self, users: Ints, times: Ints | None) -> None:
        rows = len(users)
        size = np.int32 if rows <= MOST_INT32 else np.int64
        if times is None or not (np.diff(times) < 0).any():
            order = np.argsort(users, kind="stable")
        else:
            order = np.lexsort((times, users))
        user_start, time_start = run_starts(users[order], order if times is None else times[order])
        self._order = order.astype(size)
        self._user_start, self._time_start = user_start.astype(size), time_start.astype(size)

    def history(
        self, items: Ints, keep: NDArray[np.bool_], *, max_len: int, columns: Mapping[str, NDArray] | None = None
    ) -> History:
        """For each row the last `max_len` of its user's earlier events where `keep` is true.

        Args:
            items: item of each row, (N,).
            keep: which rows are events of this history, (N,).
            max_len: most events of a row.
            columns: what else is known of each row by name, (N,).
        """
        order = self._order
        kept = keep[order]
        before = np.cumsum(kept, dtype=order.dtype)
        before -= kept
        start, stop = np.empty(len(order), dtype=order.dtype), np.empty(len(order), dtype=order.dtype)
        last = before[self._time_start]
        stop[order] = last
        start[order] = np.maximum(before[self._user_start], last - max_len)
        pool = order[kept]
        return History(
            items[pool].astype(np.int32, copy=False),
            start,
            stop,
            {name: values[pool] for name, values in (columns or {}).items()},
        )


def run_starts(major: Ints, minor: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For rows sorted by (major, minor): the first row of each row's major run and of its (major, minor) run."""
    rows = np.arange(len(major))
    new_major = np.ones(len(major), dtype=bool)
    new_major[1:] = major[1:] != major[:-1]
    new_minor = new_major.copy()
    new_minor[1:] |= minor[1:] != minor[:-1]
    first = np.maximum.accumulate(np.where(new_major, rows, 0))
    return first, np.maximum.accumulate(np.where(new_minor, rows, 0))
