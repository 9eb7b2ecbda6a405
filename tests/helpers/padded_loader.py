"""Reference implementation of the loader: it reads the HDF5 files whole and pads every history."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np


def padded_batches(
    files: Sequence[Path], columns: Sequence[str], *, order: np.ndarray | None, batch_size: int, max_len: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns (B, ...) and the padded `history` (B, max_len) of the rows in `order`, or as stored."""
    table: dict[str, list] = {name: [] for name in [*columns, "history"]}
    for path in files:
        with h5py.File(path) as file:
            for name in columns:
                table[name].extend(file[name][:])
            values, offsets = file["history/values"][:], file["history/offsets"][:]
        for start, stop in itertools.pairwise(offsets):
            newest = values[start:stop][-max_len:]
            padded = np.zeros(max_len, np.int32)
            padded[max_len - len(newest) :] = newest
            table["history"].append(padded)
    arrays = {name: np.array(rows) for name, rows in table.items()}
    if order is None:
        order = np.arange(len(arrays["history"]))
    for start in range(0, len(order), batch_size):
        yield {name: values[order[start : start + batch_size]] for name, values in arrays.items()}
