"""Random and TPE search: draws within ranges, counts, restart, several workers, pruning, what it costs to repeat."""

import csv
import json
import signal
import sys
from pathlib import Path

import pytest

from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.search import Search
from fuxictr_multimodal.launch.tuning.space import Trial
from fuxictr_multimodal.launch.tuning.sweep import Sweep as SearchedSweep
from tests.helpers.tuner_sweep import FAKE, Sweep

RATE = {"low": 1.0e-4, "high": 1.0e-2, "log": True}
SPACE = {"learning_rate": RATE, "batch_size": {"low": 32, "high": 96, "step": 32}, "dnn_hidden_units": [[8, 4], [16]]}


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


@pytest.fixture
def search(sweep, monkeypatch):
    """Make a search on a space in this process."""

    def make(space, *, trials=8, algorithm="tpe", seed=0, prune=True) -> Search:
        made = sweep.tuner(space).space(monkeypatch)
        folder = SweepFolder.of(made.path, search=algorithm, seed=seed)
        return Search(
            made, folder=folder, algorithm=algorithm, trials=trials, restart=Restart(made), prune=prune, seed=seed
        )

    return make


def value(settings: dict) -> float:
    """A peak at learning_rate 1e-3."""
    return 0.9 - abs(settings["learning_rate"] - 1e-3)


def publish(search: Search, *more: Trial) -> None:
    SearchedSweep(search.space, search.folder, search, search.restart, "tpe", Path("run_expid.py")).publish(*more)


def finish(record: Record, result: float | None = None) -> None:
    record.status, record.value = "completed", value(record.trial.settings) if result is None else result
    record.curve = [record.value]


def run_all(search: Search) -> list[Record]:
    with search.working():
        while (record := search.next()) is not None:
            finish(record)
            search.ended(record)
        search.refresh()
    return search.records


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_draws_lie_in_the_ranges_and_repeat_with_the_seed(search, sweep, algorithm):
    records = run_all(search(SPACE, trials=15, algorithm=algorithm))
    assert len(records) == 15
    for record in records:
        settings = record.trial.settings
        assert 1e-4 <= settings["learning_rate"] <= 1e-2
        assert settings["batch_size"] in (32, 64, 96)
        assert isinstance(settings["batch_size"], int)
        assert settings["dnn_hidden_units"] in ([8, 4], [16])
    # Half of a log range lies below its geometric middle.
    assert 3 <= sum(record.trial.settings["learning_rate"] < 1e-3 for record in records) <= 12
    drawn = [record.trial.expid for record in records]
    assert not list(sweep.tuner_file.parent.glob("*/study.db-wal"))
    (sweep.tuner_file.parent / f"fake_tuner_{algorithm}_s0/study.db").unlink()
    assert [record.trial.expid for record in run_all(search(SPACE, trials=15, algorithm=algorithm))] == drawn
    assert {r.trial.expid for r in run_all(search(SPACE, trials=15, algorithm=algorithm, seed=1))}.isdisjoint(drawn)


def test_a_restarted_search_continues_the_sequence(search, sweep):
    whole = [record.trial.expid for record in run_all(search(SPACE, trials=10))]
    (sweep.tuner_file.parent / "fake_tuner_tpe_s0/study.db").unlink()
    assert [record.trial.expid for record in run_all(search(SPACE, trials=4))] == whole[:4]
    resumed = search(SPACE, trials=10)
    with resumed.working():
        assert resumed.open_trials() == 6
        assert [record.status for record in resumed.records] == ["completed"] * 4
    assert [record.trial.expid for record in run_all(search(SPACE, trials=10))] == whole


def test_trials_of_a_gone_worker_are_taken_over(search):
    first = search(SPACE, trials=3)
    with first.working():
        left = first.next()
        asked_only = first._study.ask()
        second = search(SPACE, trials=3)
        with second.working():
            # The first worker lives: its trial is its own. The bare one has no setting and is given up.
            taken = second.next()
            assert taken.trial.expid != left.trial.expid
            assert second._study.trials[asked_only.number].state.name == "FAIL"
            finish(taken)
            second.ended(taken)
    third = search(SPACE, trials=3)
    with third.working():
        # What a gone worker left is open, not finished before.
        assert {record.trial.expid: record.reused for record in third.records} == {
            left.trial.expid: False,
            taken.trial.expid: True,
        }
        assert third.next().trial == left.trial
        assert third.next() is not None
        assert third.next() is None


def test_a_worker_killed_before_it_drew_a_setting_adds_no_trial(search):
    gone = search(SPACE, trials=3)
    gone._study.ask()
    assert len(run_all(search(SPACE, trials=2))) == 2
    gone._study.ask()
    last = search(SPACE, trials=2)
    with last.working():
        assert last.open_trials() == 0
        assert last.next() is None
        assert last.open_trials() == 0
    assert len(last.records) == 2


def test_a_worker_that_joins_keeps_the_configuration_of_its_fellows_trials(search):
    first, second = search(SPACE, trials=3), search(SPACE, trials=3)
    with first.working(), second.working():
        drawn = first.next()
        publish(first, drawn.trial)
        # The second one looked at the study before the first one drew.
        assert second.records == []
        publish(second)
        assert load_config(second.folder.path, drawn.trial.expid) == drawn.trial.params


def test_a_setting_that_is_known_costs_no_run(search):
    records = run_all(
        search({"learning_rate": [1.0e-3, 2.0e-3], "batch_size": [32, 64]}, trials=50, algorithm="random")
    )
    assert len(records) == 4
    assert len({record.trial.expid for record in records}) == 4


def test_failed_trials_count_and_are_not_repeated(search):
    failing = search(SPACE, trials=3)
    with failing.working():
        while (record := failing.next()) is not None:
            record.status, record.error = "failed", ["exit status 1: it broke"]
            failing.ended(record)
    again = search(SPACE, trials=3)
    with again.working():
        assert again.next() is None
        assert [(record.status, record.error) for record in again.records] == [
            ("failed", ["exit status 1: it broke"])
        ] * 3


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (-9, "killed"),
        (143, "stopped"),
        (2, "error: a.report.json cannot be written: No space left on device: free space"),
    ],
)
def test_trials_that_the_machine_ended_are_tried_again(search, exit_code, said):
    failing = search(SPACE, trials=2)
    with failing.working():
        lost = failing.next()
        lost.exit_code = exit_code
        lost.fail(None, exit_code, [said])
        failing.ended(lost)
        kept = failing.next()
        finish(kept)
        failing.ended(kept)
        # Not while the machine is as it is.
        assert failing.next() is None
    again = search(SPACE, trials=2)
    with again.working():
        record = again.next()
        assert record.trial == lost.trial
        finish(record)
        again.ended(record)
        assert again.next() is None
        again.refresh()
    assert sorted(record.status for record in again.records) == ["completed", "completed"]
    with search(SPACE, trials=2).working() as last:
        assert last.next() is None


def test_median_pruning_reads_the_curve(search):
    pruning = search(SPACE, trials=8)
    with pruning.working():
        for _ in range(6):
            record = pruning.next()
            record.curve = [0.6, 0.7, 0.8]
            assert not pruning.should_stop(record)
            record.status, record.value = "completed", 0.8
            pruning.ended(record)
        good, bad = pruning.next(), pruning.next()
        # The first evaluation is never the last.
        good.curve, bad.curve = [0.1], [0.1]
        assert not pruning.should_stop(good)
        assert not pruning.should_stop(bad)
        good.curve, bad.curve = [0.1, 0.75], [0.1, 0.65]
        assert not pruning.should_stop(good)
        assert pruning.should_stop(bad)
        bad.status = "pruned"
        pruning.ended(bad)
        pruning.refresh()
    assert [record.status for record in pruning.records].count("pruned") == 1


def test_another_space_is_another_study(search):
    assert len(run_all(search(SPACE, trials=2))) == 2
    assert len(run_all(search({**SPACE, "net_dropout": [0.0, 0.1]}, trials=3))) == 3


def test_a_space_that_varies_nothing_is_refused(search):
    with pytest.raises(ConfigError, match="has no varied parameter"):
        search({"learning_rate": 1.0e-3})


def test_without_optuna_the_error_names_the_extra(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "fuxictr_multimodal.launch.tuning.search")
    with pytest.raises(ConfigError, match=r"pip install 'fuxictr-multimodal\[tuner\]'"):
        import fuxictr_multimodal.launch.tuning.search  # noqa: F401


def test_a_search_as_a_user_runs_it(sweep):
    sweep.tuner({**SPACE, "epochs": 2})
    done = sweep.run("--search", "tpe", "--trials", "6", "--no-prune", "--gpu", "-1", "-1", pictures=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = sweep.tuner_file.parent / "fake_tuner_tpe_s0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["models"]["DIN"]["completed"] == 6
    assert summary["search"] == "tpe"
    for expid in {start[0] for start in sweep.starts()}:
        assert load_config(folder, expid)["model_id"] == expid
    # A grid file is a search too, and a setting that is complete is not run again.
    done = sweep.run("--search", "tpe", "--trials", "6")
    assert "6 trials are already finished" in done.stdout
    assert len(sweep.starts()) == 6


def test_sweeps_of_two_models_from_one_file_lie_side_by_side(sweep):
    sweep.write("config/model_config/sim.yaml", {"SIM_fake": {**FAKE, "model": "SIM"}})
    sweep.tuner(SPACE)
    settings = []
    for expid in ("DIN_fake", "SIM_fake"):
        done = sweep.run("--expid", expid, "--search", "random", "--trials", "3", "--gpu", "-1", "-1")
        assert done.returncode == 0, done.stdout + done.stderr
        folder = sweep.tuner_file.parent / f"fake_tuner_{expid}_random_s0"
        assert load_config(folder / "best", f"{expid}_tuned")["model"] == expid.partition("_")[0]
        with (folder / "summary.csv").open(newline="") as file:
            settings.append({(row["learning_rate"], row["batch_size"]) for row in csv.DictReader(file)})
    assert settings[0] == settings[1]
    assert len(settings[0]) == 3


def test_a_running_trial_is_pruned(sweep):
    sweep.tuner({"learning_rate": RATE, "plan": {"bad_after": 5}, "epochs": 4})
    done = sweep.run("--search", "random", "--trials", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pruned" in done.stdout
    assert sweep.left_processes() == []
    statuses = [json.loads(path.read_text())["status"] for path in sweep.home.glob("checkpoints/d/*.report.json")]
    assert statuses.count("interrupted") == done.stdout.count("\npruned ") > 0


@pytest.mark.slow
def test_killed_search_with_two_workers_loses_and_repeats_nothing(sweep):
    sweep.tuner({**SPACE, "epoch_seconds": 0.2})
    arguments = ("--search", "random", "--trials", "8", "--no-prune")
    first, second = sweep.start(*arguments), sweep.start(*arguments)
    sweep.kill_when(first, lambda: len(sweep.starts()) >= 3, signal.SIGKILL)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    done = sweep.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((sweep.tuner_file.parent / "fake_tuner_random_s0/summary.json").read_text())
    assert summary["models"]["DIN"] == {
        "trials": 8, "running": 0, "completed": 8, "failed": 0, "pruned": 0, "queued": 0
    }  # fmt: skip
    # At most the one that was killed was started twice.
    assert len({start[0] for start in sweep.starts()}) == 8
    assert len(sweep.starts()) <= 9
