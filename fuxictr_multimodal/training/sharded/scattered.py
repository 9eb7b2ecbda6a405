"""Which row of a sharded table an id has: neighbouring ids are far apart, so that all ranks have as much to do.

Ids are often numbered by how frequent they are; blocks of ids would give most of the work to the first rank. The row of
id i of V is i m mod V, for an m that depends on V alone, so that a file of rows is right for any number of ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scattered:
    """The rows of a table of so many.

    >>> Scattered(10).rows_of(torch.arange(10)).tolist()
    [0, 7, 4, 1, 8, 5, 2, 9, 6, 3]
    >>> Scattered(10).ids_of(range(1, 3)).tolist()
    [3, 6]
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        # Products fit 63 bits.
        self._multiplier = max(min(round(rows * 0.6180339887), 2**62 // rows), 1)
        while math.gcd(self._multiplier, rows) > 1:
            self._multiplier += 1
        self._inverse = pow(self._multiplier, -1, rows) if rows > 1 else 0

    def rows_of(self, ids: Tensor) -> Tensor:
        """The rows in which ids are, both int64."""
        return ids * self._multiplier % self.rows

    def ids_of(self, rows: range) -> Tensor:
        """The ids that are in rows, int64 on the host."""
        return torch.arange(rows.start, rows.stop) * self._inverse % self.rows
