"""Train QIN on data of your own: `samples.parquet`, one row per impression, and `items.parquet`, one row per item.

    python examples/train_on_two_parquet_files.py --samples samples.parquet --items items.parquet --out shop
    python examples/train_on_two_parquet_files.py                # makes two small files first

samples.parquet   label (0 or 1), user_id, item_id, history (list of item ids, newest last), device; in order of time
items.parquet     item_id, category, image (list of 16 numbers)

Edit `DATASET` for other columns: those of an item carry `source: item`, text and numbers are encoded while building.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

import fuxictr_multimodal as fxmm
from fuxictr_multimodal.data.store.builder import StoreBuilder, order_items

DATASET: dict[str, Any] = {
    "max_len": 20,
    "group_id": "user_id",
    "feature_cols": [
        {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "device", "active": True, "dtype": "str", "type": "categorical"},
        {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "category", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
        {"name": "image", "active": True, "dtype": "float", "type": "embedding", "source": "item", "pretrain_dim": 16},
    ],
    "label_col": {"name": "label", "dtype": "float"},
}
EXPERIMENT = {
    "model": "QIN",
    "epochs": 4,
    "batch_size": 256,
    "learning_rate": 2.0e-3,
    "embedding_dim": 8,
    "embedding_regularizer": 1.0e-5,
    "num_layers": 2,
    "seed": 1,
    "metrics": ["AUC", "gAUC", "logloss"],
    "monitor": "AUC",
}


def build(samples: pl.DataFrame, items: pl.DataFrame, *, dataset_id: str, data_root: Path) -> None:
    """Write the dataset: items are numbered from 1, the last tenths of the samples are valid and test."""
    items = items.with_row_index("row", offset=1)
    row_of = dict(zip(items["item_id"], items["row"], strict=True))
    length = DATASET["max_len"]
    histories = [[row_of[item] for item in history[-length:] if item in row_of] for history in samples["history"]]
    samples = samples.with_columns(pl.col("item_id").replace_strict(row_of, return_dtype=pl.Int64))
    starts = {"train": 0, "valid": int(samples.height * 0.8), "test": int(samples.height * 0.9)}
    ends = [*list(starts.values())[1:], samples.height]
    train = samples[: starts["valid"]]
    with StoreBuilder(
        dataset_id=dataset_id, data_root=data_root, recipe={"script": Path(__file__).name}, overwrite=True, **DATASET
    ) as builder:
        # Text columns are encoded by the values of the training samples.
        builder.fit(
            train.join(items.select(item_id="row", category="category"), on="item_id").select("device", "category")
        )
        columns = {"category": items["category"].to_numpy(), "image": np.stack(items["image"].to_list())}
        builder.write_items(order_items(items["row"].to_numpy(), columns))
        for (split, start), end in zip(starts.items(), ends, strict=True):
            part, ids = samples[start:end], histories[start:end]
            values = {name: part[name].to_numpy() for name in ("label", "user_id", "item_id", "device")}
            flat = np.array([item for history in ids for item in history], dtype=np.int64)
            builder.append(split, values, flat, np.cumsum([0, *map(len, ids)]))
        builder.finish(split_method="by the order of the samples: the last 10 % are test, the 10 % before them valid")


def make_files(folder: Path, *, samples: int) -> tuple[Path, Path]:
    """Small files in which users click items of the categories that they clicked before."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 8, 200)
    image = np.eye(16)[category] + 0.3 * rng.standard_normal((200, 16))
    item = rng.integers(0, 200, samples)
    taste = np.where(rng.random(samples) < 0.5, category[item], rng.integers(0, 8, samples))
    history = [rng.choice(np.flatnonzero(category == liked), rng.integers(3, 9)) + 1000 for liked in taste]
    label = rng.random(samples) < np.where(category[item] == taste, 0.8, 0.2)
    device = np.array(["phone", "tablet", "desktop"])[rng.integers(0, 3, samples)]
    columns = {"label": label.astype(int), "user_id": rng.integers(0, 500, samples), "item_id": item + 1000}
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({**columns, "history": [h.tolist() for h in history], "device": device}).write_parquet(
        folder / "samples.parquet"
    )
    pl.DataFrame(
        {"item_id": np.arange(200) + 1000, "category": [f"c{c}" for c in category], "image": image.tolist()}
    ).write_parquet(folder / "items.parquet")
    return folder / "samples.parquet", folder / "items.parquet"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train QIN on two parquet files.")
    parser.add_argument("--samples", type=Path, help="samples.parquet; by default small files are made")
    parser.add_argument("--items", type=Path, help="items.parquet")
    parser.add_argument("--out", type=Path, default=Path("two_files"), help="folder of configs, dataset and runs")
    parser.add_argument("--made", type=int, default=20_000, metavar="N", help="number of samples that are made")
    args = parser.parse_args()
    if (args.samples is None) != (args.items is None):
        parser.error("give --samples and --items")
    samples, items = (args.samples, args.items) if args.samples else make_files(args.out / "raw", samples=args.made)
    build(pl.read_parquet(samples), pl.read_parquet(items), dataset_id="Shop", data_root=args.out / "data")

    config = args.out / "config"
    config.mkdir(exist_ok=True)
    roots = {"data_root": str(args.out / "data")}
    run = {**EXPERIMENT, "dataset_id": "Shop", "model_root": str(args.out / "checkpoints")}
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"Shop": DATASET | roots}))
    (config / "model_config.yaml").write_text(yaml.safe_dump({"QIN_shop": run}))

    report = fxmm.train("QIN_shop", config=config, overwrite=True)
    print(f"test AUC {report.metrics['test']['AUC']:.4f}")
    print(fxmm.predict(report, config=config).select("user_id", "score").head())


if __name__ == "__main__":
    main()
