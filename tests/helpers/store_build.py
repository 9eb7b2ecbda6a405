"""A small dataset and its build, for the tests of data/store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.manifest import Manifest

ITEMS = 20
MAX_LEN = 6
LABEL_COL = {"name": "label", "dtype": "float"}
FEATURE_COLS: list[dict[str, Any]] = [
    {"name": ["user_id", "time"], "active": True, "dtype": "int", "type": "meta"},
    {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 5},
    {"name": "words", "active": True, "dtype": "int", "type": "sequence", "vocab_size": 7, "max_len": 3},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric"},
    {"name": "unused", "active": False, "dtype": "int", "type": "categorical"},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "int", "type": "sequence", "vocab_size": 9, "source": "item"},
    {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
]

Rows = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


def item_rows() -> dict[str, np.ndarray]:
    """The item table."""
    rng = np.random.default_rng(7)
    columns = {"tags": rng.integers(0, 9, (ITEMS, 2)), "emb": rng.normal(size=(ITEMS, 3))}
    return {name: values * (np.arange(ITEMS) > 0)[:, None] for name, values in columns.items()}


def split_rows(rows: int, seed: int = 0, *, longest: int = MAX_LEN) -> Rows:
    """Random rows of both classes: columns, history values and history offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, longest + 1, rows))])
    columns = {
        "label": (np.arange(rows) % 3 == 0).astype(float),
        "item_id": rng.integers(1, ITEMS, rows),
        "user_id": rng.integers(0, 100, rows) + 1000 * seed,
        "time": np.arange(rows) + 1000 * seed,
        "level": rng.integers(0, 5, rows),
        "words": rng.integers(0, 7, (rows, 3)),
        "price": rng.normal(size=rows),
    }
    return columns, rng.integers(1, ITEMS, offsets[-1]), offsets


def piece(rows: Rows, start: int, stop: int) -> Rows:
    """Some of the rows, with offsets from 0 again."""
    columns, values, offsets = rows
    cut = offsets[start : stop + 1]
    return {n: v[start:stop] for n, v in columns.items()}, values[cut[0] : cut[-1]], cut - cut[0]


def builder(data_root: Path, **changes: Any) -> StoreBuilder:
    """A builder of dataset `tiny`; `changes` replace its arguments."""
    arguments: dict[str, Any] = {
        "dataset_id": "tiny",
        "data_root": data_root,
        "feature_cols": FEATURE_COLS,
        "label_col": LABEL_COL,
        "max_len": MAX_LEN,
        "recipe": {"rows": 10},
        "progress": False,
    }
    return StoreBuilder(**(arguments | changes))


def build(
    data_root: Path, *, splits: dict[str, Rows] | None = None, finish: dict[str, Any] | None = None, **changes: Any
) -> Manifest:
    """Build dataset `tiny` in one go."""
    if splits is None:
        splits = {"train": split_rows(40, 0), "valid": split_rows(10, 1), "test": split_rows(10, 2)}
    with builder(data_root, **changes) as building:
        building.write_items(item_rows())
        for split, rows in splits.items():
            building.append(split, *rows)
        return building.finish(split_method="by seed", **(finish or {}))
