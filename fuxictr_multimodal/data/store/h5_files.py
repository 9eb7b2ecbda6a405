"""The HDF5 files of a dataset: opened, checked and read.

A file is looked through before anything of it is read: it holds what the writer writes, all of it inside of the file.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.manifest import FORMAT_VERSION, Column
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.untrusted.hdf5 import check_all, text_attribute, whole_attribute
from fuxictr_multimodal.system.untrusted.sizes import check_regular

# Columns are numbers of these types; histories and their events are int32, offsets int64.
DTYPES = frozenset({"uint8", "int32", "int64", "float32", "float64"})
OFFSETS, VALUES, EVENTS = "offsets", "values", "events"


def open_file(path: Path) -> h5py.File:
    """Open a file of a dataset for reading, and check its structure: links, storage, filters, types and shapes.

    Raises:
        DataError: it is missing, damaged, of another format version, or holds what no dataset holds.
    """
    try:
        check_regular(path)
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: build the dataset first") from None
    except OSError as error:
        raise DataError(f"{path} is damaged or not an HDF5 file ({error}): {BUILD_AGAIN}") from None
    try:
        check_all(file)
        _check_version(file, path)
        _check_shapes(file, path)
    except BaseException:
        file.close()
        raise
    return file


def columns_of(file: h5py.File) -> dict[str, Column]:
    """Columns of a file by name, in the order in which they were written; histories are not a column.

    Raises:
        DataError: a column has no position or role.
    """
    found = []
    for node in file.values():
        if isinstance(node, h5py.Dataset):
            where = f"{file.filename}: {node.name}"
            found.append((whole_attribute(node, "position", where), text_attribute(node, "role", where), node))
    columns = {}
    for _, role, node in sorted(found, key=lambda one: one[0]):
        name = node.name.lstrip("/")
        columns[name] = Column(name, str(node.dtype), role, node.shape[1:])
    return columns


def in_order(group: h5py.Group | None) -> tuple[str, ...]:
    """Names in a group of histories or events, in the order in which they were written.

    Raises:
        DataError: one has no position.
    """
    if group is None:
        return ()
    places = {
        name: whole_attribute(node, "position", f"{group.file.filename}: {node.name}") for name, node in group.items()
    }
    return tuple(sorted(places, key=lambda name: places[name]))


def read_rows(file: h5py.File, name: str, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of an HDF5 dataset.

    Raises:
        DataError: they are damaged.
    """
    try:
        return file[name][start:stop]
    except (OSError, KeyError) as error:
        raise DataError(
            f"{file.filename}: column {name!r}, rows {start} to {stop} cannot be read ({error}): the file is "
            f"damaged; {BUILD_AGAIN}"
        ) from None


def _check_version(file: h5py.File, path: Path) -> None:
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version {version}, but this release reads {FORMAT_VERSION}: build the dataset again"
        )


def _check_shapes(file: h5py.File, path: Path) -> None:
    """All columns have the rows of the file; offsets one more; values and events of a history are as many."""
    rows = whole_attribute(file, "rows", str(path))
    for node in file.values():
        if isinstance(node, h5py.Dataset):
            if node.shape[:1] != (rows,) or str(node.dtype) not in DTYPES:
                raise DataError(
                    f"{path}: {node.name} is {node.dtype} of shape {node.shape}, but the file has {rows:,} rows: it is "
                    f"damaged; {BUILD_AGAIN}"
                )
        else:
            for history in [node] if node.name == "/history" else node.values():
                _check_history(history, rows, path)


def _check_history(group: h5py.Group, rows: int, path: Path) -> None:
    values = group.get(VALUES) if isinstance(group, h5py.Group) else None
    offsets = group.get(OFFSETS) if isinstance(group, h5py.Group) else None
    if not (isinstance(values, h5py.Dataset) and isinstance(offsets, h5py.Dataset)):
        raise DataError(f"{path}: {group.name} is no history: {BUILD_AGAIN}")
    events = group.get(EVENTS, {})
    expected = {values: ("int32", values.shape[:1]), offsets: ("int64", (rows + 1,))}
    expected |= dict.fromkeys(events.values(), ("int32", values.shape[:1]))
    for node, (dtype, shape) in expected.items():
        if not isinstance(node, h5py.Dataset) or (str(node.dtype), node.shape) != (dtype, shape):
            raise DataError(
                f"{path}: {node.name} must be {dtype} of shape {shape} for {rows:,} rows: it is damaged; {BUILD_AGAIN}"
            )
