"""A config folder with the datasets `rich` and `flat`, both built, and experiments of QIN and DIN on them."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.helpers import rich_store

SHARED = {
    "model_root": "./checkpoints/",
    "loss": "binary_crossentropy",
    "metrics": ["AUC"],
    "optimizer": "adam",
    "learning_rate": 1.0e-2,
    "embedding_dim": 4,
    "num_layers": 1,
    "epochs": 1,
    "batch_size": 32,
    "seed": 1,
    "monitor": "AUC",
    "verbose": 0,
}


def write(root: Path) -> Path:
    """Build the datasets in a folder, and return that of the configs."""
    rich_store.build(root)
    rich_store.build_flat(root)
    entries = {
        name: {
            "data_root": f"{root}/",
            "data_format": "h5",
            "group_id": "user_id",
            "feature_cols": columns,
            "label_col": rich_store.LABEL_COL,
        }
        for name, columns in (("rich", rich_store.FEATURE_COLS), ("flat", rich_store.FLAT_COLS))
    }
    entries["rich"] |= {"max_len": rich_store.MAX_LEN}
    din = {"model": "DIN", **{key: value for key, value in SHARED.items() if key != "num_layers"}}
    models = {f"QIN_{name}": {"model": "QIN", "dataset_id": name, **SHARED} for name in entries}
    models |= {f"DIN_{name}": {"dataset_id": name, **din} for name in entries}
    (root / "config").mkdir()
    (root / "config/dataset_config.yaml").write_text(yaml.safe_dump(entries))
    (root / "config/model_config.yaml").write_text(yaml.safe_dump(models))
    return root / "config"
