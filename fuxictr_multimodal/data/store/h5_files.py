"""The HDF5 files of a dataset: opened, checked and read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from fuxictr_multimodal.data.store.manifest import FORMAT_VERSION, Column
from fuxictr_multimodal.errors import DataError


def open_file(path: Path) -> h5py.File:
    """Open a file of a dataset for reading.

    Raises:
        DataError: it is missing, damaged, or of another format version.
    """
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


def columns_of(file: h5py.File) -> dict[str, Column]:
    """Columns of a file by name, in the order in which they were written; histories are not a column."""
    found = [(int(node.attrs["position"]), node) for node in file.values() if isinstance(node, h5py.Dataset)]
    columns = {}
    for _, node in sorted(found, key=lambda pair: pair[0]):
        name = node.name.lstrip("/")
        columns[name] = Column(name, str(node.dtype), str(node.attrs["role"]), node.shape[1:])
    return columns


def in_order(group: h5py.Group | None) -> tuple[str, ...]:
    """Names in a group of histories or events, in the order in which they were written."""
    if group is None:
        return ()
    return tuple(sorted(group, key=lambda name: int(group[name].attrs["position"])))


def read_rows(file: h5py.File, name: str, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of an HDF5 dataset.

    Raises:
        DataError: they are damaged.
    """
    try:
        return file[name][start:stop]
    except OSError as error:
        raise DataError(
            f"{file.filename}: column {name!r}, rows {start} to {stop} cannot be read ({error}): the file is "
            f"damaged; build the dataset again with overwrite"
        ) from None
