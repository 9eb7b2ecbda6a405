"""Values of a dataset checked while they are read: what a model cannot look up, or could not have been written.

One pass for the smallest and one for the largest value, both of which are NaN where one value is; only where these are
wrong is the row looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuxictr_multimodal.config.dataset_settings import MOST_FOLDS
from fuxictr_multimodal.data.jagged import JaggedArrays, row_at
from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.manifest import Column
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

Specs = Mapping[str, Mapping[str, Any]]
LARGEST_ID = 2**31 - 1
LARGEST_NUMBER = float(np.finfo(np.float32).max)
AGAIN = f"the file is damaged, or was not written by this project; {BUILD_AGAIN}"


@dataclass(frozen=True)
class Bounds:
    """What a column may hold: values of `low` to `high`, both included, in numpy types of some `kinds`."""

    low: float
    high: float
    problem: str
    kinds: str = "iu"

    def first_outside(self, values: np.ndarray) -> int | None:
        """Place of the first value outside, in the order of memory; None where there is none."""
        if not values.size:
            return None
        with np.errstate(invalid="ignore"):
            if values.min() >= self.low and values.max() <= self.high:
                return None
            inside = (values >= self.low) & (values <= self.high)
        return int(np.argmin(inside))


NUMBERS = Bounds(-LARGEST_NUMBER, LARGEST_NUMBER, "is not a finite number", "f")
LABELS = Bounds(0, 1, "is not a label: labels are 0 and 1")
WEIGHTS = Bounds(0, LARGEST_NUMBER, "is not a weight: a weight is finite and at least 0", "f")
IDS = Bounds(-(2**63), 2**63 - 1, "is not an id")


class Ranges:
    """Reads a split and refuses what its feature map has no place for.

    Args:
        columns: of the split.
        features: of the feature map by name.
        items: rows of the item table, padding included; by default the `vocab_size` of the target's feature.
        max_len: the longest history, where it is known.
        ids: number of ids of columns whose codes stand for ids of the user.
        folds: of users.
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        features: Specs,
        *,
        items: int | None = None,
        max_len: int | None = None,
        ids: Mapping[str, int] | None = None,
        folds: int | None = None,
    ) -> None:
        target = next((name for name, column in columns.items() if column.role == "target"), None)
        if items is None and target is not None:
            items = features.get(target, {}).get("vocab_size")
        self._features, self._max_len, self._codes, self._folds = features, max_len, ids or {}, folds
        self._items = _ids_up_to(items, low=1, padding="item 0 is padding")
        self._columns = {name: (column, self._bounds_of(column)) for name, column in columns.items()}

    @classmethod
    def of(cls, reader: SplitReader, feature_map: FeatureMap) -> Ranges:
        """Those of a feature map; `Experiment` adds to it what the manifest knows of items and histories."""
        items, longest, folds = (getattr(feature_map, name, None) for name in ("items", "longest_history", "folds"))
        return cls(reader.columns, feature_map.features, items=items, max_len=longest, folds=folds)

    def read(self, reader: SplitReader, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a column, as `SplitReader.read`.

        Raises:
            DataError: a value is out of range, or the column is of another type than in the first part.
        """
        values = reader.read(name, start, stop)
        self.check(reader, name, values, start)
        return values

    def check(self, reader: SplitReader, name: str, values: np.ndarray, start: int) -> None:
        """Refuse values of a column that begin at row `start`; see `read`."""
        column, bounds = self._columns[name]
        if str(values.dtype) != column.dtype or values.dtype.kind not in bounds.kinds:
            path, _ = reader.place(start)
            raise DataError(f"{path}: column {name!r} cannot hold {values.dtype}: {AGAIN}")
        at = bounds.first_outside(values)
        if at is not None:
            path, row = reader.place(start + at // int(np.prod(column.shape, dtype=np.int64)))
            raise DataError(f"{path}: row {row}, column {name!r}: {values.flat[at]} {bounds.problem}; {AGAIN}")

    def read_jagged(
        self, reader: SplitReader, start: int, stop: int, *, behaviour: str | None = None, events: Sequence[str] = ()
    ) -> JaggedArrays:
        """Histories of rows `start` to `stop`, as `SplitReader.read_jagged`.

        Raises:
            DataError: an item or an event is out of range, or a history is too long.
        """
        found = reader.read_jagged(start, stop, behaviour=behaviour, events=events)
        self.check_jagged(reader, found, start, behaviour)
        return found

    def check_jagged(self, reader: SplitReader, found: JaggedArrays, start: int, behaviour: str | None = None) -> None:
        """Refuse histories of which the first is that of row `start`; see `read_jagged`."""
        what = "history" if behaviour is None else f"history {behaviour!r}"
        checked = [(f"the {what}", self._items, found.values)]
        for name, events in found.events.items():
            bounds = bounds_of(name, self._features, numbers=False)
            checked.append((f"event column {name!r} of the {what}", bounds, events))
        for place, bounds, values in checked:
            at = bounds.first_outside(values)
            if at is not None or values.dtype.kind not in bounds.kinds:
                path, row = reader.place(start + row_at(found.offsets, at or 0))
                raise DataError(f"{path}: row {row}, {place}: {values[at or 0]} {bounds.problem}; {AGAIN}")
        if self._max_len is not None and len(found.offsets) > 1:
            lengths = np.diff(found.offsets)
            if lengths.max() > self._max_len:
                path, row = reader.place(start + int(np.argmax(lengths > self._max_len)))
                raise DataError(
                    f"{path}: row {row}, the {what}: {lengths.max()} items are more than max_len {self._max_len} in "
                    f"manifest.json; {AGAIN}"
                )

    def _bounds_of(self, column: Column) -> Bounds:
        if column.role == "label":
            return LABELS
        if column.role == "weight":
            return WEIGHTS
        if column.role == "target":
            return self._items
        if column.role == "fold":
            most = MOST_FOLDS if self._folds is None else self._folds
            return Bounds(0, most, f"is not in 0 to {most}: the fold of a user")
        if column.role == "meta" or self._features.get(column.name, {}).get("type") == "meta":
            count = self._codes.get(column.name)
            return IDS if count is None else Bounds(-1, count - 1, f"has no id: its codes go from 0 to {count - 1}")
        return bounds_of(column.name, self._features, numbers=column.dtype.startswith("float"))


def bounds_of(name: str, features: Specs, *, numbers: bool) -> Bounds:
    """What a feature of the feature map may hold; `numbers` says so where the feature map does not know it."""
    spec = features.get(name, {})
    if spec.get("type") in ("numeric", "embedding") or (not spec and numbers):
        return NUMBERS
    sizes, seen = [], set()
    # A feature that shares the embedding table of another one looks up that table.
    while spec and name not in seen:
        seen.add(name)
        sizes += [spec["vocab_size"]] if spec.get("vocab_size") is not None else []
        name = spec.get("share_embedding") or name
        spec = features.get(name, {})
    return _ids_up_to(min(sizes, default=None), low=0)


def check_items(path: Path, columns: Mapping[str, np.ndarray], features: Specs) -> None:
    """Refuse an item table with values that its feature map has no place for.

    Args:
        path: of the file, for messages.
        columns: ids (N,), tags (N, T) or embeddings (N, d) by name.
        features: of the feature map by name; columns that it does not know are checked for what any may hold.

    Raises:
        DataError: an id is out of range, a number is not finite, or row 0, which is padding, is not all zero.
    """
    for name, values in columns.items():
        bounds = bounds_of(name, features, numbers=values.dtype.kind == "f")
        if values.dtype.kind not in bounds.kinds:
            raise DataError(f"{path}: column {name!r} cannot hold {values.dtype}: {AGAIN}")
        at = bounds.first_outside(values)
        if at is not None:
            row = at * len(values) // values.size
            raise DataError(f"{path}: row {row}, column {name!r}: {values.flat[at]} {bounds.problem}; {AGAIN}")
        if len(values) and np.any(values[0]):
            raise DataError(f"{path}: row 0, column {name!r}: {values[0]} is not zero, but row 0 is padding; {AGAIN}")


def _ids_up_to(count: int | None, *, low: int, padding: str = "") -> Bounds:
    if count is None:
        return Bounds(low, LARGEST_ID, f"is below {low}{padding and f': {padding}'}")
    reason = f"{padding}, and there are {count} rows of items" if padding else f"its vocab_size is {count}"
    return Bounds(low, count - 1, f"is not in {low} to {count - 1}: {reason}")
