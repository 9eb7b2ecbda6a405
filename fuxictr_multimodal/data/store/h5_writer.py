"""Write the HDF5 files of a dataset: chunked, with checksums, and byte for byte the same for the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.data.store.manifest import FORMAT_VERSION, Column
from fuxictr_multimodal.data.store.reader import CHUNK_ROWS, HISTORY_OFFSETS, HISTORY_VALUES

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
    """

    def __init__(self, *, folder: Path, columns: list[Column], rows_per_part: int) -> None:
        self._folder = folder
        self._columns = columns
        self._rows_per_part = rows_per_part
        self._pending: dict[str, list[np.ndarray]] = {column.name: [] for column in columns}
        self._pending_values: list[np.ndarray] = []
        self._pending_lengths: list[np.ndarray] = []
        self._pending_rows = 0
        self._file: h5py.File | None = None
        self._parts: list[Path] = []
        self._part_rows = 0
        folder.mkdir()

    def append(self, columns: Mapping[str, np.ndarray], values: np.ndarray, offsets: np.ndarray) -> None:
        """Take rows: columns (rows, ...), history values (N,) and offsets (rows + 1,) from 0."""
        for name, pending in self._pending.items():
            pending.append(columns[name].copy())
        self._pending_values.append(values.copy())
        self._pending_lengths.append(np.diff(offsets))
        self._pending_rows += len(offsets) - 1
        self._drain(final=False)

    def close(self) -> None:
        """Write the buffered rows; afterwards the split is `<split>.h5`, or the folder of parts."""
        self._drain(final=True)
        self._close_part(last=True)
        if len(self._parts) == 1:
            self._parts[0].rename(self._folder.with_name(self._folder.name + ".h5"))
            self._folder.rmdir()

    def abandon(self) -> None:
        """Close the open file and discard the buffered rows."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drain(self, *, final: bool) -> None:
        if self._pending_rows < CHUNK_ROWS and not final and self._pending_rows < self._room():
            return
        columns = {name: np.concatenate(pieces) for name, pieces in self._pending.items() if pieces}
        if not columns:
            return
        values, lengths = np.concatenate(self._pending_values), np.concatenate(self._pending_lengths)
        offsets = offsets_from_lengths(lengths)
        row = 0
        while left := self._pending_rows - row:
            count = min(CHUNK_ROWS, self._room())
            if left < count and not final:
                break
            stop = row + min(count, left)
            self._write({name: data[row:stop] for name, data in columns.items()}, values, offsets[row : stop + 1])
            row = stop
        # Copies, so that the rest does not keep the whole piece alive.
        self._pending = {name: [data[row:].copy()] for name, data in columns.items()}
        self._pending_values, self._pending_lengths = [values[offsets[row] :].copy()], [lengths[row:].copy()]
        self._pending_rows -= row

    def _room(self) -> int:
        """Rows that fit into the open part, or into the next one where it is full."""
        return self._rows_per_part - self._part_rows % self._rows_per_part

    def _write(self, columns: Mapping[str, np.ndarray], values: np.ndarray, offsets: np.ndarray) -> None:
        """Append rows; their histories are `values[offsets[0]:offsets[-1]]`."""
        rows, values = len(offsets) - 1, values[offsets[0] : offsets[-1]]
        if self._file is None or self._part_rows == self._rows_per_part:
            self._close_part(last=False)
            self._open_part(first_rows=rows, first_values=len(values))
        assert self._file is not None
        start = self._part_rows
        for name, data in columns.items():
            _extend(self._file[name], data, start)
        stored_values, stored_offsets = self._file[HISTORY_VALUES], self._file[HISTORY_OFFSETS]
        written = stored_values.shape[0]
        _extend(stored_values, values, written)
        _extend(stored_offsets, written + offsets[1:] - offsets[0], start + 1)
        self._part_rows += rows

    def _open_part(self, *, first_rows: int, first_values: int) -> None:
        path = self._folder / f"part-{len(self._parts):05d}.h5"
        self._parts.append(path)
        self._part_rows = 0
        # The cache must hold a chunk of every kind, or a half-filled one is read back to be extended.
        self._file = h5py.File(path, "w", rdcc_nbytes=4 * CHUNK_BYTES)
        for position, column in enumerate(self._columns):
            _create(self._file, column, position, rows=0, chunk_rows=min(CHUNK_ROWS, first_rows))
        history = {"maxshape": (None,), "fletcher32": True, "track_times": False}
        self._file.create_dataset(
            HISTORY_VALUES, (0,), np.int32, chunks=(max(1, min(CHUNK_VALUES, first_values)),), **history
        )
        offsets = self._file.create_dataset(
            HISTORY_OFFSETS, (1,), np.int64, chunks=(min(CHUNK_ROWS, first_rows + 1),), **history
        )
        offsets[0] = 0

    def _close_part(self, *, last: bool) -> None:
        if self._file is not None:
            self._file.attrs["format_version"] = FORMAT_VERSION
            self._file.attrs["rows"] = self._part_rows
            self._file.attrs["last"] = last
            self._file.close()
            self._file = None


def write_item_file(path: Path, columns: list[Column], data: Mapping[str, np.ndarray]) -> None:
    """Write an item table, one HDF5 dataset a column."""
    rows = len(data[columns[0].name])
    with h5py.File(path, "w") as file:
        for position, column in enumerate(columns):
            dataset = _create(file, column, position, rows=rows, chunk_rows=min(CHUNK_ROWS, rows))
            dataset[:] = data[column.name]
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["rows"] = rows


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


def _extend(dataset: h5py.Dataset, data: np.ndarray, start: int) -> None:
    if len(data):
        dataset.resize(start + len(data), axis=0)
        dataset[start:] = data
