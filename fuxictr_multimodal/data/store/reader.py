"""Read a dataset: its manifest, its splits (one file or parts), its item table, and their integrity.

A split is one HDF5 dataset a column, with `history/values` (N,) and `history/offsets` (rows + 1,) for the jagged
histories, `history/events/<name>` (N,) for what goes with their items, and the same in `behaviours/<name>/` for each
further kind of history. This file knows no torch: the loader turns what it reads into tensors.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from fuxictr_multimodal.data.jagged import JaggedArrays, offsets_from_lengths
from fuxictr_multimodal.data.store.ids import IdMap, ids_name
from fuxictr_multimodal.data.store.manifest import FORMAT_VERSION, MANIFEST_NAME, SPLITS, Column, Manifest
from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.system.files import sha256

CHUNK_ROWS = 65_536
ITEM_FILE = "item.h5"
# JSON list: entry i is the title of item i; the padding item has "".
TITLES_FILE = "item_titles.json"
# Groups of a split: the first history, and the folder of the others.
HISTORY = "history"
BEHAVIOURS = "behaviours"


@dataclass(frozen=True, repr=False)
class Store:
    """A finished dataset on disk.

    Attributes:
        dir: `<data_root>/<dataset_id>`.
        manifest: its metadata.
    """

    dir: Path
    manifest: Manifest

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {counts.rows:,}" for name, counts in self.manifest.splits.items())
        return f"Store({str(self.dir)!r}: {splits})"

    @classmethod
    def open(cls, data_root: str | Path, dataset_id: str) -> Store:
        """Open `<data_root>/<dataset_id>`.

        Raises:
            DataError: there is no such dataset, its build was interrupted, it has another format version, or a
                file is missing. The message says what to do.
        """
        directory = Path(data_root) / dataset_id
        if not directory.is_dir():
            raise DataError(
                f"{directory} does not exist: build the dataset first. {_known_datasets(data_root, dataset_id)}"
            )
        if not (directory / MANIFEST_NAME).is_file():
            raise DataError(
                f"{directory} has no {MANIFEST_NAME}: its build was interrupted, or it is not a dataset of this "
                f"format; build it again with overwrite"
            )
        manifest = Manifest.read(directory)
        if manifest.dataset_id != dataset_id:
            raise DataError(
                f"{directory / MANIFEST_NAME} is of dataset {manifest.dataset_id!r}, not {dataset_id!r}: "
                f"the folder must have the name of its dataset"
            )
        missing = [name for name in manifest.files if not (directory / name).is_file()]
        if missing:
            raise DataError(f"{directory / missing[0]} is missing: build the dataset again with overwrite")
        return cls(directory, manifest)

    @staticmethod
    def exists(data_root: str | Path, dataset_id: str) -> bool:
        """Whether a finished dataset of any format version exists."""
        return (Path(data_root) / dataset_id / MANIFEST_NAME).is_file()

    def split_path(self, split: str) -> Path | None:
        """`train.h5`, or the folder `train` of parts, or None where the dataset has no such split."""
        if split not in self.manifest.splits:
            return None
        single = self.dir / f"{split}.h5"
        return single if single.is_file() else self.dir / split

    def reader(self, split: str) -> SplitReader:
        """Open a split for reading."""
        path = self.split_path(split)
        if path is None:
            raise DataError(f"{self.dir} has no split {split!r}. {did_you_mean(split, self.manifest.splits)}")
        return SplitReader(path)

    def ids(self, column: str) -> IdMap | None:
        """The user's own ids of a column's codes, or None where the column holds what the user gave.

        Raises:
            DataError: the file is damaged.
        """
        return IdMap.read(self.dir / ids_name(column)) if column in self.manifest.ids else None

    def verify(self) -> None:
        """Compare every file with its SHA-256 in the manifest.

        Raises:
            DataError: a file differs.
        """
        for name, expected in self.manifest.files.items():
            if sha256(self.dir / name) != expected:
                raise DataError(
                    f"{self.dir / name} does not match its checksum in {MANIFEST_NAME}: the file is damaged or was "
                    f"changed; build the dataset again with overwrite"
                )


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
                self._files.append(_open(part))
            sizes = [int(file.attrs["rows"]) for file in self._files]
            if not self._files[-1].attrs["last"]:
                raise DataError(f"{self._paths[-1]} is not the last part of its split: build the dataset again")
        except BaseException:
            self.close()
            raise
        self._starts = offsets_from_lengths(sizes).tolist()

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return self._starts[-1]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns by name, in the order of the manifest; histories are not a column."""
        return _columns(self._files[0])

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
        pieces = [_read(self._files[part], name, low, high) for part, low, high in self._ranges(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    @cached_property
    def has_history(self) -> bool:
        """Whether the rows have histories; those of a flat dataset have none."""
        return HISTORY in self._files[0]

    @cached_property
    def behaviours(self) -> tuple[str, ...]:
        """Names of the further kinds of history."""
        return _in_order(self._files[0].get(BEHAVIOURS))

    @cached_property
    def events(self) -> tuple[str, ...]:
        """Names of the columns that go with the items of each history."""
        return _in_order(self._files[0].get(f"{HISTORY}/events"))

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
        """
        group = HISTORY if behaviour is None else f"{BEHAVIOURS}/{behaviour}"
        names = [f"{group}/values", *(f"{group}/events/{name}" for name in events)]
        pieces: list[list[np.ndarray]] = [[] for _ in names]
        lengths = []
        for part, low, high in self._ranges(start, stop):
            stored = _read(self._files[part], f"{group}/offsets", low, high + 1)
            for name, found in zip(names, pieces, strict=True):
                found.append(_read(self._files[part], name, int(stored[0]), int(stored[-1])))
            lengths.append(np.diff(stored))
        offsets = offsets_from_lengths(np.concatenate(lengths))
        values, *columns = (found[0] if len(found) == 1 else np.concatenate(found) for found in pieces)
        return JaggedArrays(values, offsets, dict(zip(events, columns, strict=True)))

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
    with _open(path / ITEM_FILE if path.is_dir() else path) as file:
        return {name: _read(file, name, 0, int(file.attrs["rows"])) for name in _columns(file)}


def read_item_titles(directory: Path) -> dict[int, str]:
    """Titles by item id of the dataset in `directory`; empty where it has none."""
    path = directory / TITLES_FILE
    return dict(enumerate(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else {}


def _known_datasets(data_root: str | Path, dataset_id: str) -> str:
    root = Path(data_root)
    known = [path.parent.name for path in root.glob(f"*/{MANIFEST_NAME}")] if root.is_dir() else []
    return did_you_mean(dataset_id, known)


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
            raise DataError(f"{folder / name} is missing: build the dataset again with overwrite")
    return parts


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: build the dataset first") from None
    except OSError as error:
        raise DataError(f"{path} is damaged or not an HDF5 file ({error}): build the dataset again") from None
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        file.close()
        raise DataError(
            f"{path}: format_version {version}, but this release reads {FORMAT_VERSION}: build the dataset again"
        )
    return file


def _columns(file: h5py.File) -> dict[str, Column]:
    found = [(int(node.attrs["position"]), node) for node in file.values() if isinstance(node, h5py.Dataset)]
    columns = {}
    for _, node in sorted(found, key=lambda pair: pair[0]):
        name = node.name.lstrip("/")
        columns[name] = Column(name, str(node.dtype), str(node.attrs["role"]), node.shape[1:])
    return columns


def _in_order(group: h5py.Group | None) -> tuple[str, ...]:
    """Names in a group of histories or events, in the order in which they were written."""
    if group is None:
        return ()
    return tuple(sorted(group, key=lambda name: int(group[name].attrs["position"])))


def _read(file: h5py.File, name: str, start: int, stop: int) -> np.ndarray:
    try:
        return file[name][start:stop]
    except OSError as error:
        raise DataError(
            f"{file.filename}: column {name!r}, rows {start} to {stop} cannot be read ({error}): the file is "
            f"damaged; build the dataset again with overwrite"
        ) from None
