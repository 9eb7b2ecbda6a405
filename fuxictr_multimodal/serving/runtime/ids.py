"""Ids of items to rows of the catalogue: a map that is never changed, only followed by the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .raw_values import shown

Id = str | int
UNKNOWN = -1
_SAME = -2
# A map keeps this many changes, or a part of its ids, beside the ids that it was made of.
LEAST_CHANGES, PART_OF_CHANGES = 1024, 32
# Texts that are longer are no 64-bit number.
LONGEST_NUMBER = 20


@dataclass(frozen=True)
class IdMap:
    """Ids and their rows.

    A change copies the small map of changes. The large one is copied only when changes are many, so that a change costs
    little and a lookup costs at most two.

    Attributes:
        base: row of each id, when the changes were last merged.
        changes: row of each id since then; -1 for one that was removed.
        number: whether ids are whole numbers; else they are texts.
        size: number of ids.
    """

    base: dict[Any, int]
    changes: Mapping[Any, int]
    number: bool
    size: int
    types: frozenset[type] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", frozenset([int if self.number else str]))

    @classmethod
    def of(cls, ids: Sequence[Id | None]) -> IdMap:
        """The map of ids by row; row 0 is padding, whose id is None.

        Raises:
            ValueError: an id is no id, is there twice or of another type than the others.

        >>> IdMap.of([None, "a", "b"]).rows(["b", "c", "a"]).tolist()
        [2, -1, 1]
        """
        own = ids[1:]
        types = set(map(type, own))
        if len(types) > 1 or not types <= {int, str}:
            raise ValueError("ids are not all texts, or all whole numbers")
        base = dict(zip(own, range(1, len(ids)), strict=True))
        if len(base) != len(own):
            raise ValueError("an id is there twice")
        return cls(base, {}, number=types == {int}, size=len(base))

    def keys(self, ids: Sequence[Any], *, what: str) -> Sequence[Id | None]:
        """Ids as this map has them; None for what no id of it is like.

        A number and its text are one id. "007" is not the number 7.

        Args:
            ids: of a caller.
            what: they are, for messages.

        Raises:
            RequestError: a value is no id.
        """
        if self.types.issuperset(map(type, ids)):
            return ids
        return [self._key(one, what) for one in ids]

    def rows(self, keys: Sequence[Id | None]) -> NDArray[np.int64]:
        """Row of each of `keys`, (n,); -1 for an unknown one."""
        count = len(keys)
        found = np.fromiter(map(self.base.get, keys, repeat(UNKNOWN)), np.int64, count)
        if self.changes:
            changed = np.fromiter(map(self.changes.get, keys, repeat(_SAME)), np.int64, count)
            np.copyto(found, changed, where=changed != _SAME)
        return found

    def changed(self, rows: Mapping[Id, int], *, size: int) -> IdMap:
        """The map after some ids have new rows, or -1 where they were removed."""
        changes = {**self.changes, **rows}
        if len(changes) <= max(LEAST_CHANGES, len(self.base) // PART_OF_CHANGES):
            return IdMap(self.base, changes, self.number, size)
        # `copy` of a dictionary is the fastest way: of a million ids in 20 ms, for which all threads wait.
        base = self.base.copy()
        base.update(changes)
        for one in [one for one, row in changes.items() if row == UNKNOWN]:
            del base[one]
        return IdMap(base, {}, self.number, size)

    def _key(self, one: Any, what: str) -> Id | None:
        if isinstance(one, str):
            return _number_of(one) if self.number else str(one)
        # numpy counts a span of time among its whole numbers.
        if isinstance(one, int | np.integer) and not isinstance(one, bool | np.timedelta64):
            # Python writes no more than some thousands of digits.
            with contextlib.suppress(ValueError):
                return int(one) if self.number else str(int(one))
        # Integers with gaps arrive as floats from pandas.
        if self.number and isinstance(one, float | np.floating) and float(one).is_integer():
            return int(one)
        raise RequestError(f"{what}: {shown(one)} is no id; ids are {'whole numbers' if self.number else 'texts'}")


def _number_of(text: str) -> int | None:
    if len(text) <= LONGEST_NUMBER and text.isascii() and text.removeprefix("-").isdigit():
        number = int(text)
        return number if str(number) == text else None
    return None
