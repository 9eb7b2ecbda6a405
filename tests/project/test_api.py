"""The public functions: cheap to import, few arguments, and the same runs as those of the commands."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fuxictr_multimodal as fxmm
from fuxictr_multimodal import InputError, api

PUBLIC = ["build_dataset", "compare", "export", "load_report", "open_dataset", "predict", "train"]


def test_importing_the_package_is_cheap(repository):
    code = (
        "import sys, fuxictr_multimodal; print(sorted({'torch', 'numpy', 'polars', 'yaml', 'rich'} & {*sys.modules}))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=repository, text=True) == "[]\n"


def test_what_is_public_is_documented_and_typed():
    assert set(PUBLIC) <= set(dir(fxmm))
    for name in PUBLIC:
        function = getattr(fxmm, name)
        assert function is getattr(api, name)
        assert "Raises:" in function.__doc__
        signature = inspect.signature(function)
        assert len(signature.parameters) <= 8
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fxmm.trian  # noqa: B018


@pytest.mark.slow
def test_train_evaluate_predict_compare(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = fxmm.build_dataset("Synthetic_test", data_root="elsewhere")
    assert store.manifest.dataset_id == "Synthetic_test"
    assert fxmm.open_dataset("Synthetic_test", data_root="elsewhere").manifest.hash == store.manifest.hash
    with pytest.raises(fxmm.InputError, match="already holds a dataset"):
        fxmm.build_dataset("Synthetic_test", data_root="elsewhere")

    settings = {"data_root": "elsewhere", "learning_rate": 1e-3, "verbose": 0}
    report = fxmm.train("QIN_test", settings=settings, seed=5)
    assert report.status == "completed"
    assert report.config["learning_rate"] == 1e-3
    path = tmp_path / f"checkpoints/Synthetic_test/{report.run}.report.json"
    assert fxmm.load_report(path).metrics == report.metrics
    assert fxmm.train("QIN_test", settings=settings, seed=5).curve == report.curve

    scores = fxmm.predict(report)
    with store.reader("test") as reader:
        labels = reader.read("label", 0, reader.rows)
        users = reader.read("user_id", 0, reader.rows)
    assert scores["user_id"].to_list() == users.tolist()
    from fuxictr_multimodal.metrics.classification import auc

    assert auc(labels, scores["score"].to_numpy()) == pytest.approx(report.metrics["test"]["AUC"], abs=1e-6)
    user = {"user_id": 1, "likes_level": 3, "views_level": 5, "history": [5, 9, 12]}
    new = pl.DataFrame([user | {"item_id": item} for item in (17, 42)])
    assert fxmm.predict(report, new)["score"].is_between(0, 1).all()
    with pytest.raises(fxmm.InputError, match="likes_level"):
        fxmm.predict(report, new.drop("likes_level"))

    table = fxmm.compare(replicates=0)
    row = table.row(by_predicate=pl.col("kind") == "experiment", named=True)
    assert row["test_AUC_mean"] == pytest.approx(report.metrics["test"]["AUC"], abs=1e-6)


@pytest.mark.slow
def test_an_experiment_without_a_config_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"dataset_id": "Made", "group_id": "user_id", "synthetic": {"rows": 600, "valid_rows": 200,
             "test_rows": 200, "items": 60, "tags": 5, "max_len": 8, "mean_history": 4.0}}  # fmt: skip
    columns = fxmm.build_dataset("Synthetic_test", data_root="other").manifest.feature_cols
    entry |= {"feature_cols": [{k: v for k, v in c.items() if k != "vocab_size"} if c.get("source") == "item" else c
                               for c in columns], "label_col": {"name": "label", "dtype": "float"}}  # fmt: skip
    store = fxmm.build_dataset(entry)
    assert store.dir == Path("data/Made")
    settings = {"model": "QIN", "epochs": np.int64(1), "embedding_dim": 4, "batch_size": 128, "verbose": 0}
    report = fxmm.train(settings | {"dataset": store}, seed=3)
    assert (report.run, report.status, {*report.metrics["test"]}) == (
        "QIN_Made_s3",
        "completed",
        {"AUC", "gAUC", "logloss"},
    )
    # No config folder knows the run: its report does.
    scores = fxmm.predict(report)
    assert scores.height == 200
    pandas = fxmm.predict(report, _new_samples().to_pandas())
    assert type(pandas).__module__.startswith("pandas")
    assert pandas["score"].between(0, 1).all()
    assert fxmm.predict(report, _new_samples())["score"].to_list() == pandas["score"].to_list()


def _new_samples():
    user = {"user_id": 1, "likes_level": 3, "views_level": 5, "history": [5, 9, 12]}
    return pl.DataFrame([user | {"item_id": item} for item in (17, 42)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "QIN"}, "needs a model and a dataset"),
        ({"dataset": "Synthetic_test"}, "needs a model and a dataset"),
        ({"model": "QIN", "dataset": 3}, "a dataset is a dataset_id of the config folder, or an entry"),
        ({"model": "QIN", "dataset": "Synthetic_tset"}, "Did you mean 'Synthetic_test'"),
        (
            {"model": "QIN", "dataset": "Synthetic_test", "optimizer": object},
            "optimizer is a type: settings are numbers",
        ),
        ({"model": "QIN", "dataset": {"dataset_id": "../x"}}, "holds '/'"),
    ],
)
def test_wrong_experiments_in_memory(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fxmm.InputError, match=message):
        fxmm.train(settings)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_notebooks_are_texts():
    from fuxictr_multimodal.api import _overrides

    settings = {"learning_rate": np.float64(0.5), "epochs": np.int64(2), "model_root": Path("a b")}
    assert _overrides(settings) == ["learning_rate=0.5", "epochs=2", "model_root=a b"]


def test_data_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="data is a dict: pass a polars DataFrame, or the path"):
        fxmm.predict("QIN_test", {"a": 1})


def test_errors_name_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fxmm.InputError, match="Did you mean 'QIN_test'"):
        fxmm.train("QIN_tset")
    with pytest.raises(fxmm.InputError, match="does not exist: a run writes it"):
        fxmm.load_report("x.report.json")
    with pytest.raises(fxmm.InputError, match="build the dataset first"):
        fxmm.open_dataset("Shop")
    with pytest.raises(fxmm.InputError, match="no reports"):
        fxmm.compare()
    assert list(tmp_path.iterdir()) == []
