"""Samples that are ready, with items and users, as a user has them in files, and their entry."""

import numpy as np
import polars as pl

COLUMNS = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    {"name": "hour", "active": True, "dtype": "int", "type": "categorical"},
    {"name": "price_paid", "active": True, "dtype": "float", "type": "numeric"},
    {"name": "unused", "active": False, "dtype": "str", "type": "categorical"},
    {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "source": "item", "splitter": "|"},
    {"name": "vector", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
]
MAX_LEN = 4


def make_rows(seed, rows, items=30, users=12, *, unknown=True):
    rng = np.random.default_rng(seed)
    ids = [f"item {n}" for n in range(items + (3 if unknown else 0))]
    return pl.DataFrame(
        {
            "label": rng.integers(0, 2, rows).astype(float),
            "user_id": [None if n == 0 else f"user {n}" for n in rng.integers(0, users, rows)],
            "hour": rng.integers(0, 24, rows),
            "price_paid": [None if x < 0.1 else x for x in rng.random(rows).tolist()],
            "item_id": [ids[n] for n in rng.integers(0, len(ids), rows)],
            "clicks": [
                None if n == 0 else [None if x == 0 else ids[x] for x in rng.integers(0, len(ids), n - 1)]
                for n in rng.integers(0, 9, rows)
            ],
        }
    )


def make_items(items=30):
    rng = np.random.default_rng(9)
    return pl.DataFrame(
        {
            "item_id": [f"item {n}" for n in rng.permutation(items)],
            "brand": [None if n == 0 else f"brand {n}" for n in rng.integers(0, 5, items)],
            "tags": [[f"tag {x}" for x in rng.integers(0, 6, n)] for n in rng.integers(0, 4, items)],
            "vector": [None if n == 3 else rng.random(5).round(3).tolist() for n in range(items)],
        }
    )


def make_users(users=12):
    return pl.DataFrame(
        {"user_id": [f"user {n}" for n in range(2, users)], "city": [f"city {n % 3}" for n in range(2, users)]}
    )


def entry_of(folder, **changes):
    entry = {
        "dataset_id": "Shop",
        "data_root": str(folder / "data"),
        "data_format": "parquet",
        **{f"{split}_data": str(folder / f"{split}.parquet") for split in ("train", "valid", "test")},
        "item_data": str(folder / "items.parquet"),
        "user_data": str(folder / "users.parquet"),
        "history_col": "clicks",
        "max_len": MAX_LEN,
        "group_id": "user_id",
        "feature_cols": COLUMNS,
        "label_col": {"name": "label", "dtype": "float"},
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}
