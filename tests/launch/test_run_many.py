"""Several runs by one command: a failure stops none of the others, an interruption stops them all, a table says so."""

import json
import signal

import pytest

from fuxictr_multimodal.launch import plans, run_many
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.plans import Plan
from fuxictr_multimodal.training.report import Report
from tests.helpers.stand_in_run import stand_in


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run stand-ins of these names."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*names: str, gpus=(-1,), **gates) -> list[Outcome]:
        asked = [Plan(name, 7) for name in names]
        return run_many.run_many(asked, {"directory": tmp_path}, gpus=gpus, run=stand_in, **gates)

    return run


def test_failures_stop_nothing_and_an_interrupt_stops_the_rest(run, capfd):
    outcomes = run("a", "input_error", "c", "interrupted", "e", "f")
    assert [outcome.status for outcome in outcomes] == [
        "completed", "failed", "completed", "interrupted", "not run", "not run"
    ]  # fmt: skip
    assert run_many.exit_status(outcomes) == 128 + signal.SIGTERM
    assert run_many.exit_status(outcomes[:3]) == 1
    assert run_many.exit_status(outcomes[:1]) == 0
    shown = capfd.readouterr()
    assert "[3/6] c_s7\n" in shown.err
    assert "[5/6]" not in shown.err
    run_many.print_outcomes([Outcome("a", "completed"), Outcome("b", "failed", error="why b")])
    shown = capfd.readouterr()
    assert "1 of 2 runs complete" in shown.out
    assert "b: failed: why b" in shown.out
    assert "a: completed" not in shown.out


def test_a_run_that_may_not_start_is_not_run(run, capfd):
    outcomes = run("a", "b", "c", may_start=lambda plan: plan.expid != "b", quiet=True)
    assert [outcome.status for outcome in outcomes] == ["completed", "not run", "completed"]
    assert (outcomes[1].error, outcomes[1].signal) == ("there was no time for it", None)
    shown = capfd.readouterr()
    assert "[3/3] c_s7 completed" in shown.err
    assert "a speaks" not in shown.out, "it prints to its own log only"


def test_when_the_time_is_over_runs_are_interrupted_and_no_more_start(run, tmp_path):
    outcomes = run("endless", "b", is_over=(tmp_path / "endless.started").exists)
    assert [outcome.status for outcome in outcomes] == ["interrupted", "not run"]
    assert outcomes[0].signal == signal.SIGTERM


def test_no_name_of_a_run_is_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "QIN_test@learning_rate=1e-3+weight_averaging=0.995"
    run_many.print_outcomes([Outcome(name, "completed")])
    cells = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells) == name


def test_slots_share_the_runs_and_keep_their_order(run, capfd, tmp_path):
    outcomes = run("meet1", "meet2", "crash", "slow", gpus=[0, 1])
    assert [(outcome.name, outcome.status) for outcome in outcomes] == [
        ("meet1_s7", "completed"),
        ("meet2_s7", "completed"),
        ("crash_s7", "failed"),
        ("slow_s7", "completed"),
    ]
    assert {json.loads((tmp_path / f"meet{number}.json").read_text())["gpu"] for number in (1, 2)} == {0, 1}
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "[1/4] meet1_s7 starts on GPU 0\n" in shown.err
    assert "[3/4] crash_s7 failed, 0.0 min\n" in shown.err
    # What prints nothing itself is heard of.
    lines = [line for line in shown.err.splitlines() if line.startswith("slow_s7: ")]
    assert [line.partition(" rows, ")[0] for line in lines] == [
        "slow_s7: epoch 1: 2 of 10", "slow_s7: epoch 1: 5 of 10"
    ]  # fmt: skip


def test_an_interrupted_slot_stops_the_others(run):
    outcomes = run("interrupted", "endless", "c", gpus=[-1, -1])
    assert [outcome.status for outcome in outcomes] == ["interrupted", "interrupted", "not run"]
    assert run_many.exit_status(outcomes) == 143


@pytest.mark.slow
def test_real_runs_in_turn(repository, data_root, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = repository / "config"
    overrides = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0"]
    asked = [*plans.expand(config, "QIN_tes?", "1-2"), Plan("QIN_MicroLens_1M", None, config)]
    outcomes = run_many.run_many(asked, {"overrides": overrides})
    assert [outcome.status for outcome in outcomes] == ["completed", "completed", "failed"]
    first, second = (Report.read(outcome.report) for outcome in outcomes[:2])
    assert (first.seed, second.seed) == (1, 2)
    assert first.metrics != second.metrics
    assert "recsys.westlake.edu.cn" in outcomes[2].error
    run_many.print_outcomes(outcomes)
    assert f"{first.metrics['test']['AUC']:.4f}" in capfd.readouterr().out
