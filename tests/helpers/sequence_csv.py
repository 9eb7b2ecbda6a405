"""Samples with sequences as FuxiCTR's users keep them, in csv, with a rule that only the history tells.

    python -m tests.helpers.sequence_csv FOLDER

writes `train.csv`, `valid.csv` and `test.csv`, and `dataset_config.yaml` and `model_config.yaml`, which FuxiCTR's
runner and this project's read alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml

ROWS = {"train": 20_000, "valid": 5_000, "test": 5_000}
ITEMS, BRANDS, USERS, SLOTS = 60, 6, 200, 8


def frame_of(rows: int, *, seed: int) -> pl.DataFrame:
    """Clicked with 0.9 where the target's brand is in the history, else with 0.1; some items are better."""
    rng = np.random.default_rng(seed)
    brand_of = np.random.default_rng(0).integers(0, BRANDS, ITEMS)
    target = rng.integers(0, ITEMS, rows)
    histories = [rng.integers(0, ITEMS, length) for length in rng.integers(0, SLOTS + 1, rows)]
    seen = np.array([brand_of[item] in brand_of[history] for item, history in zip(target, histories, strict=True)])
    chance = np.where(seen, 0.9, 0.1) + 0.05 * np.sin(target)
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, USERS, rows)],
            "hour": rng.integers(0, 24, rows),
            "item_id": [f"i{item}" for item in target],
            "brand": [f"b{brand_of[item]}" for item in target],
            "clicks": ["^".join(f"i{item}" for item in history) for history in histories],
            "clicked_brands": ["^".join(f"b{brand_of[item]}" for item in history) for history in histories],
            "label": (rng.random(rows) < chance).astype(int),
        }
    )


def dataset_entry(folder: Path, dataset_id: str, data_root: Path) -> dict:
    """FuxiCTR's entry of the data set."""

    def column(name: str, **more: object) -> dict:
        return {"name": name, "active": True, "dtype": "str", "type": "categorical", **more}

    def sequence(name: str, shared: str) -> dict:
        more = {"splitter": "^", "max_len": SLOTS, "padding": "pre", "share_embedding": shared, "feature_encoder": None}
        return column(name, type="sequence", **more)

    columns = [column(name) for name in ("user_id", "hour", "item_id", "brand")]
    columns += [sequence("clicks", "item_id"), sequence("clicked_brands", "brand")]
    files = {f"{split}_data": str(folder / f"{split}.csv") for split in ROWS}
    return {
        dataset_id: {
            "data_root": f"{data_root}/",
            "data_format": "csv",
            **files,
            "min_categr_count": 1,
            "feature_cols": columns,
            "label_col": {"name": "label", "dtype": "float"},
        }
    }


def experiments(dataset_id: str, seeds: tuple[int, ...] = (1, 2, 3), **more: object) -> dict:
    """One experiment of QIN a seed."""
    shared = {
        "model": "QIN",
        "dataset_id": dataset_id,
        "model_root": "./checkpoints/",
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "task": "binary_classification",
        "optimizer": "adam",
        "learning_rate": 5.0e-3,
        "embedding_dim": 16,
        "embedding_regularizer": 1.0e-5,
        "net_regularizer": 0,
        "num_layers": 2,
        "num_row": 2,
        "batch_size": 256,
        "epochs": 10,
        "early_stop_patience": 4,
        "shuffle": True,
        "monitor": "AUC",
        "monitor_mode": "max",
        "verbose": 0,
        "save_best_only": True,
        "num_workers": 1,
        "group_id": None,
        **more,
    }
    return {f"QIN_s{seed}": {**shared, "seed": seed} for seed in seeds}


def write(folder: Path, *, dataset_id: str = "clicks_csv", data_root: Path | None = None) -> None:
    """Data and configs in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, rows) in enumerate(ROWS.items(), start=1):
        frame_of(rows, seed=seed).write_csv(folder / f"{split}.csv")
    entry = dataset_entry(folder, dataset_id, data_root or folder / "data")
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump(entry), encoding="utf-8")
    (folder / "model_config.yaml").write_text(yaml.safe_dump(experiments(dataset_id)), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]).absolute())
