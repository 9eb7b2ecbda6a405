"""Train QIN on data of your own: `samples.parquet`, one row per impression, and `items.parquet`, one row per item.

    python examples/train_on_two_parquet_files.py --samples samples.parquet --items items.parquet --out shop
    python examples/train_on_two_parquet_files.py                # makes two small files first

samples.parquet   label (0 or 1), user_id, item_id, history (list of item ids, newest last), device; in order of time
items.parquet     item_id, category, image (list of 16 numbers)

`fxmm init samples.parquet items.parquet` proposes such an entry as a file, with the recommended experiments. Edit
`DATASET` for other columns: those of an item carry `source: item`. Ids may be text, and the files csv; see
docs/own_data.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import fuxictr_multimodal as fxmm

DATASET: dict[str, Any] = {
    "dataset_id": "Shop",
    "data_format": "parquet",
    "split": {"by": "order", "valid": 0.1, "test": 0.1},
    "history_col": "history",
    "max_len": 20,
    "group_id": "user_id",
    "feature_cols": [
        {"name": "user_id", "dtype": "int", "type": "meta"},
        {"name": "device", "dtype": "str", "type": "categorical"},
        {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "category", "dtype": "str", "type": "categorical", "source": "item"},
        {"name": "image", "dtype": "float", "type": "embedding", "source": "item", "pretrain_dim": 16},
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
}


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
    parser.add_argument("--out", type=Path, default=Path("two_files"), help="folder of the dataset and the runs")
    parser.add_argument("--made", type=int, default=20_000, metavar="N", help="number of samples that are made")
    args = parser.parse_args()
    if (args.samples is None) != (args.items is None):
        parser.error("give --samples and --items")
    samples, items = (args.samples, args.items) if args.samples else make_files(args.out / "raw", samples=args.made)

    entry = DATASET | {"data_root": args.out / "data", "train_data": samples, "item_data": items}
    store = fxmm.build_dataset(entry, overwrite=True)
    report = fxmm.train(EXPERIMENT | {"dataset": store, "model_root": args.out / "checkpoints"}, overwrite=True)
    print(f"test AUC {report.metrics['test']['AUC']:.4f}")

    # Which items suit a user who saw these three? Predictions are by the ids of the files.
    shown = pl.read_parquet(items)["item_id"].head(5)
    user = {"user_id": 1, "device": "phone", "history": shown.head(3).to_list()}
    print(fxmm.predict(report, pl.DataFrame([user | {"item_id": item} for item in shown])))


if __name__ == "__main__":
    main()
