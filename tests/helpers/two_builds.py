"""A shop's dataset on two days: the second has other items, users and cities, so that most codes have moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.ids import IdMap

FEATURE_COLS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "user", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "hour", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 25},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "source": "item", "splitter": "|"},
]
LABEL_COL = {"name": "label", "dtype": "float"}
MODEL = {
    "model_root": "./checkpoints/",
    "verbose": 0,
    "seed": 3,
    "task": "binary_classification",
    "loss": "binary_crossentropy",
    "optimizer": "adam",
    "metrics": ["AUC", "logloss"],
    "monitor": "AUC",
    "batch_size": 64,
    "epochs": 2,
    "embedding_dim": 4,
    "learning_rate": 5e-2,
    "cpu_threads": 1,
}
MODELS: dict[str, dict[str, Any]] = {
    "QIN": {"model": "QIN", "num_layers": 2, "batch_norm": True, "net_dropout": 0.1},
    "QIN_first_order": {
        "model": "QIN",
        "num_layers": 1,
        "first_order": ["user", "item_id", "tags", "user*tags", "city*brand*hour"],
        "first_order_averaging": 0.9,
    },
    "DIN": {"model": "DIN", "dnn_hidden_units": [8], "attention_hidden_units": [8], "weight_averaging": 0.5},
}
BRANDS = ("acme", "blue", "coco", "dune")
CITIES = ("Aachen", "Bonn", "Celle", "Dresden", "Essen")
OF_SAMPLES = ("user_id", "user", "city", "hour", "label", "weight")
TAGS = ("new", "sale", "red", "green", "old")


def samples(*, users: range, items: range, rows: int, seed: int) -> pl.DataFrame:
    """Rows in the shop's own ids: users `u7`, items `i12` with histories, cities and hours."""
    rng = np.random.default_rng(seed)
    user, item = rng.choice(list(users), rows), rng.choice(list(items), rows)
    histories = [[f"i{i}" for i in rng.choice(list(items), rng.integers(0, 5))] for _ in range(rows)]
    return pl.DataFrame(
        {
            "user_id": user,
            "user": [f"u{u}" for u in user],
            "city": [CITIES[u % len(CITIES)] for u in user],
            "hour": rng.integers(1, 25, rows),
            "item": [f"i{i}" for i in item],
            "history": histories,
            "label": ((user + item + rng.integers(0, 2, rows)) % 3 == 0).astype(float),
        }
    )


def items_table(ids: IdMap) -> dict[str, np.ndarray]:
    """Brand and tags of each item, which are its own on every day; row 0 is padding."""
    numbers = [int(text[1:]) for text in ids.ids[1:]]
    brands = ["", *(BRANDS[i % len(BRANDS)] for i in numbers)]
    tags = ["", *("|".join({TAGS[i % len(TAGS)], TAGS[i // 3 % len(TAGS)]}) for i in numbers)]
    return {"brand": np.array(brands, dtype=object), "tags": np.array(tags, dtype=object)}


def build_shop(
    data_root: Path,
    dataset_id: str,
    splits: dict[str, pl.DataFrame],
    ids: IdMap | None,
    *,
    fitted_on: pl.DataFrame | None = None,
) -> Store:
    """Build a dataset of raw samples; without `ids` items are numbered by their own numbers.

    Columns are fitted on the train split, or on other samples.
    """
    numbered = ids or IdMap(pl.Series([None, *(f"i{i}" for i in range(1, 40))]))
    table = items_table(numbered)
    columns = [{**column, "max_len": 2} if column["name"] == "tags" else column for column in FEATURE_COLS]
    with StoreBuilder(
        dataset_id=dataset_id,
        data_root=data_root,
        feature_cols=columns,
        label_col=LABEL_COL,
        max_len=5,
        recipe={"of": dataset_id},
        weight_col="weight" if "weight" in splits["train"].columns else None,
        progress=False,
    ) as building:
        train = splits["train"] if fitted_on is None else fitted_on
        of_items = {name: values[numbered.codes(train["item"])].tolist() for name, values in table.items()}
        building.fit(train.with_columns(**{name: pl.Series(values) for name, values in of_items.items()}))
        building.write_items(table)
        if ids is not None:
            building.write_ids({"item_id": ids})
        for split, rows in splits.items():
            flat = pl.Series([item for history in rows["history"] for item in history], dtype=pl.String)
            building.append(
                split,
                {name: rows[name].to_numpy() for name in OF_SAMPLES if name in rows.columns}
                | {"item_id": numbered.codes(rows["item"])},
                numbered.codes(flat),
                np.append(0, np.cumsum(rows["history"].list.len().to_numpy().astype(np.int64))),
            )
        building.finish(split_method="by hand")
    return Store.open(data_root, dataset_id)


def write_config(
    folder: Path, data_root: Path, datasets: tuple[str, ...], *, models: dict[str, Any] = MODELS, **settings: Any
) -> Path:
    """A config folder with an experiment `<model>_<dataset>` of each model on each dataset."""
    folder.mkdir(exist_ok=True)
    entry = {"data_root": str(data_root), "data_format": "h5", "max_len": 5, "group_id": "user_id"}
    entry |= {"feature_cols": FEATURE_COLS, "label_col": LABEL_COL}
    experiments = {
        f"{name}_{dataset}": {**MODEL, **model, **settings, "dataset_id": dataset}
        for name, model in models.items()
        for dataset in datasets
    }
    (folder / "dataset_config.yaml").write_text(yaml.safe_dump(dict.fromkeys(datasets, entry)))
    (folder / "model_config.yaml").write_text(yaml.safe_dump({"Base": {}, **experiments}))
    return folder
