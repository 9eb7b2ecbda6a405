"""Histories on their way into a split: all kinds that were declared, each with its events, as they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.disk_columns import DiskColumns
from fuxictr_multimodal.data.store.encoding import StoreFeatureProcessor
from fuxictr_multimodal.errors import DataError, did_you_mean


@dataclass(frozen=True)
class HistoryChecks:
    """What the histories of a split must be.

    Attributes:
        columns: columns of the dataset on disk.
        processor: encodes raw event features.
        behaviours: names of the further kinds of history.
        max_len: maximum number of items in a history.
        where: the file, for messages.
    """

    columns: DiskColumns
    processor: StoreFeatureProcessor
    behaviours: Sequence[str]
    max_len: int
    where: str

    def checked(
        self, history: Sequence[Any] | None, behaviours: Mapping[str, Sequence[Any]], *, rows: int, first_row: int
    ) -> tuple[JaggedArrays | None, dict[str, JaggedArrays]]:
        """The first history and the others as on disk; None and none in a flat dataset.

        Args:
            history: values, offsets and events, or None.
            behaviours: the same by name.
            rows: number of rows.
            first_row: row number of the first, for messages.

        Raises:
            DataError: a history is missing or not declared, or a value of it is wrong.
        """
        if self.columns.item_col is None:
            if history is not None or behaviours:
                raise DataError(f"{self.where}: histories are given, but the dataset has no items (item_col is None)")
            return None, {}
        if history is None or history[1] is None:
            raise DataError(f"{self.where}: history values and offsets are missing; without items, item_col is None")
        for name in behaviours:
            if name not in self.behaviours:
                known = did_you_mean(name, self.behaviours)
                raise DataError(f"{self.where}: behaviour {name!r} is not in the dataset's behaviours. {known}")
        for name in self.behaviours:
            if name not in behaviours:
                found = ", ".join(behaviours) or "none"
                raise DataError(f"{self.where}: behaviour {name!r} is missing; found: {found}")
        checked = self._one(history, "history", rows, first_row)
        others = {name: self._one(behaviours[name], f"history {name!r}", rows, first_row) for name in self.behaviours}
        return checked, others

    def _one(self, given: Sequence[Any], name: str, rows: int, first_row: int) -> JaggedArrays:
        values, offsets, *rest = given
        events = dict(rest[0]) if rest else {}
        values, offsets = validation.as_history(
            values,
            offsets,
            rows=rows,
            items=self.columns.items,
            max_len=self.max_len,
            where=self.where,
            first_row=first_row,
            name=name,
        )
        wanted = [column.name for column in self.columns.of_events()]
        for event in events:
            if event not in wanted:
                known = did_you_mean(event, wanted)
                raise DataError(f"{self.where}: event column {event!r} of the {name} is not in feature_cols. {known}")
        for event in wanted:
            if event not in events:
                found = ", ".join(events) or "none"
                raise DataError(f"{self.where}: event column {event!r} of the {name} is missing; found: {found}")
        encoded = self.processor.transform(events, where=self.where) if events else {}
        checked: dict[str, np.ndarray] = {
            event: validation.as_events(
                encoded[event],
                offsets,
                name=event,
                history=name,
                size=self.columns.features[event]["vocab_size"],
                where=self.where,
                first_row=first_row,
            )
            for event in wanted
        }
        return JaggedArrays(values, offsets, checked)
