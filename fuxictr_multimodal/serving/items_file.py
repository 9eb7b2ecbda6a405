"""Arrays of the catalogue as `items.safetensors`: float32, float16, or int8 with a scale a row.

Shape legend: N items, d numbers of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.serving.runtime.storage import SCALE, Rows, quantised
from fuxictr_multimodal.serving.runtime.storage import Stored as StoredRows
from fuxictr_multimodal.system.writing import writing

STORAGES = ("float32", "float16", "int8")
INT32_LARGEST = np.iinfo(np.int32).max
# Rows that are measured at a time, so that their float32 copies are small.
ROWS = 65_536


@dataclass(frozen=True)
class Stored:
    """How an array lies in the file.

    Attributes:
        storage: its type there: one of `STORAGES`, `int32` or `int64`.
        largest_error: largest difference between a number and what is stored of it.
        relative_error: root of the mean square of the differences, over that of the numbers.
    """

    storage: str
    largest_error: float = 0.0
    relative_error: float = 0.0


def write_items(path: Path, arrays: Mapping[str, Tensor], storage: str) -> dict[str, Stored]:
    """Write the arrays of a catalogue, (N, ...) each, and measure what their storage costs.

    Args:
        path: the file.
        arrays: float32 or integers by name.
        storage: of float32 arrays; `int8` is value = number * scale, with the scales (N, 1) float32 as
            `<name>.scale`. Arrays of one number an item stay float32 then.

    Raises:
        DataError: a number is not finite, or too large for float16.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray] = {}
    stored: dict[str, Stored] = {}
    for name, array in arrays.items():
        values = array.detach().cpu().numpy()
        if values.dtype.kind in "iu":
            tensors[name] = _codes(values)
            stored[name] = Stored(str(tensors[name].dtype))
            continue
        if not np.isfinite(values).all():
            raise DataError(f"the item array {name!r} holds a number that is not finite: train the model again")
        found = _encoded(name, values, storage)
        tensors |= found
        stored[name] = _measured(values, found, name)
    # safetensors makes a file that only its owner may read.
    with writing(path):
        path.touch()
        mode = path.stat().st_mode
        save_file(tensors, path, metadata={"format": "1"})
        path.chmod(mode)
    return stored


def _codes(values: NDArray) -> NDArray:
    fits = values.size == 0 or (values.max() <= INT32_LARGEST and values.min() >= -INT32_LARGEST)
    return np.ascontiguousarray(values, dtype=np.int32 if fits else np.int64)


def _encoded(name: str, values: NDArray, storage: str) -> dict[str, NDArray]:
    values = np.ascontiguousarray(values, dtype=np.float32)
    if storage == "float16":
        largest = float(np.abs(values).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise DataError(f"--items float16: the item array {name!r} reaches {largest:g}: choose float32 or int8")
        return {name: values.astype(np.float16)}
    if storage == "int8" and values.ndim > 1:
        numbers, scale = quantised(values)
        return {name: numbers, name + SCALE: scale}
    return {name: values}


def _measured(values: NDArray, found: Mapping[str, NDArray], name: str) -> Stored:
    largest = squares = total = 0.0
    file = StoredRows(Rows.of(found[name]), Rows.of(found[name + SCALE]) if name + SCALE in found else None)
    for start in range(0, len(values), ROWS):
        rows = np.arange(start, min(start + ROWS, len(values)))
        error = file.gather(rows) - values[rows]
        largest = max(largest, float(np.abs(error).max(initial=0.0)))
        squares += float(np.square(error, dtype=np.float64).sum())
        total += float(np.square(values[rows], dtype=np.float64).sum())
    return Stored(str(found[name].dtype), largest, float(np.sqrt(squares / total)) if total else 0.0)
