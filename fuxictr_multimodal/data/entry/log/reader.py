"""First pass over a log of events: codes of users and items, times, labels and kinds, which stay in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.config.entry_settings import InteractionSettings
from fuxictr_multimodal.data.entry.log.labels import Rule
from fuxictr_multimodal.data.entry.splits import fold_codes
from fuxictr_multimodal.data.entry.tables.files import EXACT_FLOAT, Table, format_of
from fuxictr_multimodal.data.entry.tables.times import COUNTER, Clock, TimeReader
from fuxictr_multimodal.data.entry.tables.values import check_single
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import DataError, did_you_mean

# Narrow columns: about 100 MB a piece.
CHUNK_ROWS = 1_000_000
DEFAULT_RULE = "> 0"


@dataclass(frozen=True)
class Events:
    """The events of a log, in the order of its rows. Rows without a user or an item are left out.

    Attributes:
        users: code of each event's user, from 0, (N,) int32.
        items: item of each event, from 1, (N,) int32.
        times: (N,) int64, or None for a log whose rows are in order.
        clock: what the times are.
        positive: whether the label makes the event positive, (N,).
        target: whether the event is of a kind that is predicted, (N,).
        kinds: kind of each event, (N,), by its place in `kind_names`; None where there is one kind.
        kind_names: the kinds of the log.
        folds: split of each event by its column, (N,), or None.
        columns: further columns by name, each (N,).
        user_ids: the users' own ids.
        item_ids: the items' own ids, code 0 is padding.
        kept: rows of the log that are events, (rows,).
        first_row: what messages call the first row.
        notes: what to tell the user, one line each.
        recognised: the unit of the times, where it was recognised by their size; see `TimeReader`.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64] | None
    clock: Clock
    positive: NDArray[np.bool_]
    target: NDArray[np.bool_]
    kinds: NDArray[np.int16] | None
    kind_names: tuple[str, ...]
    folds: NDArray[np.int8] | None
    columns: Mapping[str, pl.Series]
    user_ids: IdMap
    item_ids: IdMap
    kept: NDArray[np.bool_]
    first_row: int = 0
    notes: tuple[str, ...] = field(default=())
    recognised: str | None = None

    def __len__(self) -> int:
        return len(self.users)

    def row_of(self, event: int) -> int:
        """Row of the log that an event is, for messages."""
        return self.first_row + int(np.flatnonzero(self.kept)[event])


def log_dtypes(settings: InteractionSettings, declared: Mapping[str, str]) -> dict[str, str]:
    """Columns that the first pass reads, with their types for `scan`; ids keep the type that the entry declares."""
    names = [settings.user, settings.item, settings.time, settings.label, settings.behaviour]
    found = {name: "any" for name in names if name is not None}
    for name in (settings.user, settings.item):
        if declared.get(name) in ("int", "str"):
            found[name] = declared[name]
    if settings.behaviour is not None:
        found[settings.behaviour] = "str"
    return found


def read_events(
    table: Table,
    settings: InteractionSettings,
    *,
    item_ids: IdMap | None = None,
    fold_column: str | None = None,
    columns: Sequence[str] = (),
    task: str = "",
) -> Events:
    """Read a log once.

    Args:
        table: the log.
        settings: which columns are what.
        item_ids: items that are numbered already; the log's others get the next numbers.
        fold_column: column with the names of the splits.
        columns: further columns to keep in memory.
        task: name of the phase for the progress; "" shows none.

    Raises:
        DataError: a missing time or label, a label, time or split of another form, a kind that does not occur, or no
            event at all.
    """
    reader = _Reader(table, settings, item_ids, fold_column, tuple(columns))
    for chunk in table.chunks(reader.names, rows=CHUNK_ROWS, task=task):
        reader.add(chunk)
    return reader.events()


class _Reader:
    """Collects the columns of the events piece by piece."""

    def __init__(
        self,
        table: Table,
        settings: InteractionSettings,
        item_ids: IdMap | None,
        fold_column: str | None,
        columns: tuple[str, ...],
    ) -> None:
        self._table, self._settings = table, settings
        self._fold_column, self._more = fold_column, columns
        wanted = [settings.user, settings.item, settings.time, settings.label, settings.behaviour, fold_column]
        self.names = list(dict.fromkeys([*(name for name in wanted if name is not None), *columns]))
        self._ids: dict[str, IdMap | None] = {settings.user: None, settings.item: item_ids}
        self._times = None
        if settings.time is not None:
            self._times = TimeReader(self._where(settings.time), settings.time_unit)
        self._rule = None
        if settings.label is not None:
            self._rule = Rule.parse(settings.positive or DEFAULT_RULE, "interactions: positive")
        targets = settings.target_behaviour
        self._targets = (targets,) if isinstance(targets, str) else tuple(targets or ())
        self._kind_codes: dict[str | None, int] = {None: -1}
        self._pieces: dict[str, list[NDArray]] = {}
        self._column_pieces: dict[str, list[pl.Series]] = {name: [] for name in columns}
        # Rows of a csv file count from 1 in messages, all others from 0; parts are counted through.
        self._first_row = int(any(format_of(file, table.name) == "csv" for file in table.files))
        self._rows = self._first_row
        self._dropped = {settings.user: 0, settings.item: 0}

    def _where(self, column: str) -> str:
        return f"{self._table.name}: column {column!r}"

    def add(self, chunk: pl.DataFrame) -> None:
        """Take the next rows."""
        settings, first = self._settings, self._rows
        users, items = self._codes(settings.user, chunk, padding=False), self._codes(settings.item, chunk, padding=True)
        kept = (users >= 0) & (items >= 0)
        self._dropped[settings.user] += int((users < 0).sum())
        self._dropped[settings.item] += int(((items < 0) & (users >= 0)).sum())
        found: dict[str, NDArray] = {"users": users.astype(np.int32), "items": items.astype(np.int32)}
        if self._times is not None and settings.time is not None:
            found["times"] = self._times.read(chunk[settings.time], first_row=first)
        target = np.ones(len(chunk), dtype=bool)
        if settings.behaviour is not None:
            found["kinds"], target = self._kinds(chunk[settings.behaviour])
        found["target"] = target
        if self._rule is not None and settings.label is not None:
            found["positive"] = self._labels(self._rule, chunk[settings.label], target, first)
        if self._fold_column is not None:
            folds = chunk[self._fold_column].cast(pl.String).to_list()
            found["folds"] = fold_codes(folds, where=self._where(self._fold_column), first_row=first)
        if not kept.all():
            found = {name: values[kept] for name, values in found.items()}
        for name, values in (found | {"kept": kept}).items():
            self._pieces.setdefault(name, []).append(values)
        for name, columns in self._column_pieces.items():
            check_single(chunk[name], where=self._where(name))
            kept_values = chunk[name] if kept.all() else chunk[name].filter(pl.Series(kept))
            # Four bytes a row instead of the text.
            columns.append(kept_values.cast(pl.Categorical) if kept_values.dtype == pl.String else kept_values)
        self._rows += len(chunk)

    def _codes(self, column: str, chunk: pl.DataFrame, *, padding: bool) -> NDArray[np.int64]:
        known, values = self._ids[column], _ids_of(chunk[column])
        try:
            known = IdMap.of(values, padding=padding) if known is None else known.extended(values)
            self._ids[column] = known
            return known.codes(values)
        except DataError as error:
            raise DataError(f"{self._where(column)}: {error}") from None

    def _kinds(self, values: pl.Series) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        text = values.cast(pl.String)
        for kind in text.unique(maintain_order=True).drop_nulls():
            self._kind_codes.setdefault(kind, len(self._kind_codes) - 1)
        distinct = list(self._kind_codes)
        if len(distinct) > np.iinfo(np.int16).max:
            raise DataError(f"{self._where(values.name)} has more than {len(distinct) - 1:,} kinds of events")
        codes = text.replace_strict(distinct, list(self._kind_codes.values()), return_dtype=pl.Int16).to_numpy()
        if not self._targets:
            return codes, codes >= 0
        wanted = [self._kind_codes[kind] for kind in self._targets if kind in self._kind_codes]
        return codes, np.isin(codes, wanted)

    def _labels(self, rule: Rule, labels: pl.Series, target: NDArray[np.bool_], first: int) -> NDArray[np.bool_]:
        """Events that are no targets need no label, and are positive without one."""
        where = self._where(labels.name)
        labels = rule.without_nan(labels)
        unlabelled = labels.is_null().to_numpy() & ~target
        if not unlabelled.any():
            return rule.holds(labels, where=where, first_row=first)
        positive = np.ones(len(labels), dtype=bool)
        labelled = np.flatnonzero(~unlabelled)
        if len(labelled):
            there = labels.gather(labelled)
            if there.null_count():
                row = first + int(labelled[np.argmax(there.is_null().to_numpy())])
                raise DataError(f"{where}, row {row}: the label is missing: fill it in or remove the row")
            positive[labelled] = rule.holds(there, where=where, first_row=first)
        return positive

    def events(self) -> Events:
        """What was collected."""
        joined = {}
        for name in list(self._pieces):
            joined[name] = np.concatenate(self._pieces.pop(name))
        if not len(joined.get("users", ())):
            raise DataError(f"{self._table.name}: the log has no event with a user and an item")
        names = tuple(kind for kind in self._kind_codes if kind is not None)
        for kind in (*self._targets, *(self._settings.behaviours or ())):
            if kind not in names:
                column = self._settings.behaviour or ""
                raise DataError(f"{self._where(column)}: no event is {kind!r}. {did_you_mean(kind, names)}")
        user_ids, item_ids = self._ids[self._settings.user], self._ids[self._settings.item]
        assert user_ids is not None
        assert item_ids is not None
        everything = np.ones(len(joined["users"]), dtype=bool)
        columns = {}
        for name in list(self._column_pieces):
            columns[name] = pl.concat(self._column_pieces.pop(name), rechunk=True)
        return Events(
            users=joined["users"],
            items=joined["items"],
            times=joined.get("times"),
            clock=COUNTER if self._times is None else self._times.clock,
            positive=joined.get("positive", everything),
            target=joined["target"],
            kinds=joined.get("kinds"),
            kind_names=names,
            folds=joined.get("folds"),
            columns=columns,
            user_ids=user_ids,
            item_ids=item_ids,
            kept=joined["kept"],
            first_row=self._first_row,
            notes=tuple(self._notes(joined)),
            recognised=None if self._times is None else self._times.recognised,
        )

    def _notes(self, joined: Mapping[str, NDArray]) -> list[str]:
        notes = [f"{count:,} rows without {column!r} are left out" for column, count in self._dropped.items() if count]
        if self._times is not None:
            clock, times = self._times.clock, joined["times"]
            taken = f" (taken as {_UNITS[clock.unit]}: set `time_unit` if they are not)" if self._times.guessed else ""
            notes.append(f"times go from {clock.text(int(times.min()))} to {clock.text(int(times.max()))}{taken}")
        return notes


def _ids_of(values: pl.Series) -> pl.Series:
    """Ids as they are; an empty text is a missing one, and whole numbers with gaps arrive as floats from pandas."""
    if values.dtype == pl.String:
        return values.set(values == "", None)
    if values.dtype.is_float():
        whole = values.fill_nan(None)
        if (whole == whole.floor()).all() and (whole.abs() < EXACT_FLOAT).all():
            return whole.cast(pl.Int64)
    return values


_UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    None: "whole numbers that only count",
}
