"""A small log with its items and users, its entry, and the samples of the dataset that is built of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.log.dataset import build_log
from fuxictr_multimodal.data.store import Store, read_item_table

COLUMNS = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "ts", "active": True, "dtype": "int", "type": "meta"},
    {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "device", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    {"name": "hours", "active": True, "dtype": "float", "type": "numeric"},
]


def make_raw() -> dict[str, pl.DataFrame]:
    """A log in random order, its items and its users."""
    rng = np.random.default_rng(3)
    n, users, items = 600, 20, 80
    return {
        "log": pl.DataFrame(
            {
                "user": [f"user {u}" for u in rng.integers(0, users, n)],
                "item": [f"item-{i}" for i in rng.integers(0, items, n)],
                "ts": rng.integers(1_700_000_000, 1_700_400_000, n) // 3600 * 3600,
                "rating": rng.integers(1, 6, n),
                "device": rng.choice(["ios", "android", "web"], n),
                "hours": rng.normal(size=n).round(3),
                "weight": rng.random(n).round(2),
            }
        ),
        "items": pl.DataFrame(
            {"item_id": [f"item-{i}" for i in range(items)], "brand": [f"b{i % 7}" for i in range(items)]}
        ),
        "users": pl.DataFrame(
            {"user": [f"user {u}" for u in range(users)], "city": [f"c{u % 3}" for u in range(users)]}
        ),
    }


def written(folder: Path, raw: dict[str, pl.DataFrame], kind: str = "parquet") -> dict[str, str]:
    paths = {}
    for name, frame in raw.items():
        path = folder / f"{name}.{kind}"
        frame.write_parquet(path) if kind == "parquet" else frame.write_csv(path)
        paths[name] = str(path)
    return paths


def entry_of(paths: dict[str, str], *, kind: str = "parquet", **changes: Any) -> dict[str, Any]:
    entry = {
        "dataset_id": "Shop",
        "data_root": "unused",
        "data_format": kind,
        "interactions": {
            "file": paths["log"], "user": "user", "item": "item", "time": "ts", "label": "rating", "positive": ">= 3",
        },
        "item_data": paths["items"],
        "user_data": paths["users"],
        "max_len": 5,
        "group_id": "user_id",
        "feature_cols": [
            {**c, "preprocess": "copy_from(user)"} if c["name"] == "user_id" else dict(c) for c in COLUMNS
        ],
        "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    for key, value in changes.items():
        if key == "interactions":
            value = {name: given for name, given in {**entry[key], **value}.items() if given is not None}
        entry[key] = value
    return {key: value for key, value in entry.items() if value is not None}


def build(entry: dict[str, Any], folder: Path) -> Store:
    build_log(Entry.of(entry), data_root=folder, recipe={}, overwrite=False, progress=False)
    return Store.open(folder, "Shop")


def texts_of(store: Store, column: str, codes: np.ndarray) -> list[str | None]:
    """Categories of codes, by the vocabulary that the dataset keeps; None for one that train does not have."""
    vocabulary = json.loads((store.dir / "feature_vocab.json").read_text())[column]
    texts = {code: text for text, code in vocabulary.items() if text not in ("__PAD__", "__OOV__")}
    return [texts.get(code) for code in codes.tolist()]


def samples_of(store: Store) -> pl.DataFrame:
    """All samples with the user's own ids and categories."""
    frames = []
    items, users = store.ids("item_id"), store.ids("user_id")
    brands = texts_of(store, "brand", read_item_table(store.dir / "item.h5")["brand"])
    events = [column.name for column in store.manifest.event_columns]
    for split in store.manifest.splits:
        with store.reader(split) as reader:
            columns = {c.name: reader.read(c.name, 0, reader.rows) for c in store.manifest.columns}
            taken = reader.read_jagged(0, reader.rows, events=events)
        spans = [slice(a, b) for a, b in pairwise(taken.offsets)]
        own = items.originals(taken.values).to_list()
        columns |= {
            "split": [split] * len(spans),
            "brand": [brands[item] for item in columns["item_id"]],
            "user_id": users.originals(columns["user_id"]),
            "item_id": items.originals(columns["item_id"]),
            **{name: texts_of(store, name, columns[name]) for name in ("device", "city")},
            "history": [own[span] for span in spans],
            **{f"history.{name}": [taken.events[name][span].tolist() for span in spans] for name in events},
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


def histories_in_polars(log: pl.DataFrame, max_len: int) -> pl.DataFrame:
    """Each row's history by a join of the log with itself."""
    rows = log.with_row_index("row")
    earlier = rows.filter(pl.col("rating") >= 3).select("user", past="ts", past_row="row", shown="item")
    both = rows.join(earlier, on="user").filter(pl.col("past") < pl.col("ts")).sort("past", "past_row")
    lists = both.group_by("row").agg(history=pl.col("shown").tail(max_len))
    return rows.join(lists, on="row", how="left").with_columns(pl.col("history").fill_null([])).sort("row")
