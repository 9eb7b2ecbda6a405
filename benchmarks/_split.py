"""A split of random rows in the shape of MicroLens_1M_MMCTR on disk, and a shuffled loader of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fuxictr_multimodal.data.jagged import offsets_from_lengths

if TYPE_CHECKING:
    from fuxictr_multimodal.data.loader import MultimodalDataLoader

ITEMS, LEVELS, MAX_LEN, MEAN_LENGTH = 91_718, 11, 64, 9.6
PIECE = 1 << 16


def write_split(path: Path, rows: int, items: int = ITEMS, mean_length: float = MEAN_LENGTH) -> float:
    """Write `<path>.h5` of random rows; return the mean length of the histories.

    Lengths are geometric and cut to 64.
    """
    from fuxictr_multimodal.data.store.h5_writer import SplitWriter
    from fuxictr_multimodal.data.store.manifest import Column

    rng = np.random.default_rng(1)
    columns = [
        Column("label", "uint8", "label"),
        Column("user_id", "int64", "meta"),
        Column("item_id", "int32", "target"),
        Column("likes_level", "int32", "context"),
        Column("views_level", "int32", "context"),
    ]
    writer = SplitWriter(folder=path, columns=columns, rows_per_part=rows)
    written = 0
    for start in range(0, rows, PIECE):
        count = min(PIECE, rows - start)
        lengths = np.minimum(rng.geometric(1 / mean_length, count), MAX_LEN)
        offsets = offsets_from_lengths(lengths)
        written += int(offsets[-1])
        data: dict[str, np.ndarray] = {
            "label": rng.integers(0, 2, count, dtype=np.uint8),
            "user_id": rng.integers(0, 1_000_000, count),
            "item_id": rng.integers(1, items, count, dtype=np.int32),
            "likes_level": rng.integers(0, LEVELS, count, dtype=np.int32),
            "views_level": rng.integers(0, LEVELS, count, dtype=np.int32),
        }
        writer.append(data, rng.integers(1, items, offsets[-1], dtype=np.int32), offsets)
    writer.close()
    return written / rows


def make_loader(
    path: Path, *, batch_size: int, shuffle_window: int = 32, mode: str = "auto", device: str = "cpu"
) -> MultimodalDataLoader:
    """A shuffled loader of the split."""
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.loader import MultimodalDataLoader

    feature_map = FeatureMap("benchmark", "")
    feature_map.labels, feature_map.group_id = ["label"], "user_id"
    feature_map.features = {
        "user_id": {"source": "", "type": "meta"},
        "likes_level": {"source": "", "type": "categorical"},
        "views_level": {"source": "", "type": "categorical"},
    }
    return MultimodalDataLoader(
        feature_map,
        path,
        batch_size=batch_size,
        shuffle=True,
        shuffle_window=shuffle_window,
        mode=mode,
        device=device,
        seed=1,
    )
