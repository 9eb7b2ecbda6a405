"""A dataset of every kind of column: two behaviours, event features, weights, text ids; and a flat one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.ids import IdMap

ITEMS = 30
MAX_LEN = 5
BEHAVIOURS = ("carts", "buys")
LABEL_COL = {"name": "label", "dtype": "float"}
FEATURE_COLS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "row_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "age", "active": True, "dtype": "int", "type": "categorical", "source": "event", "vocab_size": 17},
    {"name": "page", "active": True, "dtype": "str", "type": "categorical", "source": "event"},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "int", "type": "sequence", "vocab_size": 9, "source": "item"},
]
FLAT_COLS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "row_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    {"name": "item", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "items", "active": True, "dtype": "str", "type": "sequence", "splitter": "^", "share_embedding": "item"},
]
PAGES = np.array(["home", "search", "cart"])
CITIES = np.array(["Rome", "Oslo", "Bonn"])


@dataclass
class Split:
    """Raw rows of one split, as the caller of a builder has them."""

    columns: dict[str, Any]
    history: JaggedArrays
    behaviours: dict[str, JaggedArrays]


def jagged_rows(rng: np.random.Generator, rows: int) -> JaggedArrays:
    """Random histories with an encoded and a raw event column."""
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, MAX_LEN + 1, rows))])
    count = int(offsets[-1])
    events = {"age": rng.integers(0, 17, count), "page": PAGES[rng.integers(0, len(PAGES), count)]}
    return JaggedArrays(rng.integers(1, ITEMS, count), offsets, events)


def split_rows(rows: int, seed: int) -> Split:
    """Random rows of both classes."""
    rng = np.random.default_rng(seed)
    columns = {
        "label": (np.arange(rows) % 3 == 0).astype(float),
        "weight": rng.random(rows) + 0.25,
        "item_id": rng.integers(1, ITEMS, rows),
        "user_id": np.array([f"user {n}" for n in rng.integers(0, 40, rows)], dtype=object),
        "row_id": np.arange(rows) + 1000 * seed,
        "city": CITIES[rng.integers(0, 3, rows)],
        "age": rng.integers(0, 17, rows),
        "page": PAGES[rng.integers(0, len(PAGES), rows)],
    }
    history = jagged_rows(rng, rows)
    return Split(columns, history, {name: jagged_rows(rng, rows) for name in BEHAVIOURS})


def builder(data_root: Path, **changes: Any) -> StoreBuilder:
    """A builder of dataset `rich`; `changes` replace its arguments."""
    arguments: dict[str, Any] = {
        "dataset_id": "rich",
        "data_root": data_root,
        "feature_cols": FEATURE_COLS,
        "label_col": LABEL_COL,
        "max_len": MAX_LEN,
        "weight_col": "weight",
        "behaviours": BEHAVIOURS,
        "recipe": {},
        "progress": False,
    }
    return StoreBuilder(**(arguments | changes))


def item_ids() -> IdMap:
    """Ids of the items, as a shop has them."""
    return IdMap.of(pl.Series([f"sku-{n}" for n in range(1, ITEMS)]), padding=True)


def append(building: StoreBuilder, split: str, rows: Split) -> None:
    """Append all rows of a split in one call."""
    values, offsets, events = rows.history
    building.append(split, rows.columns, values, offsets, events=events, behaviours=rows.behaviours)


def build(data_root: Path, sizes: dict[str, int] | None = None, **changes: Any) -> dict[str, Split]:
    """Build dataset `rich` and return its raw rows."""
    sizes = sizes or {"train": 90, "valid": 20, "test": 20}
    splits = {split: split_rows(rows, seed) for seed, (split, rows) in enumerate(sizes.items())}
    train = splits["train"].columns
    tags = np.random.default_rng(3).integers(0, 9, (ITEMS, 2)) * (np.arange(ITEMS) > 0)[:, None]
    with builder(data_root, **changes) as building:
        building.fit(pl.DataFrame({name: train[name] for name in ("city", "page")}))
        building.write_ids({"item_id": item_ids()})
        building.write_items({"tags": tags})
        for split, rows in splits.items():
            append(building, split, rows)
        building.finish(split_method="by seed")
    return splits


def flat_rows(rows: int, seed: int) -> dict[str, Any]:
    """Random rows in FuxiCTR's plain form."""
    rng = np.random.default_rng(seed)
    columns = split_rows(rows, seed).columns
    names = np.array([f"sku-{n}" for n in range(ITEMS)], dtype=object)
    histories = ["^".join(names[rng.integers(0, ITEMS, count)]) for count in rng.integers(1, 4, rows)]
    kept = {name: columns[name] for name in ("label", "user_id", "row_id", "city")}
    return kept | {"item": names[rng.integers(0, ITEMS, rows)], "items": np.array(histories, dtype=object)}


def build_flat(data_root: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """Build dataset `flat`, without items and histories, and return its raw rows."""
    splits = {split: flat_rows(rows, seed) for seed, (split, rows) in enumerate({"train": 90, "valid": 20}.items())}
    flat = {"dataset_id": "flat", "feature_cols": FLAT_COLS, "item_col": None, "max_len": None}
    with builder(data_root, **(flat | {"weight_col": None, "behaviours": ()} | changes)) as building:
        building.fit(pl.DataFrame({name: splits["train"][name] for name in ("city", "item", "items")}))
        for split, columns in splits.items():
            building.append(split, columns)
        building.finish(split_method="by seed")
    return splits


def cut(raw, start, stop):
    def some(history):
        offsets = history.offsets[start : stop + 1]
        a, b = offsets[0], offsets[-1]
        return JaggedArrays(history.values[a:b], offsets - a, {n: e[a:b] for n, e in history.events.items()})

    columns = {name: values[start:stop] for name, values in raw.columns.items()}
    return Split(columns, some(raw.history), {n: some(h) for n, h in raw.behaviours.items()})


def build_splits(root, splits, *, ids=None, finish=None):
    """Build dataset `rich` of these splits, with an item table of zeros."""
    with builder(root) as building:
        building.fit(pl.DataFrame({"city": CITIES, "page": PAGES}))
        building.write_ids(ids or {})
        building.write_items({"tags": np.zeros((ITEMS, 2), dtype=int)})
        for split, rows in splits.items():
            append(building, split, rows)
        return building.finish(split_method="none", **(finish or {}))
