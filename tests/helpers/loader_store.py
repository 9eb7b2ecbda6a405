"""A small split and its feature map, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.store.h5_writer import SplitWriter
from fuxictr_multimodal.data.store.manifest import Column

ITEMS = 50
COLUMNS = [
    Column("label", "uint8", "label"),
    Column("user_id", "int64", "meta"),
    Column("row_id", "int64", "meta"),
    Column("item_id", "int32", "target"),
    Column("level", "int32", "context"),
    Column("price", "float32", "context"),
    Column("words", "int32", "context", (3,)),
]
NAMES = [column.name for column in COLUMNS]


def write_split(
    root: Path, split: str = "train", *, rows: int, rows_per_part: int = 32, longest: int = 6, without: str = ""
) -> Path:
    """Write a random split, in parts and so in blocks of `rows_per_part` rows; about every fourth history is empty."""
    rng = np.random.default_rng(rows)
    data = {
        "label": rng.integers(0, 2, rows, dtype=np.uint8),
        "user_id": rng.integers(0, 9, rows) + 2**33,
        "row_id": np.arange(rows),
        "item_id": rng.integers(1, ITEMS, rows, dtype=np.int32),
        "level": rng.integers(0, 11, rows, dtype=np.int32),
        "price": rng.normal(size=rows).astype(np.float32),
        "words": rng.integers(0, 7, (rows, 3), dtype=np.int32),
    }
    lengths = rng.integers(0, longest + 1, rows) * (rng.random(rows) > 0.25)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = [column for column in COLUMNS if column.name != without]
    writer = SplitWriter(folder=root / split, columns=columns, rows_per_part=rows_per_part)
    writer.append(data, rng.integers(1, ITEMS, offsets[-1], dtype=np.int32), offsets)
    writer.close()
    return root / split


def part_files(split: Path) -> list[Path]:
    """The files of a split, in order."""
    return sorted(split.glob("*.h5")) if split.is_dir() else [split.with_suffix(".h5")]


def feature_map(**changes: dict) -> FeatureMap:
    """The feature map of `write_split` and of an item table; `changes` replace the spec of a feature."""
    made = FeatureMap("tiny", "")
    made.labels = ["label"]
    made.group_id = "user_id"
    made.default_emb_dim = 4
    made.features = {
        "user_id": {"source": "", "type": "meta"},
        "row_id": {"source": "", "type": "meta"},
        "level": {"source": "context", "type": "categorical", "vocab_size": 11},
        "price": {"source": "context", "type": "numeric"},
        "words": {"source": "context", "type": "sequence", "vocab_size": 7, "max_len": 3},
        "item_id": {"source": "item", "type": "categorical", "vocab_size": ITEMS},
        "item_tags": {"source": "item", "type": "sequence", "vocab_size": 9, "max_len": 2},
        "item_emb": {"source": "item", "type": "embedding", "pretrain_dim": 3},
    } | changes
    return made
