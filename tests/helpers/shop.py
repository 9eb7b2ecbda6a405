"""A made-up shop as its owner has it: a log of events, items with texts, lists and vectors, users in a csv file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

ITEMS, USERS, KINDS = 120, 60, 6
WIDTH = 24


def items() -> pl.DataFrame:
    """One row an item; the vector, the categories and the title say what kind it is."""
    rng = np.random.default_rng(1)
    kind = np.arange(ITEMS) % KINDS
    vectors = (np.eye(WIDTH)[kind] + 0.1 * rng.standard_normal((ITEMS, WIDTH))).astype(np.float32)
    return pl.DataFrame(
        {
            "item_id": [f"sku-{i:04d}" for i in range(ITEMS)],
            "categories": [[f"kind{k}", f"half{k % 2}"] for k in kind],
            "brand": [f"brand{b}" for b in rng.integers(0, 9, ITEMS)],
            "price": np.round(np.exp(rng.normal(3, 1.5, ITEMS)), 2),
            "vector": vectors.tolist(),
            "title": [f"A very {word} thing number {i}" for i, word in enumerate(rng.choice(["red", "old"], ITEMS))],
            "warehouse": ["main"] * ITEMS,
        }
    )


def users() -> pl.DataFrame:
    """One row a user."""
    rng = np.random.default_rng(2)
    return pl.DataFrame(
        {
            "user_id": [f"u{u:03d}" for u in range(USERS)],
            "age": rng.integers(18, 80, USERS),
            "country": rng.choice(["de", "fr", "us"], USERS),
            "joined": [f"2022-01-{day:02d}" for day in rng.integers(1, 28, USERS)],
        }
    )


def log(events: int, *, kinds: bool = False) -> pl.DataFrame:
    """Events in order of time: a user clicks what is of the kind that the user likes.

    Args:
        events: their number.
        kinds: with a column of the kind of event, in place of the label.
    """
    rng = np.random.default_rng(3)
    user = rng.integers(0, USERS, events)
    liked = (user % KINDS) + KINDS * rng.integers(0, ITEMS // KINDS, events)
    item = np.where(rng.random(events) < 0.5, liked, rng.integers(0, ITEMS, events))
    click = rng.random(events) < np.where(item % KINDS == user % KINDS, 0.9, 0.1)
    columns = {
        "user_id": [f"u{u:03d}" for u in user],
        "item_id": [f"sku-{i:04d}" for i in item],
        "timestamp": np.sort(1_700_000_000 + rng.integers(0, 60 * 86_400, events)),
        "click": click.astype(np.int8),
        "device": rng.choice(["phone", "desktop"], events),
        "dwell_time": np.round(rng.exponential(20, events), 1),
    }
    frame = pl.DataFrame(columns)
    if kinds:
        action = np.where(rng.random(events) < 0.3, "cart", "view")
        frame = frame.with_columns(action=pl.Series(np.where(click, "buy", action))).drop("click")
    return frame


def samples(events: int) -> pl.DataFrame:
    """Samples that are ready: the log's, each with lists of earlier clicks and of their times."""
    raw, past, rows = log(events), {}, {"click_history": [], "click_times": []}
    for user, item, time, click in raw.select("user_id", "item_id", "timestamp", "click").iter_rows():
        known = past.setdefault(user, [])
        rows["click_history"].append([i for i, _ in known])
        rows["click_times"].append([t for _, t in known])
        if click:
            known.append((item, time))
    lists = [pl.Series(name, values, dtype=pl.List(pl.String if "history" in name else pl.Int64))
             for name, values in rows.items()]  # fmt: skip
    return raw.drop("dwell_time").with_columns(lists)


def write(folder: Path, *, events: int = 2400) -> Path:
    """The shop's files: `log.parquet`, `items.parquet`, `users.csv`, and `train`, `valid` and `test` samples."""
    folder.mkdir(parents=True, exist_ok=True)
    log(events).write_parquet(folder / "log.parquet")
    items().write_parquet(folder / "items.parquet")
    users().write_csv(folder / "users.csv")
    ready, cuts = samples(events), [0, int(0.8 * events), int(0.9 * events), events]
    for split, start, stop in zip(("train", "valid", "test"), cuts, cuts[1:], strict=False):
        ready[start:stop].write_parquet(folder / f"{split}.parquet")
    return folder
