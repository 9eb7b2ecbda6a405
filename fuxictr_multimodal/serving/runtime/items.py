"""The catalogue: items that are added, changed and removed while requests run, each of which sees one version.

Shape legend: N rows of the catalogue, row 0 is padding; n items of a change.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .ids import UNKNOWN, Id, IdMap
from .storage import Stored


@dataclass(frozen=True, eq=False)
class Version:
    """The catalogue as one request sees it; later changes do not reach it.

    Attributes:
        ids: rows of the items.
        arrays: what the graph reads of items, by name.
        number: of changes so far.
    """

    ids: IdMap
    arrays: Mapping[str, Stored]
    number: int = 0


class Catalogue:
    """Items by id, and what the graph reads of them.

    A change writes rows that no version has, then publishes the next version by one assignment. Readers wait for
    nothing. A row that is given up is written again when no version that had it is in use any more.

    Args:
        ids: of the rows that were loaded.
        arrays: of these rows.
        size: N.
    """

    def __init__(self, ids: IdMap, arrays: Mapping[str, Stored], size: int) -> None:
        self._lock = threading.Lock()
        self._version = Version(ids, arrays)
        self._size = size
        self._free: list[int] = []
        # Rows that were given up, with the last version that had them.
        self._given_up: deque[tuple[weakref.ref[Version], list[int]]] = deque()

    @property
    def version(self) -> Version:
        """What a request that starts now works with."""
        return self._version

    def upsert(self, keys: Sequence[Id], values: Mapping[str, NDArray]) -> tuple[int, int]:
        """Add items, or change those that are there; all of them appear at once.

        Args:
            keys: n distinct ids, as the map has them.
            values: arrays by name, (n, ...).

        Returns:
            How many were added, and how many changed.

        Raises:
            OverflowError: a value does not fit the type in which it is kept.
        """
        packed = {name: stored.packed(values[name]) for name, stored in self._version.arrays.items()}
        with self._lock:
            now = self._version
            before = now.ids.rows(keys)
            rows = self._take(len(keys))
            arrays = {name: stored.grown(self._size) for name, stored in now.arrays.items()}
            for name, stored in arrays.items():
                stored.write(rows, packed[name])
            changed = int((before != UNKNOWN).sum())
            added = len(keys) - changed
            ids = now.ids.changed(dict(zip(keys, rows.tolist(), strict=True)), size=now.ids.size + added)
            self._publish(replace(now, ids=ids, arrays=arrays, number=now.number + 1), before)
        return added, changed

    def remove(self, keys: Sequence[Id]) -> int:
        """Remove items; ids that are not there are passed over. Returns how many were removed."""
        with self._lock:
            now = self._version
            before = now.ids.rows(keys)
            gone = {key: UNKNOWN for key, row in zip(keys, before.tolist(), strict=True) if row != UNKNOWN}
            if gone:
                ids = now.ids.changed(gone, size=now.ids.size - len(gone))
                self._publish(replace(now, ids=ids, number=now.number + 1), np.unique(before))
        return len(gone)

    def _take(self, count: int) -> NDArray[np.int64]:
        """Rows that no version in use has."""
        # A version that is in use keeps the rows that were given up after it as well.
        while self._given_up and self._given_up[0][0]() is None:
            self._free.extend(self._given_up.popleft()[1])
        cut = max(len(self._free) - count, 0)
        again = self._free[cut:]
        del self._free[cut:]
        fresh = range(self._size, self._size + count - len(again))
        self._size = fresh.stop
        return np.array([*again, *fresh], np.int64)

    def _publish(self, version: Version, given_up: NDArray[np.int64]) -> None:
        # Also where no row is given up: an earlier version may have those that the next one gives up.
        self._given_up.append((weakref.ref(self._version), given_up[given_up != UNKNOWN].tolist()))
        self._version = version
