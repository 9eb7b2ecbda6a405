"""Item rows on their way into the item table: placed by id, widths taken from the data, row 0 kept for padding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.disk_columns import DiskColumns
from fuxictr_multimodal.data.store.encoding import StoreFeatureProcessor
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.manifest import folds_name
from fuxictr_multimodal.data.store.reader import TITLES_FILE
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.writing import writing


def order_items(ids: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Place item rows by id, with an all-zero row 0 for padding.

    Args:
        ids: item ids 1 to n in any order, (n,); id 0 may be among them if its row is all zero.
        columns: arrays (n, ...) by name.

    Returns:
        arrays (n + 1, ...) by name, row i being item i.

    Raises:
        DataError: an id occurs twice, is negative or is missing below the highest, or id 0 has content.

    >>> order_items(np.array([2, 1]), {"tags": np.array([[7, 8], [5, 0]])})["tags"].tolist()
    [[0, 0], [5, 0], [7, 8]]
    """
    ids = validation.as_meta(ids, name="ids", where="item rows")
    for name, values in columns.items():
        if len(values) != len(ids):
            raise DataError(f"item rows: column {name!r} has {len(values)} rows, but there are {len(ids)} ids")
    if not len(ids) or ids.min() < 0:
        raise DataError("item rows: there are no items" if not len(ids) else f"item rows: id {ids.min()} is negative")
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        raise DataError(f"item rows: id {ids[first]} occurs twice, in rows {first} and {second}")
    present = ids[order]
    wanted = np.arange(len(ids)) + (1 if present[0] else 0)
    if present[-1] != wanted[-1]:
        missing = int(wanted[np.argmax(present != wanted)])
        raise DataError(
            f"item rows: id {missing} is missing, but ids go up to {present[-1]}: number items without gaps"
        )
    placed = {}
    for name, values in columns.items():
        values = np.asarray(values)
        if present[0] == 0:
            check_padding_row(values[order[:1]], name=name, where="item rows (id 0)")
        rows = np.zeros((int(present[-1]) + 1, *values.shape[1:]), dtype=values.dtype)
        if rows.dtype == object:
            rows[:] = ""
        content = order[1:] if present[0] == 0 else order
        rows[1:] = values[content]
        placed[name] = rows
    return placed


def complete_width(column: dict[str, Any], values: np.ndarray, *, where: str) -> None:
    """Set `pretrain_dim` of an embedding, or `max_len` of an encoded sequence, from the data; refuse another one."""
    key = {"embedding": "pretrain_dim", "sequence": "max_len"}.get(column["type"])
    if key is None or is_fitted(column):
        return
    name, shape = column["name"], np.shape(values)
    if len(shape) != 2 or not shape[1]:
        raise DataError(f"{where}: column {name!r} has shape {shape}, but must be (items, {key})")
    declared = column.setdefault(key, shape[1])
    if declared != shape[1]:
        raise DataError(f"{where}: column {name!r} is {shape[1]} wide, but its {key} is declared as {declared}")


def complete_sizes(
    columns: Mapping[str, np.ndarray],
    specs: Sequence[dict[str, Any]],
    own: dict[str, Any],
    *,
    titles: Sequence[str] | None,
    where: str,
) -> int:
    """Set sizes that the item table knows: `vocab_size` of the item's own id, widths of the others.

    Args:
        columns: arrays by name, of equal length; that of the item's own id may be omitted.
        specs: the columns of `feature_cols` with `source: item`.
        own: that of the item's own id.
        titles: of the items, or None.
        where: the file, for messages.

    Returns:
        rows of the item table.

    Raises:
        DataError: a size is declared otherwise, or a column is missing or unknown.
    """
    others = [column["name"] for column in specs if column is not own]
    rows = validation.check_columns(columns, required=others or [own["name"]], optional=[own["name"]], where=where)
    if rows < 2:
        raise DataError(f"{where}: the item table has {rows} rows; row 0 is padding, so it needs at least 2")
    declared = own.setdefault("vocab_size", rows)
    if declared != rows:
        raise DataError(
            f"{where}: column {own['name']!r} is declared with vocab_size {declared}, but the item table has {rows} "
            f"rows"
        )
    if titles is not None and len(titles) != rows:
        raise DataError(f"{TITLES_FILE}: {len(titles)} titles for an item table of {rows} rows")
    for column in specs:
        if column is not own:
            complete_width(column, columns[column["name"]], where=where)
    return rows


def encoded_items(
    columns: Mapping[str, np.ndarray],
    specs: Sequence[Mapping[str, Any]],
    *,
    columns_on_disk: DiskColumns,
    processor: StoreFeatureProcessor,
    where: str,
) -> dict[str, np.ndarray]:
    """Columns of the item table as on disk, by name; that of the item's own id may be omitted.

    Args:
        columns: arrays of equal length by name; row i is item i.
        specs: the columns of `feature_cols` with `source: item`.
        columns_on_disk: of the dataset.
        processor: encodes raw columns.
        where: the file, for messages.

    Raises:
        DataError: a value is wrong, row 0 is not padding, or an item is not in its own row.
    """
    own, rows = columns_on_disk.item_col, columns_on_disk.items
    data = {}
    for column, on_disk in zip(specs, columns_on_disk.of_items(), strict=True):
        name = column["name"]
        if name == own:
            values = columns.get(name, np.arange(rows))
        elif is_fitted(column):
            check_padding_row(columns[name], name=name, where=where)
            values = processor.transform({name: columns[name]}, where=where)[name]
            values[0] = 0
        else:
            values = columns[name]
        data[name] = columns_on_disk.checked(on_disk, values, where=where, first_row=0)
        check_zero_row(data[name], name=name, where=where)
    assert own is not None
    wrong = np.flatnonzero(data[own] != np.arange(rows))
    if len(wrong):
        raise DataError(
            f"{where}: row {wrong[0]}, column {own!r}: item {data[own][wrong[0]]} is not in its own row; order_items "
            f"places rows by id"
        )
    return data


def folded_items(folds: Mapping[str, np.ndarray], *, columns_on_disk: DiskColumns, where: str) -> dict[str, np.ndarray]:
    """Values of embeddings for each fold of users as on disk, by the name of their column.

    Args:
        folds: (items, K, d) by name of the embedding.
        columns_on_disk: of the dataset.
        where: the file, for messages.

    Raises:
        DataError: a shape or a value is wrong, or row 0 is not padding.
    """
    data = {}
    for column in columns_on_disk.of_folds():
        values = folds[column.name.removesuffix(folds_name(""))]
        data[column.name] = columns_on_disk.checked(column, values, where=where, first_row=0)
        check_zero_row(data[column.name], name=column.name, where=where)
    return data


def write_titles(folder: Path, titles: Sequence[str] | None) -> None:
    """Write what people are shown of each item, where there is something."""
    if titles is None:
        return
    path = folder / TITLES_FILE
    with writing(path):
        path.write_text(json.dumps(list(titles), ensure_ascii=False), encoding="utf-8")


def check_zero_row(values: np.ndarray, *, name: str, where: str) -> None:
    """Row 0 of an encoded item column is padding."""
    if np.any(values[0]):
        raise DataError(f"{where}: row 0, column {name!r}: {values[0]} is not zero, but row 0 is padding")


def check_padding_row(values: np.ndarray, *, name: str, where: str) -> None:
    """Row 0 of a raw item column is padding: empty text, zero or nothing."""
    first = values[0]
    cells = first if isinstance(first, list | tuple | np.ndarray) else [first]
    if any(cell is not None and cell != "" and cell != 0 for cell in np.ravel(np.asarray(cells, dtype=object))):
        raise DataError(f"{where}: row 0, column {name!r}: {first!r} is not empty, but row 0 is padding")
