"""A run of the trees from the command to its report, like that of any model, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fuxictr_multimodal.comparison.budgeted.probe import Speed, probe
from fuxictr_multimodal.config.expids import load_dataset_config, load_model_config
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.explain.block_importance import BlockShuffler
from fuxictr_multimodal.launch.tuning.folder import write_yaml
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.scoring.scores import predict
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import shop, trained_shop
from tests.helpers.typed_command import type_command

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "config"
EXPID = "Trees_demo"


def settings(folder, data_root, **changes):
    values = {"dataset_id": "Synthetic_test", "data_root": data_root, "model_root": folder / "checkpoints"}
    values |= {"epochs": 40, "min_samples_leaf": 20, "max_leaf_nodes": 8, "verbose": 0}
    return [f"{key}={value}" for key, value in {**values, **changes}.items()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = run_experiment(config_dir=CONFIG, expid=EXPID, overrides=settings(folder, data_root), name="small")
    return folder, *found


@pytest.fixture
def again(trained, data_root, monkeypatch, tmp_path):
    """Call something on a copy of the trained run."""
    folder = tmp_path / "again"
    shutil.copytree(trained[0], folder)
    monkeypatch.chdir(folder)

    def call(function, *, changes=None, **arguments):
        overrides = settings(folder, data_root, **(changes or {}))
        return function(config_dir=CONFIG, expid=EXPID, overrides=overrides, **{"name": "small", **arguments})

    call.files = folder / "checkpoints" / "Synthetic_test"
    return call


def test_the_report_is_that_of_a_run(trained):
    _, report, path = trained
    assert Report.read(path) == report
    assert (report.status, report.model, report.run) == ("completed", "Trees", "small")
    assert set(report.metrics["test"]) == {"AUC", "gAUC", "logloss"}
    # What the title vectors, levels and histories of the synthetic world give away.
    assert report.metrics["test"]["AUC"] > 0.65
    assert 0 < report.parameters["total"] <= 40 * 15
    assert report.rows_per_s["train"] > 0
    kept = [row for row in report.curve if row["best"]]
    assert [row["epoch"] for row in kept] == [report.best_epoch]
    assert kept[0]["metrics"]["AUC"] == pytest.approx(report.metrics["valid"]["AUC"], abs=1e-6)
    assert not path.with_name("small.state").exists()
    saved = np.load(path.with_name("small.predictions.npz"))
    assert (len(saved["valid_scores"]), len(saved["test_scores"])) == (1000, 1000)


def test_a_finished_run_is_skipped_and_another_repeats_it(again, trained):
    before = (again.files / "small.model").read_bytes()
    skipped, path = again(run_experiment)
    assert skipped == trained[1]
    written = path.stat().st_mtime_ns
    # The same seed gives the same bits, another one other trees.
    report, _ = again(run_experiment, overwrite=True)
    assert report.metrics == skipped.metrics
    assert (again.files / "small.model").read_bytes() == before
    assert path.stat().st_mtime_ns > written
    other, _ = again(run_experiment, seed=5, name=None)
    assert other.run.endswith("_s5")
    assert other.metrics["test"] != report.metrics["test"]


def test_an_unfinished_run_starts_over(again, trained):
    path = again.files / "small.report.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "status": "interrupted", "metrics": {}}))
    report, _ = again(run_experiment, resume=True)
    assert (report.status, report.metrics) == ("completed", trained[1].metrics)


def test_scores_of_the_saved_trees_are_those_of_the_fitted_ones(again):
    found = again(predict)
    scores = pl.read_parquet(found.out)["score"].to_numpy()
    assert found.rows == 1000
    np.testing.assert_array_equal(scores, np.load(again.files / "small.predictions.npz")["test_scores"])


def test_damaged_trees_are_refused(again):
    path = again.files / "small.model"
    whole = torch.load(path, weights_only=True)
    damaged = {**whole, "left": whole["left"].clone()}
    damaged["left"][0, 0] = 99
    torch.save(damaged, path)
    with pytest.raises(DataError, match="small.model holds no trees of this model: 'left' names a node"):
        again(predict)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"small\.model"):
        again(predict)


def test_it_can_neither_be_exported_nor_explained(again):
    with pytest.raises(InputError, match="Trees cannot be exported: its features are counted over the training split"):
        again(export)
    experiment = again(lambda **arguments: Experiment.load(arguments.pop("config_dir"), **arguments))
    with pytest.raises(ConfigError, match="Trees is fitted at once, so its parts cannot be explained"):
        BlockShuffler(experiment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_averaging": 0.99}, "weight_averaging: Trees is fitted at once, not in steps: leave it out"),
        ({"max_leaf_nodes": 1}, "max_leaf_nodes must be a whole number from 2"),
        ({"max_leaf_node": 9}, "unknown key 'max_leaf_node'. Did you mean 'max_leaf_nodes'"),
        ({"without_features": "[similarities]"}, "without_features 'similarities' is unknown; choose from columns,"),
        ({"task": "regression"}, "task: Trees classifies"),
        ({"monitor": "MRR2"}, "MRR2"),
    ],
)
def test_a_wrong_setting_is_named(again, changes, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        again(run_experiment, changes=changes, name=None)


def test_the_command_trains_a_seed(tmp_path, data_root, trained):
    words = [str(REPOSITORY / "run_expid.py"), "--config", str(CONFIG), "--expid", EXPID, "--seed", "1"]
    for text in settings(tmp_path, data_root, epochs=5):
        words += ["--set", text]
    done = type_command(words, folder=tmp_path)
    assert done.status == 0, done.errors
    reports = sorted((tmp_path / "checkpoints/Synthetic_test").glob("*.report.json"))
    assert [Report.read(path).seed for path in reports] == [1]


def test_scores_of_a_file_are_those_of_the_split(tmp_path, monkeypatch):
    """A shop with text ids, users who return, and events: new samples name no user to the model, and need none."""
    monkeypatch.chdir(tmp_path)
    raw = shop.write(tmp_path / "raw", events=1200)
    entry = {
        "data_root": str(tmp_path / "data"), "data_format": "parquet", "max_len": 8, "group_id": "user_id",
        "interactions": {"file": str(raw / "log.parquet"), "user": "user_id", "item": "item_id", "time": "timestamp",
                         "label": "click"},
        "item_data": str(raw / "items.parquet"), "user_data": str(raw / "users.csv"),
        "split": {"by": "time", "valid": 0.1, "test": 0.1}, "feature_cols": trained_shop.COLUMNS,
        "label_col": {"name": "label", "dtype": "float"},
    }  # fmt: skip
    model = load_model_config(CONFIG, EXPID) | {"dataset_id": "Shop", "epochs": 20, "min_samples_leaf": 10}
    (tmp_path / "config").mkdir()
    write_yaml(tmp_path / "config/model_config.yaml", {"Base": {}, "Trees_Shop": model}, header="")
    write_yaml(tmp_path / "config/dataset_config.yaml", {"Shop": entry}, header="")
    asked = {"config_dir": tmp_path / "config", "expid": "Trees_Shop"}
    report, _ = run_experiment(**asked)
    # What users like is the kind of their history.
    assert report.metrics["test"]["AUC"] > 0.7
    split = predict(out=tmp_path / "split.csv", **asked)
    shop.log(1200).tail(split.rows).drop("click").write_parquet(tmp_path / "new.parquet")
    found = predict(data=tmp_path / "new.parquet", out=tmp_path / "file.csv", **asked)
    scores, expected = (pl.read_csv(path)["score"] for path in (found.out, split.out))
    assert scores.n_unique() > 20
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_probe_measures_one_fit(tmp_path, data_root):
    entry = load_model_config(CONFIG, EXPID) | {
        "dataset_id": "Synthetic_test",
        "epochs": 5,
        "model_root": str(tmp_path),
    }
    dataset = load_dataset_config(CONFIG, "Synthetic_test") | {"data_root": str(data_root)}
    write_yaml(tmp_path / "model_config.yaml", {"Base": {}, EXPID: entry}, header="")
    write_yaml(tmp_path / "dataset_config.yaml", {dataset.pop("dataset_id"): dataset}, header="")
    probe(tmp_path, EXPID, gpu=-1, seconds=1, path=tmp_path / "speed.json")
    speed = Speed(**json.loads((tmp_path / "speed.json").read_text()))
    rows = {"rows": 4000, "valid_rows": 1000, "test_rows": 1000}
    assert speed.seconds(epochs=300, **rows) == speed.seconds(epochs=1, **rows) > speed.worked


def test_a_planted_interaction_is_learnt():
    """Clubs of items that nothing but histories tells apart: users click on items of the club of their history."""
    from model_zoo.Trees.features import HandFeatures
    from model_zoo.Trees.samples import Items, Samples

    rng = np.random.default_rng(1)
    items, rows = 121, 1500

    def made(user):
        club = rng.integers(0, 6, rows)
        target = rng.integers(1, items, rows)
        samples = Samples(
            columns={},
            target=target,
            history=(rng.integers(0, 20, (rows, 4)) * 6 + club[:, None] + 1).reshape(-1),
            offsets=np.arange(0, 4 * rows + 1, 4),
            user=user,
        )
        return samples, (rng.random(rows) < np.where((target - 1) % 6 == club, 0.8, 0.1)).astype(float)

    (train, labels), (test, answers) = made(np.arange(rows)), made(None)
    hand = HandFeatures.of({}, Items(items, {}, {}), [(train, labels)], [test])
    pairs = hand.matrix(test)[:, hand.names.index("pair_ppmi_mean")]
    assert auc(answers, pairs) > 0.75
