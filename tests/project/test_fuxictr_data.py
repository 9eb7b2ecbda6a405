"""One data set in each format of FuxiCTR, in its folder layout: QIN trains on all of them, to the same numbers."""

import json

import numpy as np
import polars as pl
import pytest

import fuxictr_multimodal as fxmm
from fuxictr_multimodal.data.store import Store

ENTRY = """{name}:
    data_root: ../data/
    data_format: {form}
    train_data: ../raw/train.{form}
    valid_data: ../raw/valid.{form}
    test_data: ../raw/test.{form}
{columns}"""
COLUMNS = """    min_categr_count: 1
    feature_cols:
        [{name: ["userid", "adgroup_id"], active: True, dtype: str, type: categorical},
         {name: price, active: True, dtype: float, type: numeric},
         {name: click_sequence, active: True, dtype: str, type: sequence, splitter: "^", max_len: 5,
          share_embedding: adgroup_id}]
    label_col: {name: clk, dtype: float}
"""
MODEL = """Base:
    model_root: ./checkpoints/
    group_id: null
    feature_specs: null
    metrics: [AUC, logloss]
    monitor: AUC
    epochs: 2
    batch_size: 64
    seed: 3
QIN_test:
    model: QIN
    dataset_id: as_csv
    learning_rate: 1.e-2
    embedding_dim: 4
    num_layers: 1
    feature_specs: [{name: click_sequence, feature_encoder: null}]
"""


def make_rows(seed, rows=400):
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 40, rows)
    return pl.DataFrame(
        {
            "clk": (rng.random(rows) < 0.15 + 0.6 * (items % 2)).astype(float),
            "userid": [f"u{n}" for n in rng.integers(0, 30, rows)],
            "adgroup_id": [f"a{n}" for n in items],
            "price": rng.random(rows),
            "click_sequence": [[f"a{n}" for n in rng.integers(0, 40, size)] for size in rng.integers(0, 8, rows)],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As FuxiCTR's demo: raw files and configs side by side, paths relative to the folder above the configs."""
    root = tmp_path_factory.mktemp("demo")
    for name in ("raw", "data/as_npz", "demo/config"):
        (root / name).mkdir(parents=True)
    for seed, split in enumerate(("train", "valid", "test")):
        rows = make_rows(seed)
        rows.write_parquet(root / f"raw/{split}.parquet")
        rows.with_columns(pl.col("click_sequence").list.join("^")).write_csv(root / f"raw/{split}.csv")
    config = root / "demo/config"
    entries = [ENTRY.format(name=f"as_{form}", form=form, columns=COLUMNS) for form in ("csv", "parquet")]
    entries.append(ENTRY.format(name="as_npz", form="npz", columns="").replace("../raw", "../data/as_npz"))
    (config / "dataset_config.yaml").write_text("\n".join(entries))
    (config / "model_config.yaml").write_text(MODEL)
    # What FuxiCTR's own preparation leaves: codes as npz, and the feature map.
    store = fxmm.build_dataset("as_csv", config=config)
    for split in ("train", "valid", "test"):
        with store.reader(split) as reader:
            np.savez(
                root / f"data/as_npz/{split}.npz",
                **{name: reader.read(name, 0, reader.rows) for name in reader.columns},
            )
    stored = json.loads((store.dir / "feature_map.json").read_text())
    (root / "data/as_npz/feature_map.json").write_text(json.dumps({**stored, "dataset_id": "as_npz"}))
    return root


def train(folder, dataset, **settings):
    given = {"dataset_id": dataset, "model_root": str(folder / "checkpoints"), "cpu_threads": 1, **settings}
    return fxmm.train("QIN_test", config=folder / "demo/config", settings=given)


def test_all_formats_give_the_same_run(folder):
    reports = [train(folder, f"as_{form}") for form in ("csv", "parquet", "npz")]
    first = reports[0]
    assert first.metrics["test"]["AUC"] > 0.65
    for other in reports[1:]:
        assert other.metrics == first.metrics
        assert [point["train_loss"] for point in other.curve] == [point["train_loss"] for point in first.curve]
    assert (folder / "data/as_npz_h5/manifest.json").is_file()
    files = [Store.open(folder / "data", f"as_{form}").manifest.files for form in ("csv", "parquet")]
    assert {**files[0], "feature_map.json": ""} == {**files[1], "feature_map.json": ""}


def test_the_sequence_is_read_as_the_history(folder):
    report = train(folder, "as_csv", learning_rate=1e-3)
    log = folder / f"checkpoints/as_csv/{report.run}.log"
    assert "QIN reads click_sequence as the history of adgroup_id" in log.read_text()
