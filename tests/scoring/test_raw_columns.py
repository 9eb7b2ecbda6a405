"""New samples with raw columns go through the dataset's own encoders."""

import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.training.runner import run_experiment


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A dataset with raw columns of every kind, its config, and new rows with unknown categories."""
    folder = tmp_path_factory.mktemp("fitted")
    context = [
        {"name": "city", "dtype": "str", "type": "categorical", "min_categr_count": 2},
        {"name": "code", "dtype": "int", "type": "categorical"},
        {"name": "words", "dtype": "str", "type": "sequence", "splitter": " ", "max_len": 3},
        {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
        {"name": "age", "dtype": "float", "type": "numeric"},
    ]
    columns = [
        {"name": "user_id", "dtype": "int", "type": "meta"},
        *context,
        {"name": "item_id", "dtype": "int", "type": "categorical", "source": "item"},
        {"name": "kind", "dtype": "str", "type": "categorical", "source": "item"},
    ]
    rng = np.random.default_rng(0)
    kinds = np.array(["", *rng.choice(["a", "b", "c"], 9)], dtype=object)

    def rows(count, cities):
        return {
            "user_id": rng.integers(1, 9, count),
            "city": rng.choice(cities, count).astype(object),
            "code": rng.integers(100, 104, count),
            "words": np.array([" ".join(rng.choice(["x", "y", "z"], 2)) for _ in range(count)], dtype=object),
            "price": rng.normal(size=count),
            "age": rng.uniform(size=count),
            "item_id": rng.integers(1, 10, count),
            "label": np.arange(count) % 2,
        }

    cities = ["rome", "oslo", "bern"]
    splits = {"train": rows(60, cities), "valid": rows(20, cities), "test": rows(30, [*cities, "atlantis"])}
    splits["test"]["code"][3] = 999
    splits["test"]["words"][5] = "x unheard"
    histories = {
        name: [rng.integers(1, 10, rng.integers(0, 5)) for _ in rows["label"]] for name, rows in splits.items()
    }
    with StoreBuilder(
        dataset_id="fitted", data_root=folder / "data", feature_cols=columns,
        label_col={"name": "label", "dtype": "float"}, max_len=4, recipe={}, progress=False,
    ) as builder:  # fmt: skip
        train = pl.DataFrame({name: values.tolist() for name, values in splits["train"].items()})
        builder.fit(train.with_columns(kind=pl.Series(kinds[splits["train"]["item_id"]].tolist())))
        builder.write_items({"kind": kinds})
        for name, split in splits.items():
            lists = histories[name]
            builder.append(name, split, np.concatenate(lists), np.cumsum([0, *map(len, lists)]))
        builder.finish(split_method="none")
    entry = {
        "data_root": str(folder / "data"), "data_format": "h5", "max_len": 4,
        "feature_cols": columns, "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    model = {
        "model": "QIN", "dataset_id": "fitted", "model_root": str(folder / "checkpoints"), "seed": 1, "epochs": 1,
        "metrics": ["AUC"], "monitor": "AUC", "batch_size": 8, "embedding_dim": 4, "verbose": 0,
        "group_id": "user_id", "optimizer": "adam", "loss": "binary_crossentropy", "task": "binary_classification",
    }  # fmt: skip
    (folder / "config").mkdir()
    (folder / "config/dataset_config.yaml").write_text(yaml.safe_dump({"fitted": entry}))
    experiments = {"QIN_fitted": {**model, "num_layers": 1}, "DIN_fitted": {**model, "model": "DIN"}}
    (folder / "config/model_config.yaml").write_text(yaml.safe_dump(experiments))
    new = {name: values.tolist() for name, values in splits["test"].items() if name != "label"}
    pq.write_table(pa.table({**new, "history": [h.tolist() for h in histories["test"]]}), folder / "new.parquet")
    return folder, int((splits["test"]["city"] == "atlantis").sum())


def scores_of(scored):
    return pl.read_parquet(scored.out)["score"].to_numpy()


@pytest.mark.parametrize("expid", ["QIN_fitted", "DIN_fitted"])
def test_new_rows_go_through_the_stores_own_encoders(fitted, tmp_path, monkeypatch, expid):
    folder, atlantis = fitted
    monkeypatch.chdir(tmp_path)
    run_experiment(config_dir=folder / "config", expid=expid)
    expected = scores_of(predict(config_dir=folder / "config", expid=expid, out=tmp_path / "a.parquet"))
    found = predict(config_dir=folder / "config", expid=expid, data=folder / "new.parquet", out=tmp_path / "b.parquet")
    assert np.abs(scores_of(found) - expected).max() < 1e-6
    assert found.unknown == {"city": atlantis, "code": 1, "words": 1}


def test_histories_that_are_cut_otherwise_than_in_training_are_refused(fitted, tmp_path, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(tmp_path)
    config = shutil.copytree(folder / "config", tmp_path / "config")
    given = {"config_dir": config, "expid": "QIN_fitted", "overrides": [f"model_root={tmp_path / 'runs'}"]}
    run_experiment(**given)
    expected = scores_of(predict(**given))
    entry = yaml.safe_load((config / "dataset_config.yaml").read_text())

    def edit(max_len):
        edited = {"fitted": {**entry["fitted"], "max_len": max_len}}
        (config / "dataset_config.yaml").write_text(yaml.safe_dump(edited))

    edit(2)
    for data in (None, folder / "new.parquet"):
        with pytest.raises(
            DataError, match="was trained with max_len 4, but max_len is 2 now, .*: set max_len: 4 again"
        ):
            predict(**given, data=data)
    # Without a value it is that of the dataset.
    edit(None)
    assert np.array_equal(scores_of(predict(**given)), expected)


def test_raw_columns_without_any_value_or_as_categories(fitted, tmp_path, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(tmp_path)
    run_experiment(config_dir=folder / "config", expid="QIN_fitted")
    table = pq.read_table(folder / "new.parquet")
    scores = {}
    forms = {
        "typed": {"city": pa.nulls(30, pa.string()), "words": pa.array([""] * 30)},
        "untyped": {"city": pa.nulls(30), "words": pa.array([[]] * 30)},
        "plain": {},
        "categories": {"city": table["city"].dictionary_encode(), "code": table["code"].dictionary_encode()},
    }
    for form, changes in forms.items():
        changed = table
        for name, values in changes.items():
            changed = changed.set_column(table.column_names.index(name), name, values)
        pq.write_table(changed, tmp_path / "new.parquet")
        found = predict(
            config_dir=folder / "config", expid="QIN_fitted", data=tmp_path / "new.parquet", out=tmp_path / "x.parquet"
        )
        scores[form] = scores_of(found)
    assert (scores["typed"] == scores["untyped"]).all()
    assert (scores["plain"] == scores["categories"]).all()
    assert (scores["plain"] != scores["typed"]).any()


def test_a_raw_column_of_another_type(fitted, tmp_path, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(tmp_path)
    run_experiment(config_dir=folder / "config", expid="QIN_fitted")
    table = pq.read_table(folder / "new.parquet")
    pq.write_table(table.set_column(1, "city", pa.array(range(30))), tmp_path / "new.parquet")
    with pytest.raises(DataError, match="new.parquet: column 'city' is declared as str, but holds Int64"):
        predict(config_dir=folder / "config", expid="QIN_fitted", data=tmp_path / "new.parquet")
