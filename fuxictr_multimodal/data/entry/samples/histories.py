"""Histories that come with the samples: columns of item ids, and the columns of events that are aligned with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.entry import MAX_LEN, Entry
from fuxictr_multimodal.data.entry.samples.sources import Source
from fuxictr_multimodal.data.entry.tables.lists import SPLITTER, Lists, as_ids, check_aligned, check_plain_texts
from fuxictr_multimodal.data.jagged import slices
from fuxictr_multimodal.data.store.ids import UNKNOWN, IdMap
from fuxictr_multimodal.errors import ConfigError, DataError


@dataclass(frozen=True)
class JaggedIds:
    """Histories of some rows, newest last and cut.

    Attributes:
        ids: the user's ids of the items end to end, (N,).
        offsets: row b has items `offsets[b]` to `offsets[b + 1]`, (rows + 1,) from 0.
        raw: values of aligned columns by name, each (N,).
        events: codes of event features by name, each (N,).
        codes: rows of the item table, (N,); empty before `coded`.
    """

    ids: pl.Series
    offsets: NDArray[np.int64]
    raw: Mapping[str, pl.Series]
    events: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def coded(self, ids: IdMap) -> JaggedIds:
        """With the codes of its ids."""
        codes = ids.codes(self.ids)
        assert not (codes == UNKNOWN).any(), "the first pass saw all ids"
        return replace(self, codes=codes)

    def with_events(self, events: Mapping[str, NDArray[np.int32]]) -> JaggedIds:
        """With codes of event features."""
        return replace(self, events=events)

    def take(self, rows: NDArray[np.int64]) -> JaggedIds:
        """The histories of some rows, coded."""
        starts = self.offsets[rows]
        places, offsets = slices(starts, self.offsets[rows + 1] - starts)
        return replace(
            self,
            ids=self.ids.clear(),
            raw={},
            codes=self.codes[places],
            events={name: values[places] for name, values in self.events.items()},
            offsets=offsets,
        )


class HistoryReader:
    """Reads the histories of samples.

    Args:
        entry: says which columns they are, and how long.

    Raises:
        ConfigError: an aligned column is named for a history that is none.
    """

    def __init__(self, entry: Entry) -> None:
        columns = entry.columns
        assert columns.own is not None
        self._names = columns.histories
        self._dtype, self._absent = columns.own["dtype"], columns.own.get("fill_na")
        self._max_len = entry.settings.max_len or MAX_LEN
        self._splitter = {
            name: entry.settings.splitter or columns.splitters.get(name, SPLITTER) for name in self._names
        }
        self.aligned: dict[str, dict[str, str]] = {name: {} for name in self._names}
        for event in entry.settings.event_cols or ():
            where = f"{entry.where}: event_cols: {event.name!r}"
            if event.history is None:
                raise ConfigError(f"{where} needs `history`, the list column that is aligned with the history")
            several = event.history
            if isinstance(several, str):
                if len(self._names) != 1:
                    raise ConfigError(
                        f"{where}: there are {len(self._names)} histories: write history: "
                        f"{{{', '.join(f'{name}: ...' for name in self._names)}}}"
                    )
                several = {self._names[0]: several}
            for name, column in several.items():
                if name not in self.aligned:
                    raise ConfigError(f"{where}: {name!r} is no history_col: those are {', '.join(self._names)}")
                self.aligned[name][event.name] = column

    @property
    def columns(self) -> set[str]:
        """Columns that are read."""
        return {*self._names, *(column for aligned in self.aligned.values() for column in aligned.values())}

    def read(self, chunk: pl.DataFrame, *, source: Source, first_row: int) -> dict[str, JaggedIds]:
        """Histories of some rows by column, the main one first; an empty one where the entry has none.

        Missing ids are left out with their events; then the newest `max_len` are kept.

        Raises:
            DataError: an id is of another type than the items', or an aligned list is of another length.
        """
        if not self._names:
            none = pl.Series(values=[], dtype=pl.Int64 if self._dtype == "int" else pl.String)
            return {"": JaggedIds(none, np.zeros(len(chunk) + 1, dtype=np.int64), {})}
        return {name: self._read(name, chunk, source, first_row) for name in self._names}

    def _read(self, name: str, chunk: pl.DataFrame, source: Source, first_row: int) -> JaggedIds:
        for column in (name, *self.aligned[name].values()):
            place = f"{source.name}: column {column!r}"
            check_plain_texts(chunk[column], splitter=self._splitter[name], where=place, first_row=first_row)
        lists = Lists.of(chunk[name], splitter=self._splitter[name])
        ids, wrong = as_ids(lists.values, self._dtype, absent=self._absent)
        if wrong.any():
            at = int(np.argmax(wrong))
            row = first_row + int(np.searchsorted(lists.offsets, at, side="right")) - 1
            raise DataError(
                f"{source.name}: column {name!r}, row {row} (counted from 0): {lists.values[at]!r} is no id of dtype "
                f"{self._dtype}"
            )
        events = {
            event: Lists.aligned(chunk[column], lists, splitter=self._splitter[name])
            for event, column in self.aligned[name].items()
        }
        columns = {self.aligned[name][event]: found for event, found in events.items()}
        check_aligned(columns, lists, name, where=source.name, first_row=first_row)
        keep = ids.is_not_null().to_numpy() if ids.null_count() else None
        places, offsets = lists.newest(keep, self._max_len)
        if len(places) == len(ids):
            return JaggedIds(ids, offsets, {event: found.values for event, found in events.items()})
        kept = pl.Series(places)
        return JaggedIds(
            ids.gather(kept), offsets, {event: found.values.gather(kept) for event, found in events.items()}
        )
