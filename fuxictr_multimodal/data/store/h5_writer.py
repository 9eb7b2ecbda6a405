"""Write the HDF5 files of a dataset: chunked, with checksums, and byte for byte the same for the same rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths
from fuxictr_multimodal.data.store.h5_closing import created, finish, flushed, forget, written
from fuxictr_multimodal.data.store.manifest import FORMAT_VERSION, Column
from fuxictr_multimodal.data.store.reader import BEHAVIOURS, CHUNK_ROWS, HISTORY
from fuxictr_multimodal.system.writing import writing

CHUNK_BYTES = 4 << 20
CHUNK_VALUES = 4 * CHUNK_ROWS


class SplitWriter:
    """Rows of one split, in any number of pieces of any size.

    Rows are buffered until a chunk of 65,536 is full, so that the bytes on disk do not depend on the pieces' sizes.
    Memory holds one chunk and the caller's piece. Parts are `part-00000.h5`, ...; one part alone becomes
    `<split>.h5`.

    Args:
        folder: folder of the parts, `<dataset>/<split>`.
        columns: columns of the split; `append` must get exactly these, in their dtypes.
        rows_per_part: maximum number of rows in one file.
        events: names of the columns that go with the items of each history.
        behaviours: names of the further kinds of history.
        history: whether the rows have histories.
    """

    def __init__(
        self,
        *,
        folder: Path,
        columns: list[Column],
        rows_per_part: int,
        events: Sequence[str] = (),
        behaviours: Sequence[str] = (),
        history: bool = True,
    ) -> None:
        self._folder = folder
        self._columns = columns
        self._rows_per_part = rows_per_part
        self._events = tuple(events)
        self._pending: dict[str, list[np.ndarray]] = {column.name: [] for column in columns}
        self._histories: dict[str, _Pending] = {}
        if history:
            groups = (HISTORY, *(f"{BEHAVIOURS}/{name}" for name in behaviours))
            self._histories = {group: _Pending(self._events) for group in groups}
        self._pending_rows = 0
        self._file: h5py.File | None = None
        self._parts: list[Path] = []
        self._part_rows = 0
        folder.mkdir()

    def append(
        self,
        columns: Mapping[str, np.ndarray],
        values: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
        *,
        events: Mapping[str, np.ndarray] | None = None,
        behaviours: Mapping[str, JaggedArrays] | None = None,
    ) -> None:
        """Take rows: columns (rows, ...), and histories from 0: values (N,), offsets (rows + 1,), events (N,)."""
        for name, pending in self._pending.items():
            pending.append(columns[name].copy())
        if self._histories:
            assert values is not None
            assert offsets is not None
            self._histories[HISTORY].add(JaggedArrays(values, offsets, events or {}))
        for behaviour, rows in (behaviours or {}).items():
            self._histories[f"{BEHAVIOURS}/{behaviour}"].add(rows)
        self._pending_rows += len(columns[self._columns[0].name])
        self._drain(final=False)

    def close(self) -> None:
        """Write the buffered rows; afterwards the split is `<split>.h5`, or the folder of parts."""
        self._drain(final=True)
        self._close_part(last=True)
        if len(self._parts) == 1:
            alone = self._folder.with_name(self._folder.name + ".h5")
            with writing(alone, temporary=self._parts[0]):
                self._parts[0].rename(alone)
                self._folder.rmdir()

    def abandon(self) -> None:
        """Close the open file and discard the buffered rows."""
        if self._file is not None:
            forget(self._file)
            self._file = None

    def _drain(self, *, final: bool) -> None:
        if self._pending_rows < CHUNK_ROWS and not final and self._pending_rows < self._room():
            return
        columns = {name: np.concatenate(pieces) for name, pieces in self._pending.items() if pieces}
        if not columns:
            return
        histories = {group: pending.joined() for group, pending in self._histories.items()}
        row = 0
        while left := self._pending_rows - row:
            count = min(CHUNK_ROWS, self._room())
            if left < count and not final:
                break
            stop = row + min(count, left)
            self._write(
                {name: data[row:stop] for name, data in columns.items()},
                {group: _rows_of(history, row, stop) for group, history in histories.items()},
            )
            row = stop
        # Copies, so that the rest does not keep the whole piece alive.
        self._pending = {name: [data[row:].copy()] for name, data in columns.items()}
        for group, pending in self._histories.items():
            pending.keep(_rows_of(histories[group], row, self._pending_rows))
        self._pending_rows -= row

    def _room(self) -> int:
        """Rows that fit into the open part, or into the next one where it is full."""
        return self._rows_per_part - self._part_rows % self._rows_per_part

    def _write(self, columns: Mapping[str, np.ndarray], histories: Mapping[str, JaggedArrays]) -> None:
        rows = len(columns[self._columns[0].name])
        if self._file is None or self._part_rows == self._rows_per_part:
            self._close_part(last=False)
            self._open_part(rows, {group: len(history.values) for group, history in histories.items()})
        start = self._part_rows
        with self._part() as file:
            for name, data in columns.items():
                _extend(file, name, data, start)
            for group, history in histories.items():
                stored = file[f"{group}/values"]
                end = stored.shape[0]
                _resized(stored, history.values, end)
                _extend(file, f"{group}/offsets", end + history.offsets[1:], start + 1)
                for name, data in history.events.items():
                    _extend(file, f"{group}/events/{name}", data, end)
                flushed([stored])
        self._part_rows += rows

    def _open_part(self, first_rows: int, first_values: Mapping[str, int]) -> None:
        path = self._folder / f"part-{len(self._parts):05d}.h5"
        self._parts.append(path)
        self._part_rows = 0
        # The cache must hold a chunk of every kind, or a half-filled one is read back to be extended.
        self._file = created(path, rdcc_nbytes=4 * CHUNK_BYTES)
        with self._part() as file:
            self._create_columns(file, first_rows, first_values)

    @contextlib.contextmanager
    def _part(self) -> Iterator[h5py.File]:
        """Write to the open part; one that fails is closed, and no longer ours to close."""
        file, self._file = self._file, None
        assert file is not None
        with written(file, self._parts[-1]):
            yield file
        self._file = file

    def _create_columns(self, file: h5py.File, first_rows: int, first_values: Mapping[str, int]) -> None:
        for position, column in enumerate(self._columns):
            _create(file, column, position, rows=0, chunk_rows=min(CHUNK_ROWS, first_rows))
        # One is closed after the next is created: the order decides where their chunks lie.
        opened: list[h5py.Dataset] = []
        stored: dict[str, Any] = {"maxshape": (None,), "fletcher32": True, "track_times": False}
        for position, (group, count) in enumerate(first_values.items()):
            chunks = (max(1, min(CHUNK_VALUES, count)),)
            file.create_dataset(f"{group}/values", (0,), np.int32, chunks=chunks, **stored)
            offsets = file.create_dataset(
                f"{group}/offsets", (1,), np.int64, chunks=(min(CHUNK_ROWS, first_rows + 1),), **stored
            )
            flushed(opened)
            offsets[0] = 0
            opened.append(offsets)
            for place, name in enumerate(self._events):
                event = file.create_dataset(f"{group}/events/{name}", (0,), np.int32, chunks=chunks, **stored)
                event.attrs["position"] = place
            if group != HISTORY:
                file[group].attrs["position"] = position - 1
        flushed(opened)

    def _close_part(self, *, last: bool) -> None:
        if self._file is not None:
            with self._part() as file:
                file.attrs["format_version"] = FORMAT_VERSION
                file.attrs["rows"] = self._part_rows
                file.attrs["last"] = last
                file.flush()
            self._file = None
            finish(file, self._parts[-1])


class _Pending:
    """Histories of one kind that wait for a full chunk."""

    def __init__(self, events: Sequence[str]) -> None:
        self._values: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._events: dict[str, list[np.ndarray]] = {name: [] for name in events}

    def add(self, rows: JaggedArrays) -> None:
        self._values.append(rows.values.copy())
        self._lengths.append(np.diff(rows.offsets))
        for name, pending in self._events.items():
            pending.append(rows.events[name].copy())

    def joined(self) -> JaggedArrays:
        events = {name: np.concatenate(pieces) for name, pieces in self._events.items()}
        return JaggedArrays(np.concatenate(self._values), offsets_from_lengths(np.concatenate(self._lengths)), events)

    def keep(self, rows: JaggedArrays) -> None:
        """Continue with these rows alone."""
        self._values, self._lengths = [rows.values.copy()], [np.diff(rows.offsets)]
        self._events = {name: [column.copy()] for name, column in rows.events.items()}


def _rows_of(history: JaggedArrays, start: int, stop: int) -> JaggedArrays:
    """Some rows, with offsets from 0 again; values and events are views."""
    offsets = history.offsets[start : stop + 1]
    first, last = offsets[0], offsets[-1]
    events = {name: column[first:last] for name, column in history.events.items()}
    return JaggedArrays(history.values[first:last], offsets - first, events)


def write_item_file(path: Path, columns: list[Column], data: Mapping[str, np.ndarray]) -> None:
    """Write an item table, one HDF5 dataset a column."""
    rows = len(data[columns[0].name])
    file = created(path)
    # One is closed after the next is created: the order decides where their chunks lie.
    datasets: list[h5py.Dataset] = []
    with written(file, path):
        for position, column in enumerate(columns):
            dataset = _create(file, column, position, rows=rows, chunk_rows=min(CHUNK_ROWS, rows))
            flushed(datasets)
            dataset[:] = data[column.name]
            datasets.append(dataset)
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["rows"] = rows
        flushed(datasets)
        file.flush()
    finish(file, path)


def _create(file: h5py.File, column: Column, position: int, *, rows: int, chunk_rows: int) -> h5py.Dataset:
    row_bytes = np.dtype(column.dtype).itemsize * int(np.prod(column.shape, dtype=np.int64))
    while chunk_rows > 1 and chunk_rows * row_bytes > CHUNK_BYTES:
        chunk_rows = (chunk_rows + 1) // 2
    dataset = file.create_dataset(
        column.name,
        (rows, *column.shape),
        column.dtype,
        maxshape=(None, *column.shape),
        chunks=(chunk_rows, *column.shape),
        fletcher32=True,
        track_times=False,
    )
    dataset.attrs["role"] = column.role
    dataset.attrs["position"] = position
    return dataset


def _extend(file: h5py.File, name: str, data: np.ndarray, start: int) -> None:
    dataset = file[name]
    _resized(dataset, data, start)
    flushed([dataset])


def _resized(dataset: h5py.Dataset, data: np.ndarray, start: int) -> None:
    if len(data):
        dataset.resize(start + len(data), axis=0)
        dataset[start:] = data
