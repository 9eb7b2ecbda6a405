"""A comparison in one command: equal trials, winners by seeds, a leaderboard; run again, it repeats nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fuxictr_multimodal.comparison import comparison
from fuxictr_multimodal.comparison.settings import Comparison
from fuxictr_multimodal.config.expids import check_model_keys
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning.space import Space
from fuxictr_multimodal.training import runner
from fuxictr_multimodal.zoo.models import resolve
from tests.helpers.tuner_sweep import draw_nothing
from tests.helpers.typed_command import type_command

SHIPPED = sorted(Path(__file__).resolve().parents[2].glob("config/comparison/*.yaml"))
SMALL = {"dataset_id": "Synthetic_test", "epochs": 1, "batch_size": 512, "embedding_dim": 8, "learning_rate": 1.0e-3}
DCN = {"model": "DCNv2", "num_cross_layers": 1, "parallel_dnn_hidden_units": [16], "net_dropout": 0.1}
FILE = {
    "expids": "QIN_small", "dataset_id": "Synthetic_test", "seeds": "1", "out": "out/board",
    "baseline": "DCNv2_small_tuned", "resample": "groups",
    "tuning": {"config": "config/tuner/shared.yaml", "expids": "*_small", "trials": 1, "seed": 3},
}  # fmt: skip


@pytest.fixture
def home(tmp_path, repository, data_root, monkeypatch):
    """A working folder with two small experiments, a tuner file and a comparison file."""
    base = {**read_yaml(repository / "config/model_config/base.yaml")["Base"], "verbose": 0}
    datasets = read_yaml(repository / "config/dataset_config/synthetic.yaml")
    write(tmp_path / "config/model_config/base.yaml", {"Base": base})
    models = {"DCNv2_small": {**SMALL, **DCN}, "QIN_small": {**SMALL, "model": "QIN"}}
    models["QIN_other"] = {**models["QIN_small"], "dataset_id": "x"}
    write(tmp_path / "config/model_config/small.yaml", models)
    (tmp_path / "data").symlink_to(data_root)
    write(tmp_path / "config/dataset_config/synthetic.yaml", {"Synthetic_test": datasets["Synthetic_test"]})
    space = {"learning_rate": {"low": 1.0e-4, "high": 1.0e-2, "log": True}, "net_dropout": {"low": 0.0, "high": 0.5}}
    write(tmp_path / "config/tuner/shared.yaml", {"base_config": "./config/", "base_expid": "x", "tuner_space": space})
    write(tmp_path / "comparison.yaml", FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_globs_take_the_expids_of_the_dataset(home):
    write(home / "comparison.yaml", {**FILE, "expids": "*"})
    comparison = Comparison.read(home / "comparison.yaml")
    assert comparison.expids == ("DCNv2_small", "QIN_small")
    assert comparison.names == ["DCNv2_small_tuned", "QIN_small_tuned", "DCNv2_small", "QIN_small"]


def test_slow_models_are_tuned_last_with_half_as_many_trials(home, monkeypatch):
    tuning = {**FILE["tuning"], "slow_expids": "DCNv2_small", "trials": 5}
    write(home / "comparison.yaml", {**FILE, "tuning": tuning})
    read = Comparison.read(home / "comparison.yaml").tuning
    assert list(read.trials.items()) == [("QIN_small", 5), ("DCNv2_small", 2)]
    calls = []
    done = SimpleNamespace(status="completed")
    monkeypatch.setattr(comparison, "tune", lambda _, expids, **a: calls.append((expids, a["trials"])) or [[done]])
    comparison._tune(read, [-1])
    assert calls == [(["QIN_small"], 5), (["DCNv2_small"], 2)]


def test_a_single_trial_is_not_halved(home):
    write(home / "comparison.yaml", {**FILE, "tuning": {**FILE["tuning"], "slow_expids": "DCNv2_small"}})
    assert set(Comparison.read(home / "comparison.yaml").tuning.trials.values()) == {1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expid": "x"}, "unknown key 'expid'. Did you mean 'expids'"),
        ({"out": None}, "does not set `out`; write for example out: "),
        ({"expids": None, "tuning": None}, "sets neither `expids` nor `tuning`; write for example expids: "),
        ({"seeds": "one"}, "'one' is not a seed"),
        ({"resample": "users"}, "resample 'users' is unknown; choose from rows, groups"),
        ({"expids": "QIN_smal"}, "Did you mean 'QIN_small'"),
        ({"expids": "QIN_other"}, "none of these expids is of dataset Synthetic_test"),
        ({"tuning": {"config": "x.yaml", "expids": "*"}}, "tuning does not set `trials`; write for example trials: 20"),
        ({"tuning": {**FILE["tuning"], "search": "grid"}}, "tuning: search 'grid' is unknown; choose from random, tpe"),
        ({"tuning": {**FILE["tuning"], "trails": 3}}, "unknown key 'trails'"),
    ],
)
def test_what_is_wrong_is_named(home, change, message):
    write(home / "comparison.yaml", {**FILE, **change})
    with pytest.raises(ConfigError, match=message):
        Comparison.read(home / "comparison.yaml")


def test_there_are_shipped_comparisons():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_comparisons_fit_their_models(path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    comparison = Comparison.read(path)
    assert comparison.baseline in comparison.names
    for expid in comparison.tuning.expids if comparison.tuning else ():
        space = Space.read(comparison.tuning.config, expid=expid)
        space.refuse_unlisted_keys()
        for trial in space.representatives():
            assert trial.dataset_id == comparison.dataset_id
            check_model_keys(trial.params, resolve(trial.params["model"]).model_class)


def test_runs_are_called_by_their_own_names(monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "run_experiment", lambda **arguments: asked.append(arguments))
    comparison._run_by_name(expid="QIN_small", seed=3, resume=True)
    assert asked == [{"expid": "QIN_small", "name": "QIN_small", "seed": 3, "resume": True}]


@pytest.mark.slow
def test_one_command_tunes_runs_and_ranks_and_then_repeats_nothing(home, repository):
    command = [str(repository / "run_comparison.py"), "--config", "comparison.yaml", "--gpu", "-1", "-1"]
    done = type_command(command, folder=home, environment={"OMP_NUM_THREADS": "1"}, before=draw_nothing)
    assert done.status == 0, done.out + done.errors
    table = (home / "out/board.md").read_text()
    reports = {path: path.stat().st_mtime_ns for path in (home / "checkpoints").rglob("*.report.json")}
    board = json.loads((home / "out/board.json").read_text())
    names = {"DCNv2_small_tuned", "QIN_small_tuned", "QIN_small"}
    assert {entry["name"] for entry in board["entries"]} == names
    assert all(name in table for name in names)
    assert "95 % over users" in table
    assert len(reports) == 2 + 3  # a trial of each model, and the runs that are compared

    (home / "out/board.md").unlink()
    again = type_command(command, folder=home, before=draw_nothing)
    assert again.status == 0, again.out + again.errors
    assert (home / "out/board.md").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in reports} == reports
