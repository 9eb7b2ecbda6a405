"""The item table of the challenge data: its files joined by item id, each checked against the others.

Memory: the wanted columns in float32 and int32, and one batch of 65,536 rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.recipes.microlens.files import (
    EMBEDDINGS,
    ITEM_EMB,
    ITEM_FEATURE,
    ITEM_INFO,
    LEVELS,
    TAGS,
    TARGET,
)
from fuxictr_multimodal.data.recipes.parquet_input import Arrays, ParquetInput, Scalars, parquet_rows
from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.errors import DataError

LEVEL_SIZE = 11


def item_table(files: Mapping[str, Path], on_items: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Item columns by name, row i being item i and row 0 all zero, as float32 and int32; `item_id` is always there.

    Args:
        files: paths by file name.
        on_items: specs of the wanted columns by name, as in a dataset's entry.

    Raises:
        DataError: an id is out of range, missing or repeated, a value is out of its vocabulary or not finite, or
            item 0 is not zero; the message names file, row and column.
    """
    num_items = parquet_rows(files[ITEM_INFO])
    if num_items < 2:
        raise DataError(f"{files[ITEM_INFO]} has {num_items} rows: row 0 is padding, so it needs at least 2")
    wanted: dict[str, dict[str, Scalars | Arrays]] = {ITEM_INFO: {}, ITEM_FEATURE: {}, ITEM_EMB: {}}
    embeddings = {e.column: e for e in EMBEDDINGS.values()}
    for name in on_items:
        if name in TAGS:
            wanted[ITEM_INFO][name] = Arrays(int, TAGS[name])
        elif name in LEVELS:
            wanted[ITEM_FEATURE][name] = Scalars(int)
        elif name in embeddings:
            wanted[embeddings[name].file][name] = Arrays(float, embeddings[name].width)
    items = {TARGET: np.arange(num_items)}
    for file, forms in wanted.items():
        if forms or file == ITEM_INFO:
            # Row 0, the padding, is in item_info.parquet only.
            first = 0 if file == ITEM_INFO else 1
            items |= _by_item(files[file], forms, on_items, num_items=num_items, first=first)
    return items


def _by_item(
    path: Path,
    forms: Mapping[str, Scalars | Arrays],
    specs: Mapping[str, Mapping[str, Any]],
    *,
    num_items: int,
    first: int,
) -> dict[str, np.ndarray]:
    """Columns of one item file placed by `item_id`, which must be `first` to `num_items - 1`, each once."""
    table = ParquetInput(path, {TARGET: Scalars(int), **forms})
    places = {
        name: np.zeros(
            (num_items, *((form.width,) if isinstance(form, Arrays) else ())),
            np.float32 if form.kind is float else np.int32,
        )
        for name, form in forms.items()
    }
    row_of = np.full(num_items, -1)
    for start, columns in table.batches():
        at: dict[str, Any] = {"where": str(path), "first_row": start}
        remedy = f"items are {first} to {num_items - 1}, as in {ITEM_INFO}"
        ids = validation.as_ids(columns[TARGET], name=TARGET, shape=(), low=first, high=num_items, remedy=remedy, **at)
        _refuse_twice(path, TARGET, ids, row_of, start)
        for name, form in forms.items():
            shape = (form.width,) if isinstance(form, Arrays) else ()
            if form.kind is float:
                values = validation.as_floats(columns[name], name=name, shape=shape, **at)
            else:
                size = specs[name].get("vocab_size", LEVEL_SIZE)
                values = validation.as_ids(
                    columns[name],
                    name=name,
                    shape=shape,
                    low=0,
                    high=size,
                    remedy=f"its vocab_size is {size}",
                    **at,
                )
            places[name][ids] = values
    missing = np.flatnonzero(row_of[first:] < 0)
    if len(missing):
        raise DataError(f"{path}: column {TARGET!r}: item {missing[0] + first} is missing")
    for name, values in places.items():
        wrong = np.flatnonzero(values[0])
        if len(wrong):
            slot = f" at ({wrong[0]},)" if values.ndim > 1 else ""
            raise DataError(
                f"{path}: row {row_of[0]}, column {name!r}{slot}: item 0 is padding, but its value is "
                f"{np.ravel(values[0])[wrong[0]]}, not zero"
            )
    return places


def _refuse_twice(path: Path, name: str, ids: np.ndarray, row_of: np.ndarray, start: int) -> None:
    """Note the row of each id in `row_of` (highest id + 1,); refuse an id that has one."""
    order = np.argsort(ids, kind="stable")
    again = np.zeros(len(ids), dtype=bool)
    again[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    again |= row_of[ids] >= 0
    if again.any():
        row = int(np.argmax(again))
        value = ids[row]
        before = row_of[value] if row_of[value] >= 0 else start + int(np.argmax(ids == value))
        raise DataError(f"{path}: row {start + row}, column {name!r}: {value} is already in row {before}")
    row_of[ids] = np.arange(start, start + len(ids))
