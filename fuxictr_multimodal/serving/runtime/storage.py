"""One array of the catalogue: rows stored as float32, float16, int8 or codes, widened when gathered, written by row.

Shape legend: N rows, n of them gathered or written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCALE = ".scale"
FIRST_ROWS = 1024


def quantised(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows as whole numbers from -127 to 127 and the scale of each, (n, ...) int8 and (n, 1) float32.

    A value is its number times the scale of its row, off by at most half a scale.

    >>> numbers, scale = quantised(np.array([[0.5, -1.27], [0.0, 0.0]], np.float32))
    >>> numbers.tolist(), [round(float(one), 4) for one in scale[:, 0]]
    ([[50, -127], [0, 0]], [0.01, 1.0])
    """
    rows = values.reshape(len(values), -1)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(rows / scale).clip(-127, 127).astype(np.int8).reshape(values.shape), scale


@dataclass(frozen=True)
class Rows:
    """Numbered rows in two parts, so that growth never copies what was loaded.

    Attributes:
        base: rows that were loaded, (N, ...).
        tail: rows after them, with room to grow.
    """

    base: NDArray
    tail: NDArray

    @classmethod
    def of(cls, base: NDArray) -> Rows:
        """Rows as they were loaded, without any after them."""
        # What a file gave may be read-only, and freed rows are written again.
        return cls(base if base.flags.writeable else base.copy(), np.empty((0, *base.shape[1:]), base.dtype))

    def gather(self, rows: NDArray[np.int64]) -> NDArray:
        """Copies of rows, (n, ...)."""
        late = rows >= len(self.base)
        if not late.any():
            return self.base.take(rows, axis=0, mode="clip")
        found = self.base.take(np.where(late, 0, rows), axis=0, mode="clip")
        found[late] = self.tail[rows[late] - len(self.base)]
        return found

    def grown(self, size: int) -> Rows:
        """The same rows with room for `size` of them; the tail doubles, so that growth is cheap."""
        needed = size - len(self.base)
        if needed <= len(self.tail):
            return self
        tail = np.empty((max(needed, 2 * len(self.tail), FIRST_ROWS), *self.tail.shape[1:]), self.tail.dtype)
        tail[: len(self.tail)] = self.tail
        return Rows(self.base, tail)

    def write(self, rows: NDArray[np.int64], values: NDArray) -> None:
        """Write rows in place: no reader may have them."""
        late = rows >= len(self.base)
        self.base[rows[~late]] = values[~late]
        self.tail[rows[late] - len(self.base)] = values[late]


@dataclass(frozen=True)
class Stored:
    """An array of the catalogue as it is kept.

    Attributes:
        rows: float32, float16, int8 or whole numbers, (N, ...).
        scale: of each row where they are int8, (N, 1).
    """

    rows: Rows
    scale: Rows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.rows.base.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """Type of gathered values: float32, or int64 for codes."""
        codes = self.scale is None and self.rows.base.dtype.kind in "iu"
        return np.dtype(np.int64 if codes else np.float32)

    def gather(self, rows: NDArray[np.int64]) -> NDArray:
        """Values of rows, (n, ...)."""
        found = self.rows.gather(rows)
        if self.scale is not None:
            wide = found.astype(np.float32)
            wide *= self.scale.gather(rows).reshape(-1, *[1] * len(self.shape))
            return wide
        return found.astype(self.dtype, copy=False)

    def grown(self, size: int) -> Stored:
        """The same array with room for `size` rows."""
        return Stored(self.rows.grown(size), None if self.scale is None else self.scale.grown(size))

    def packed(self, values: NDArray) -> tuple[NDArray, NDArray | None]:
        """Values as they are kept, and their scales.

        Raises:
            OverflowError: a value is too large for float16 or for the codes' type.
        """
        if self.scale is not None:
            return quantised(values.astype(np.float32, copy=False))
        dtype = self.rows.base.dtype
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if values.size and (values.min() < limits.min or values.max() > limits.max):
                raise OverflowError(f"a code does not fit {dtype}")
            return values.astype(dtype), None
        with np.errstate(over="ignore"):
            kept = values.astype(dtype, copy=False)
        if not np.isfinite(kept).all():
            raise OverflowError(f"a value does not fit {dtype}")
        return kept, None

    def write(self, rows: NDArray[np.int64], packed: tuple[NDArray, NDArray | None]) -> None:
        """Write what `packed` gave in place: no reader may have these rows."""
        values, scale = packed
        self.rows.write(rows, values)
        if self.scale is not None and scale is not None:
            self.scale.write(rows, scale)
