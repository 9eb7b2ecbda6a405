"""New samples of a dataset that was built from its entry: csv or parquet in the form of the training samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from fuxictr_multimodal.config.entry_settings import form_of
from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.samples.events import SampleEvents
from fuxictr_multimodal.data.entry.samples.histories import HistoryReader
from fuxictr_multimodal.data.entry.samples.sources import Source
from fuxictr_multimodal.data.entry.tables.files import Table, files_of, format_of, scan
from fuxictr_multimodal.data.entry.tables.lists import as_ids
from fuxictr_multimodal.data.entry.tables.users import Users, read_users
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.recipes.parquet_input import BATCH_ROWS
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.raw_rows import Piece, RawRows, Reading

# No history is cut before unknown items are left out.
UNCUT = 2**31 - 1


def entry_of(params: Mapping[str, Any], store: Store, events: Collection[str]) -> Entry | None:
    """The entry that a run's dataset was built from, or None where a script or FuxiCTR made it.

    Args:
        params: of the run; where they have no entry, the dataset's manifest has.
        store: the dataset.
        events: event features that the model reads; the others are left out of the entry.
    """
    written = store.manifest.recipe.get("entry") if store.manifest.recipe.get("builder") == "entry" else None
    if written is None:
        return None
    if form_of(params) not in ("log", "samples", "flat"):
        params = {**written, "dataset_id": store.place.name, "data_root": str(store.place.parent)}
        params |= {"group_id": store.manifest.group_id}
        if "interactions" not in written:
            # The format is that of files that are not read again.
            params["data_format"] = "parquet"
    if form_of(params) not in ("log", "samples", "flat"):
        return None
    wanted = [column for column in params.get("event_cols") or () if column["name"] in events]
    return Entry.of({**params, "event_cols": wanted or None, "max_len": UNCUT})


class EntryRows(RawRows):
    """Samples in the form of the entry's `train_data`: the same columns without the label, and ids of the user's own.

    Features of users come from the samples if these have them, else from the entry's `user_data`.

    Args:
        path: csv or parquet, a file, a folder of parts or a glob.
        reading: the dataset and the model that they are read for.
        entry: that the dataset was built from, see `entry_of`.
        history_column: column of the main history, in place of the entry's.

    Raises:
        DataError: the file or a column is missing or of another form; the message names file, column and row.
    """

    def __init__(self, path: Path, reading: Reading, *, entry: Entry, history_column: str | None = None) -> None:
        super().__init__(path, reading)
        store = reading.store
        self._entry = entry
        columns = entry.columns
        self._own = [c for c in columns.samples if c["name"] in self._specs]
        self._of_users = [c for c in columns.users if c["name"] in self._specs]
        self._ids = None if self._target is None else store.ids(self._target)
        self._reader = None if self._target is None else HistoryReader(entry)
        self._encoder = SampleEvents.restored(entry, store.manifest.facts)
        self._renamed = {history_column: columns.histories[0]} if history_column and columns.histories else {}
        table = open_samples(path, entry, self._dtypes(), optional=columns.dtypes(self._of_users))
        users = users_of(entry, self._of_users, table)
        if self._renamed:
            table = replace(table, frame=table.frame.rename({str(key): name for key, name in self._renamed.items()}))
        self._table = table if users is None else users.join(table)
        self.num_samples = table.rows
        if not self.num_samples:
            raise DataError(f"{path}: the file has no samples to score")

    def columns(self, names: list[str]) -> dict[str, pl.Series]:
        """Columns of the samples as they are, of any type, whole; those that they lack are left out."""
        return read_columns(self.path, self._entry, names)

    def _dtypes(self) -> dict[str, str]:
        columns = self._entry.columns
        found = columns.dtypes(self._own)
        if columns.own is not None:
            assert self._reader is not None
            found |= dict.fromkeys(self._reader.columns, "list")
            found |= {name: "any" for name in self._encoder.targets if name not in found}
            found[columns.raw_name(columns.own)] = columns.own["dtype"]
        if self._of_users:
            found.setdefault(self._entry.user_col, "any")
        back = {name: given for given, name in self._renamed.items()}
        return {str(back.get(name, name)): kind for name, kind in found.items()}

    def _pieces(self) -> Iterator[Piece]:
        columns = self._entry.columns
        source = Source("--data", None, self._table, None, "")
        at = 0
        for chunk in self._table.chunks(rows=BATCH_ROWS):
            found = {
                column["name"]: values_of(column, chunk[columns.raw_name(column)], where=source.name, first_row=at)
                for column in (*self._own, *self._of_users)
            }
            if columns.own is None or self._ids is None or self._reader is None:
                yield Piece(at, found, None)
                at += len(chunk)
                continue
            targets, _ = as_ids(chunk[columns.raw_name(columns.own)], columns.own["dtype"])
            histories = self._reader.read(chunk, source=source, first_row=at)
            codes, histories = self._encoder.encode(chunk, histories, source=source, first_row=at)
            coded = {
                name or "history": JaggedArrays(self._ids.codes(history.ids), history.offsets, history.events)
                for name, history in histories.items()
            }
            yield Piece(at, {**found, **codes}, self._ids.codes(targets), coded)
            at += len(chunk)


def open_samples(path: Path, entry: Entry, dtypes: Mapping[str, str], *, optional: Mapping[str, str]) -> Table:
    """New samples as a table; see `scan`."""
    may_lack = optional.keys() - dtypes.keys()
    return scan(path, dtypes={**optional, **dtypes}, where="--data", optional=may_lack, sep=entry.settings.sep or ",")


def users_of(entry: Entry, columns: Collection[Mapping[str, Any]], table: Table) -> Users | None:
    """The users' table, where their features are wanted and the samples lack them.

    Raises:
        DataError: neither the samples nor a file have them.
    """
    wanted = [entry.columns.raw_name(column) for column in columns]
    lacking = [name for name in wanted if name not in table.columns]
    if not lacking:
        return None
    try:
        return read_users(entry)
    except DataError as error:
        raise DataError(
            f"{table.name}: the user's column {lacking[0]!r} is missing, and user_data cannot be read: {error}"
        ) from None


def read_columns(path: Path, entry: Entry, names: Collection[str]) -> dict[str, pl.Series]:
    """Columns of new samples as they are in the file, by the names of the dataset; those that it lacks are left out."""
    columns = entry.columns
    known = {c["name"]: c for c in (*columns.samples, *([columns.own] if columns.own else ()))}
    raw = {name: columns.raw_name(known[name]) if name in known else name for name in names}
    # A csv file has texts only.
    texts = format_of(files_of(path, data_format=None, where="--data")[0], "--data") == "csv"
    wanted = {given: known[name]["dtype"] if texts and name in known else "any" for name, given in raw.items()}
    table = scan(path, dtypes=wanted, where="--data", optional=[*wanted], sep=entry.settings.sep or ",")
    frame = table.read()
    return {name: frame[given].alias(name) for name, given in raw.items() if given in frame.columns}
