"""Rows to measure: labels and scores checked, and in order of group and score by one sort of integers.

Symbols: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.errors import DataError, InputError


class UndefinedMetric(InputError):
    """A metric has no value on these rows, for example AUC where all labels are equal."""


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as booleans and scores, one of each a row.

    Raises:
        DataError: a label is neither 0 nor 1.
        UndefinedMetric: a score is NaN.
        ValueError: the lengths differ.
    """
    y = np.asarray(labels).reshape(-1)
    s = np.asarray(scores, dtype=np.float64).reshape(-1)
    same_length(y, s, "scores")
    other = (y != 0) & (y != 1)
    if other.any():
        row = int(other.argmax())
        raise DataError(f"row {row} has label {y[row]}: labels are 0 or 1")
    if np.isnan(s).any():
        raise UndefinedMetric(f"row {int(np.isnan(s).argmax())} has the score NaN")
    return y.astype(bool), s


def some_rows(y: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The rows as they are, if there are any."""
    if not len(y):
        raise UndefinedMetric("there are no samples to measure")
    return y, s


def same_length(labels: NDArray, others: NDArray, name: str) -> None:
    """Refuse a second column of another length."""
    if len(labels) != len(others):
        raise ValueError(f"{len(labels)} labels and {len(others)} {name}: the lengths must agree")


@dataclass(frozen=True)
class Ordered:
    """Rows sorted by group, then score, then label.

    Group, score and label of a row are packed into one integer, so that one sort of plain integers, which numpy does in
    vector instructions, orders all rows.

    Attributes:
        labels: (N,) uint64, 0 or 1.
        score_starts: first rows of the runs of equal scores in one group.
        group_starts: first rows of the groups.
    """

    labels: NDArray[np.uint64]
    score_starts: NDArray[np.int64]
    group_starts: NDArray[np.int64]

    @classmethod
    def of(cls, y: NDArray[np.bool_], s: NDArray[np.float64], groups: NDArray, *, best_first: bool = False) -> Ordered:
        """Sort at least one row.

        Args:
            y: labels (N,).
            s: scores (N,).
            groups: ids (N,) of any type.
            best_first: scores fall in place of rising. Of equal scores the negatives come first either way.
        """
        score_codes, score_bits = _codes(s, most_bits=32)
        if best_first:
            score_codes = np.uint64((1 << score_bits) - 1) - score_codes
        group_codes, _ = _codes(groups, most_bits=63 - score_bits)
        keys = group_codes << np.uint64(score_bits + 1)
        keys |= score_codes << np.uint64(1)
        keys |= y
        keys.sort()
        return cls(keys & np.uint64(1), _starts(keys >> np.uint64(1)), _starts(keys >> np.uint64(score_bits + 1)))


def _starts(values: NDArray) -> NDArray[np.int64]:
    """First positions of the runs of equal values."""
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def _codes(values: NDArray, *, most_bits: int) -> tuple[NDArray[np.uint64], int]:
    """Integers that compare as `values` do, and how many bits they take: at most `most_bits`.

    Integers of a narrow range and floats that float32 holds exactly, as scores of a model are, need no sort for it.
    """
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if (high - low).bit_length() <= most_bits and high < 2**63:
            return (values.astype(np.int64) - low).astype(np.uint64), (high - low).bit_length()
    if values.dtype.kind == "f" and most_bits >= 32:
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if np.array_equal(single, values):
            # Bits of a positive float compare as the float does, those of a negative one the other way round.
            bits = (single + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
            return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64), 32
    codes = np.unique(values, return_inverse=True)[1]
    return codes.astype(np.uint64), int(codes.max()).bit_length()
