"""Rows of different lengths, stored end to end: offsets from lengths, row numbers, and places of values; numpy only.

Row r of `values` (N,) is `values[offsets[r]:offsets[r + 1]]`; `offsets` (R + 1,) are int64 and begin with 0. Tensors on
any device are `Jagged` of `batch.py`, which calls this module on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


class JaggedArrays(NamedTuple):
    """Histories of some rows as arrays: values (N,), offsets (R + 1,), and columns of events by name, each (N,)."""

    values: Ints
    offsets: Ints
    events: Mapping[str, Ints] = MappingProxyType({})


def offsets_from_lengths(lengths: Ints | Sequence[int]) -> NDArray[np.int64]:
    """Where each row begins, and at the end where the last one stops, (R + 1,).

    >>> offsets_from_lengths([2, 0, 1]).tolist()
    [0, 2, 2, 3]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_numbers(lengths: Ints) -> NDArray[np.int64]:
    """The row of each value, (N,).

    >>> row_numbers(np.array([2, 0, 1])).tolist()
    [0, 0, 2]
    """
    return np.repeat(np.arange(len(lengths)), lengths)


def places_in_rows(lengths: Ints) -> NDArray[np.int64]:
    """The place of each value in its row, from 0, (N,).

    >>> places_in_rows(np.array([2, 0, 1])).tolist()
    [0, 1, 0]
    """
    return slices(np.zeros(len(lengths), dtype=np.int64), lengths)[0]


def slices(starts: Ints, lengths: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gather rows out of a pool of values: where their values lie in it, (N,), and the offsets of the rows, (R + 1,).

    Args:
        starts: place in the pool of each row's first value, (R,).
        lengths: values of each row, (R,).

    >>> where, offsets = slices(np.array([5, 0]), np.array([2, 3]))
    >>> where.tolist(), offsets.tolist()
    ([5, 6, 0, 1, 2], [0, 2, 5])
    """
    offsets = offsets_from_lengths(lengths)
    # Value n of row r lies at starts[r] + (n - offsets[r]).
    where = np.repeat(starts - offsets[:-1], lengths)
    where += np.arange(len(where))
    return where, offsets


def row_at(offsets: Ints, place: int) -> int:
    """The row that holds the value at a place.

    >>> row_at(np.array([0, 2, 2, 3]), 2)
    2
    """
    return int(np.searchsorted(offsets, place, side="right")) - 1
