"""The made-up shop and a model that trained one epoch on it: text ids, lists, vectors, users, times of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import shop

MAX_LEN = 8
COLUMNS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "device", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "country", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    # The age of the user; `age` itself is that of events.
    {"name": "years", "active": True, "dtype": "int", "type": "numeric", "source": "user",
     "preprocess": "copy_from(age)", "normalizer": "StandardScaler"},
    {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "categories", "active": True, "dtype": "str", "type": "sequence", "source": "item", "max_len": 3},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "price", "active": True, "dtype": "float", "type": "categorical", "source": "item",
     "category_processor": "quantile_bucket", "num_buckets": 5},
    {"name": "vector", "active": True, "dtype": "float", "type": "embedding", "source": "item",
     "feature_encoder": f"nn.Linear({shop.WIDTH}, 4, bias=False)"},
]  # fmt: skip
# A request of the raw values that the shop's model reads.
REQUEST: dict[str, Any] = {
    "context": {"user_id": "u001", "device": "phone", "country": "de", "age": 31},
    "history": ["sku-0003", "sku-0009"],
    "candidates": ["sku-0015", "sku-0004", "sku-0027"],
    "events": {"history": {"time": [1_704_000_000, 1_704_400_000]}},
    "time": 1_704_500_000,
}


@dataclass(frozen=True)
class TrainedShop:
    """Where the shop's files, configs and checkpoints are.

    Attributes:
        config: folder of the configs.
        expid: the experiment that was trained.
        raw: folder of the raw files: `log.parquet`, `items.parquet`, `users.csv`.
    """

    config: Path
    expid: str
    raw: Path


def train(
    folder: Path,
    *,
    model: str = "QIN",
    interactions: Mapping[str, Any] | None = None,
    more_columns: Sequence[Mapping[str, Any]] = (),
    **settings: Any,
) -> TrainedShop:
    """Write the shop's files and configs, build the dataset and train one epoch, in a second or two.

    Args:
        folder: an empty one.
        model: `QIN` or one of FuxiCTR's.
        interactions: more of the log's settings.
        more_columns: of the entry.
        settings: of the experiment.
    """
    raw, expid = shop.write(folder / "raw", events=1200), f"{model}_shop"
    encoder = f"nn.Linear({shop.WIDTH}, {settings.get('embedding_dim', 4)}, bias=False)"
    entry = {
        "data_root": str(folder / "data"),
        "data_format": "parquet",
        "interactions": {
            "file": str(raw / "log.parquet"), "user": "user_id", "item": "item_id", "time": "timestamp",
            "label": "click", **(interactions or {}),
        },
        "item_data": str(raw / "items.parquet"),
        "user_data": str(raw / "users.csv"),
        "max_len": MAX_LEN,
        "group_id": "user_id",
        "event_cols": [{"name": "age", "bins": 4}, {"name": "hour"}],
        "feature_cols": [
            column | ({"feature_encoder": encoder} if "feature_encoder" in column else {}) for column in COLUMNS
        ] + [dict(column) for column in more_columns],
        "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    experiment = {
        "model": model, "dataset_id": "Shop", "model_root": str(folder / "checkpoints"), "seed": 1, "epochs": 1,
        "metrics": ["AUC", "logloss"], "monitor": "AUC", "batch_size": 64, "embedding_dim": 4, "verbose": 0,
        "learning_rate": 0.01, "optimizer": "adam", "loss": "binary_crossentropy", "task": "binary_classification",
    }  # fmt: skip
    if model == "QIN":
        experiment |= {"num_layers": 2, "event_features": "all"}
    config = folder / "config"
    config.mkdir()
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"Shop": entry}))
    (config / "model_config.yaml").write_text(yaml.safe_dump({expid: experiment | settings}))
    run_experiment(config_dir=config, expid=expid)
    return TrainedShop(config, expid, raw)
