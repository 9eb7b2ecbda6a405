"""Event features of samples that are ready: learnt in the first pass, encoded in the second one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.config.entry_settings import TIME_FEATURES, EventColumn
from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.events import EventFeature, EventFitter, from_facts, to_facts
from fuxictr_multimodal.data.entry.samples.histories import JaggedIds
from fuxictr_multimodal.data.entry.samples.sources import Source
from fuxictr_multimodal.data.entry.tables.times import TimeReader
from fuxictr_multimodal.data.entry.tables.values import check_single, numbers_of
from fuxictr_multimodal.data.jagged import row_numbers
from fuxictr_multimodal.errors import ConfigError, DataError


class SampleEvents:
    """The event features of an entry whose samples are ready.

    Args:
        entry: with `event_cols`, or without.

    Raises:
        ConfigError: an age has no time of the sample.
    """

    def __init__(self, entry: Entry) -> None:
        self._where = entry.where
        self._specs = entry.settings.event_cols or ()
        for spec in self._specs:
            if spec.name == "age" and spec.target is None:
                raise ConfigError(
                    f"{entry.where}: event_cols: 'age' needs `target`, the column of the sample's time: an age is the "
                    "time between the event and the sample"
                )
        self._fitters: dict[str, EventFitter] = {}
        self._fitted: dict[str, EventFeature] = {}
        self._times: dict[tuple[str, str], TimeReader] = {}
        # Units of whole numbers that the build recognised, by feature and side.
        self._built: Mapping[str, Mapping[str, str]] = {}
        self._restored = False

    @classmethod
    def restored(cls, entry: Entry, facts: Mapping[str, Any]) -> SampleEvents:
        """The event features of an entry as a dataset keeps them in its facts, to encode new samples.

        Raises:
            DataError: they are damaged.
        """
        events = cls(entry)
        events._fitted = from_facts(facts, [spec.name for spec in events._specs])
        events._built = facts.get("time_units", {})
        events._restored = True
        return events

    @property
    def targets(self) -> set[str]:
        """Columns of the samples that are read."""
        return {spec.target for spec in self._specs if spec.target is not None}

    @property
    def columns(self) -> list[dict[str, Any]]:
        """The features as columns of `feature_cols`."""
        return [self._fitted[spec.name].column(embedding_dim=spec.embedding_dim) for spec in self._specs]

    @property
    def facts(self) -> dict[str, Any]:
        """What encodes new samples, for the manifest."""
        if not self._fitted:
            return {}
        units: dict[str, dict[str, str]] = {}
        for (name, side), reader in self._times.items():
            if reader.recognised is not None:
                units.setdefault(name, {})[side] = reader.recognised
        return to_facts(self._fitted) | ({"time_units": units} if units else {})

    def learn(
        self,
        chunk: pl.DataFrame,
        histories: Mapping[str, JaggedIds],
        rows: NDArray[np.int64] | None,
        *,
        source: Source,
        first_row: int,
    ) -> None:
        """Take training samples: `rows` of the chunk, or all."""
        for spec in self._specs:
            if spec.name in TIME_FEATURES and spec.target is not None:
                # Its unit must be that of the histories.
                self._read_times(spec, "target", chunk[spec.target], source, first_row)
            for name, history in histories.items():
                if spec.name not in history.raw:
                    continue
                values = self._values(spec, chunk, name, history, source, first_row)
                if not len(values):
                    continue
                if rows is not None:
                    inside = np.zeros(len(chunk), dtype=bool)
                    inside[rows] = True
                    values = values.filter(pl.Series(inside[row_numbers(np.diff(history.offsets))]))
                self._fitter(spec).add(values)

    def fit(self) -> None:
        """End the first pass.

        Raises:
            DataError: a feature has no values in the training split.
        """
        for spec in self._specs:
            history, target = (self._times.get((spec.name, side)) for side in ("history", "target"))
            if history is not None and target is not None and history.clock != target.clock:
                raise DataError(
                    f"{self._where}: event_cols: {spec.name!r}: times of the history are {history.clock.told}, "
                    f"those of {spec.target!r} {target.clock.told}: write both in one unit, or set time_unit where "
                    "both are whole numbers"
                )
            fitted = self._fitter(spec).fit()
            # The first times, with which the fitter began, need not show the unit yet.
            self._fitted[spec.name] = fitted if history is None else replace(fitted, clock=history.clock)

    def encode(
        self, chunk: pl.DataFrame, histories: Mapping[str, JaggedIds], *, source: Source, first_row: int
    ) -> tuple[dict[str, NDArray[np.int32]], dict[str, JaggedIds]]:
        """Codes of the targets by name, each (rows,), and the histories with the codes of their events."""
        targets = {}
        for spec in self._specs:
            feature = self._fitted[spec.name]
            if spec.target is None or spec.name == "age":
                targets[spec.name] = feature.without_value(len(chunk))
            else:
                values, where = chunk[spec.target], f"{source.name}: column {spec.target!r}"
                check_single(values, where=where)
                if spec.bins is not None:
                    values = numbers_of(values, where=where, first_row=first_row)
                if spec.name in TIME_FEATURES:
                    values = self._read_times(spec, "target", values, source, first_row)
                targets[spec.name] = feature.codes(values)
        coded = {}
        for name, history in histories.items():
            events = {}
            for spec in self._specs:
                if spec.name in history.raw:
                    values = self._values(spec, chunk, name, history, source, first_row)
                    events[spec.name] = self._fitted[spec.name].codes(values)
                else:
                    events[spec.name] = np.zeros(len(history.ids), dtype=np.int32)
            coded[name] = history.with_events(events)
        return targets, coded

    def _values(
        self, spec: EventColumn, chunk: pl.DataFrame, name: str, history: JaggedIds, source: Source, first_row: int
    ) -> pl.Series:
        """What is encoded of each event of the history `name`, (N,)."""
        raw, rows = history.raw[spec.name], row_numbers(np.diff(history.offsets))
        if spec.name not in TIME_FEATURES:
            column = spec.history.get(name) if isinstance(spec.history, dict) else spec.history
            where = f"{source.name}: column {column!r}"
            return raw if spec.bins is None else numbers_of(raw, where=where, first_row=first_row, rows=rows)
        times = self._read_times(spec, "history", raw, source, first_row, rows)
        if spec.name != "age":
            return times
        assert spec.target is not None
        now = self._read_times(spec, "target", chunk[spec.target], source, first_row)
        return now.gather(pl.Series(rows)) - times

    def _fitter(self, spec: EventColumn) -> EventFitter:
        """The one that learns a feature; it knows the unit of the times that came until then."""
        if spec.name not in self._fitters:
            reader = self._times.get((spec.name, "history"))
            clock = {} if reader is None else {"clock": reader.clock}
            self._fitters[spec.name] = EventFitter(spec, where=self._where, **clock)
        return self._fitters[spec.name]

    def _read_times(
        self,
        spec: EventColumn,
        side: str,
        values: pl.Series,
        source: Source,
        first_row: int,
        rows: NDArray[np.int64] | None = None,
    ) -> pl.Series:
        if not len(values):
            return pl.Series(values=[], dtype=pl.Int64)
        reader = self._times.get((spec.name, side))
        if reader is None:
            given = spec.history.values() if isinstance(spec.history, dict) else [spec.history]
            columns = ", ".join(map(repr, given)) if side == "history" else repr(spec.target)
            where = f"{source.name}: column {columns}"
            built = self._built.get(spec.name, {}).get(side)
            reader = self._times[spec.name, side] = TimeReader(where, spec.time_unit, built=built)
        times = reader.read(values, first_row=first_row, rows=rows)
        if self._restored:
            times = reader.clock.converted(times, self._fitted[spec.name].clock)
        return pl.Series(times)
