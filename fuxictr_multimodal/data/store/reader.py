"""Read a split (one file or parts), or the item table, of a dataset on disk.

A split is one HDF5 dataset a column, with `history/values` (N,) and `history/offsets` (rows + 1,) for the jagged
histories, `history/events/<name>` (N,) for what goes with their items, and the same in `behaviours/<name>/` for each
further kind of history. This file knows no torch: the loader turns what it reads into tensors.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths
from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.h5_files import columns_of, in_order, open_file, read_rows
from fuxictr_multimodal.data.store.manifest import SPLITS, Column, read_json
from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.system.untrusted.hdf5 import whole_attribute

CHUNK_ROWS = 65_536
ITEM_FILE = "item.h5"
# JSON list: entry i is the title of item i; the padding item has "".
TITLES_FILE = "item_titles.json"
# Groups of a split: the first history, and the folder of the others.
HISTORY = "history"
BEHAVIOURS = "behaviours"


class SplitReader:
    """Rows of one split, whether it is one file or a folder of parts. A context manager.

    Args:
        path: `train.h5`, the folder `train` of parts, or either without its suffix.

    Raises:
        DataError: there is no such split, or its files have another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self._files: list[h5py.File] = []
        self._paths = _part_paths(Path(path))
        try:
            for part in self._paths:
                self._files.append(open_file(part))
            sizes = [whole_attribute(file, "rows", file.filename) for file in self._files]
            if not whole_attribute(self._files[-1], "last", str(self._paths[-1])):
                raise DataError(f"{self._paths[-1]} is not the last part of its split: {BUILD_AGAIN}")
        except BaseException:
            self.close()
            raise
        self._starts = offsets_from_lengths(sizes).tolist()

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return self._starts[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(file.id.get_filesize() for file in self._files)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns by name, in the order of the manifest; histories are not a column.

        Raises:
            DataError: the parts of the split have different columns.
        """
        first, *others = (columns_of(file) for file in self._files)
        for path, columns in zip(self._paths[1:], others, strict=True):
            if columns != first:
                raise DataError(
                    f"{path} has other columns than {self._paths[0]}: one of them is damaged, or belongs to another "
                    f"build; {BUILD_AGAIN}"
                )
        return first

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges of the chunks on disk, in order; a block never crosses the border of a part."""
        return [
            (start, min(start + CHUNK_ROWS, end))
            for begin, end in zip(self._starts, self._starts[1:], strict=False)
            for start in range(begin, end, CHUNK_ROWS)
        ]

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a column, (stop - start, ...)."""
        if name not in self.columns:
            raise DataError(f"{self._paths[0]} has no column {name!r}. {did_you_mean(name, self.columns)}")
        pieces = [read_rows(self._files[part], name, low, high) for part, low, high in self._ranges(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def place(self, row: int) -> tuple[Path, int]:
        """The file that holds a row of the split, and the number of the row in that file."""
        ((part, low, _),) = self._ranges(row, row + 1)
        return self._paths[part], low

    @cached_property
    def has_history(self) -> bool:
        """Whether the rows have histories; those of a flat dataset have none."""
        return HISTORY in self._files[0]

    @cached_property
    def behaviours(self) -> tuple[str, ...]:
        """Names of the further kinds of history."""
        return in_order(self._files[0].get(BEHAVIOURS))

    @cached_property
    def events(self) -> tuple[str, ...]:
        """Names of the columns that go with the items of each history."""
        return in_order(self._files[0].get(f"{HISTORY}/events"))

    def read_history(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Histories of rows `start` to `stop`: values (N,) int32 and offsets (stop - start + 1,) int64 from 0."""
        history = self.read_jagged(start, stop)
        return history.values, history.offsets

    def read_jagged(
        self, start: int, stop: int, *, behaviour: str | None = None, events: Sequence[str] = ()
    ) -> JaggedArrays:
        """Histories of rows `start` to `stop` as `read_history`, with columns of events, each (N,) int32.

        Args:
            start, stop: rows.
            behaviour: one of the further kinds of history; None is the first.
            events: names of the columns to read.

        Raises:
            DataError: they are damaged: offsets decrease, or do not belong to the values.
        """
        group = HISTORY if behaviour is None else f"{BEHAVIOURS}/{behaviour}"
        names = [f"{group}/values", *(f"{group}/events/{name}" for name in events)]
        pieces: list[list[np.ndarray]] = [[] for _ in names]
        lengths = []
        for part, low, high in self._ranges(start, stop):
            stored = self._read_offsets(part, group, low, high)
            for name, found in zip(names, pieces, strict=True):
                found.append(read_rows(self._files[part], name, int(stored[0]), int(stored[-1])))
            lengths.append(np.diff(stored))
        offsets = offsets_from_lengths(np.concatenate(lengths))
        values, *columns = (found[0] if len(found) == 1 else np.concatenate(found) for found in pieces)
        return JaggedArrays(values, offsets, dict(zip(events, columns, strict=True)))

    def _read_offsets(self, part: int, group: str, start: int, stop: int) -> np.ndarray:
        """Offsets of rows `start` to `stop` in one part, (stop - start + 1,), between which values lie."""
        stored = read_rows(self._files[part], f"{group}/offsets", start, stop + 1)
        values = self._files[part][f"{group}/values"].shape[0]
        decreasing = stored[1:] < stored[:-1]
        if decreasing.any():
            row = int(np.argmax(decreasing))
            problem = f"row {start + row}: the offsets decrease from {stored[row]} to {stored[row + 1]}"
        elif stored[0] < 0 or stored[-1] > values:
            problem = f"rows {start} to {stop}: the offsets go from {stored[0]} to {stored[-1]}, outside of the values"
        elif (start == 0 and stored[0] != 0) or (stop == self._rows_of(part) and stored[-1] != values):
            problem = f"the offsets do not cover all {values} values"
        else:
            return stored
        raise DataError(f"{self._paths[part]}: {group}: {problem}: the file is damaged; {BUILD_AGAIN}")

    def _rows_of(self, part: int) -> int:
        return self._starts[part + 1] - self._starts[part]

    def close(self) -> None:
        """Close the files."""
        while self._files:
            self._files.pop().close()

    def __enter__(self) -> SplitReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(part, first row, end row) inside the parts that hold rows `start` to `stop`; at least one range."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop} of a split of {self.rows} rows")
        part = min(bisect.bisect_right(self._starts, start), len(self._files)) - 1
        ranges = []
        while True:
            begin, end = self._starts[part], self._starts[part + 1]
            ranges.append((part, start - begin, min(stop, end) - begin))
            if stop <= end:
                return ranges
            part, start = part + 1, end


def read_item_table(path: str | Path) -> dict[str, np.ndarray]:
    """All columns of an item table by name, each (items, ...); row 0 is padding and all zero.

    Args:
        path: `item.h5`, or the folder that holds it.
    """
    path = Path(path)
    with open_file(path / ITEM_FILE if path.is_dir() else path) as file:
        return {name: read_rows(file, name, 0, int(file.attrs["rows"])) for name in columns_of(file)}


def read_item_titles(directory: Path) -> dict[int, str]:
    """Titles by item id of the dataset in `directory`; empty where it has none.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / TITLES_FILE
    if not path.is_file():
        return {}
    titles = read_json(path)
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise DataError(f"{path} is damaged: it must be a list of titles; {BUILD_AGAIN}")
    return dict(enumerate(titles))


def _part_paths(path: Path) -> list[Path]:
    """The files of a split, in order."""
    folder = path.with_suffix("") if path.suffix == ".h5" else path
    single = folder.with_name(folder.name + ".h5")
    if single.is_file():
        return [single]
    parts = sorted(folder.glob("part-*.h5"))
    if not parts:
        kind = "split" if folder.name in SPLITS else "file"
        raise DataError(f"{path} does not exist: the {kind} is neither {single} nor parts in {folder}")
    expected = [f"part-{index:05d}.h5" for index in range(len(parts))]
    for part, name in zip(parts, expected, strict=True):
        if part.name != name:
            raise DataError(f"{folder / name} is missing: {BUILD_AGAIN}")
    return parts
