"""One split under construction: its rows on disk and its running counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.h5_writer import SplitWriter
from fuxictr_multimodal.data.store.manifest import Column, HistoryLength, SplitCounts
from fuxictr_multimodal.data.store.reader import SplitReader
from fuxictr_multimodal.errors import DataError


class SplitBuilder:
    """Takes checked rows, counts them and writes them.

    Args:
        folder: folder of the parts; the split is named after it.
        columns: columns of the split; that of role `label` may be absent, that of role `target` is the item id.
        rows_per_part: maximum number of rows in one file.
        items: rows of the item table.
        max_len: maximum number of items in a history; 0 where the rows have no histories.
        group_id: column whose distinct values are counted as users, or None.
        events: names of the columns that go with the items of each history.
        behaviours: names of the further kinds of history.
    """

    def __init__(
        self,
        *,
        folder: Path,
        columns: list[Column],
        rows_per_part: int,
        items: int,
        max_len: int,
        group_id: str | None,
        events: Sequence[str] = (),
        behaviours: Sequence[str] = (),
    ) -> None:
        self.columns = columns
        self.rows = 0
        self._folder = folder
        self._label = _of_role(columns, "label")
        self._target = _of_role(columns, "target")
        self._weight = _of_role(columns, "weight")
        self._group_id = group_id
        self._max_len = max_len
        self._positives = 0
        self._weighted = False
        self._items_seen = np.zeros(items, dtype=bool)
        self._length_counts = np.zeros(max_len + 1, dtype=np.int64)
        self._writer = SplitWriter(
            folder=folder,
            columns=columns,
            rows_per_part=rows_per_part,
            events=events,
            behaviours=behaviours,
            history=self._target is not None,
        )

    def has(self, name: str) -> bool:
        """Whether the rows have a column."""
        return any(column.name == name for column in self.columns)

    def append(
        self,
        data: Mapping[str, np.ndarray],
        history: JaggedArrays | None = None,
        behaviours: Mapping[str, JaggedArrays] | None = None,
    ) -> None:
        """Take rows: columns (rows, ...), and histories with their events."""
        rows = len(data[self.columns[0].name])
        self.rows += rows
        if history is None:
            self._writer.append(data)
            self._length_counts[0] += rows
        else:
            self._writer.append(data, history.values, history.offsets, events=history.events, behaviours=behaviours)
            self._length_counts += np.bincount(np.diff(history.offsets), minlength=len(self._length_counts))
        if self._target is not None:
            self._items_seen[data[self._target]] = True
        if self._label is not None:
            self._positives += int(data[self._label].sum())
        if self._weight is not None:
            self._weighted |= bool(data[self._weight].any())

    def close(self) -> None:
        """Write the buffered rows.

        Raises:
            DataError: the labels are of a single class, so AUC is not defined; or every weight is 0.
        """
        if self._label is not None and self._positives in (0, self.rows):
            raise DataError(
                f"{self._folder.name}.h5: column {self._label!r} is {int(self._positives > 0)} in all {self.rows} "
                f"rows: AUC is undefined with a single class; for a log see `positive` and `target_behaviour`"
            )
        if self._weight is not None and not self._weighted:
            raise DataError(
                f"{self._folder.name}.h5: column {self._weight!r} is 0 in all {self.rows} rows: no sample has a weight"
            )
        self._writer.close()

    def abandon(self) -> None:
        """Close the files of a build that failed."""
        self._writer.abandon()

    def counts(self) -> SplitCounts:
        """The counts for the manifest, after `close`."""
        users = None
        if self._group_id is not None:
            with SplitReader(self._folder) as reader:
                users = len(validation.distinct_values(reader, self._group_id))
        slots = self.rows * self._max_len
        filled = int(self._length_counts @ np.arange(len(self._length_counts)))
        return SplitCounts(
            rows=self.rows,
            positives=None if self._label is None else self._positives,
            users=users,
            items=int(self._items_seen.sum()),
            history_length=HistoryLength.from_counts(self._length_counts),
            padding_share=(slots - filled) / slots if slots else 0.0,
        )


def is_given(
    name: str | None, columns: Mapping[str, Any], *, required: bool, split: SplitBuilder | None, where: str
) -> bool:
    """Whether rows have a column that some splits may lack; a split has it in every call or in none.

    Args:
        name: the column, or None where the dataset has no such column.
        columns: the rows.
        required: whether the split must have it.
        split: what was appended before, or None.
        where: the file, for the message.
    """
    if name is None:
        return False
    given = name in columns or required
    if split is not None and given != split.has(name):
        now, then = ("is present", "did not have it") if given else ("is missing", "had it")
        raise DataError(f"{where}: column {name!r} {now}, but earlier rows {then}")
    return given


def _of_role(columns: Sequence[Column], role: str) -> str | None:
    return next((column.name for column in columns if column.role == role), None)
