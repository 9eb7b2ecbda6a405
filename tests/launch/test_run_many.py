"""Names and seeds expand to runs; each runs in a process of its own, and a failure stops none of the others."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from fuxictr_multimodal.cli.experiment import run_expid_main
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch import run_many
from fuxictr_multimodal.launch.run_many import Outcome, Plan, Stop, launch_in_process
from fuxictr_multimodal.training.report import Report
from tests.helpers.run_many_stand_in import stand_in


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "model_config.yaml").write_text("Base: {}\nDIN_x: {}\nQIN_x: {}\nQIN_y: {}\nDIN_y: {}\n")
    return folder


@pytest.mark.parametrize(
    ("expids", "seeds", "names"),
    [
        ("QIN_x", None, ["QIN_x"]),
        ("QIN_*", None, ["QIN_x", "QIN_y"]),
        ("QIN_y, DIN_?,QIN_*", None, ["QIN_y", "DIN_x", "DIN_y", "QIN_x"]),
        ("DIN_x,QIN_x", "3,1-2", ["DIN_x_s3", "DIN_x_s1", "DIN_x_s2", "QIN_x_s3", "QIN_x_s1", "QIN_x_s2"]),
        ("*", None, ["DIN_x", "DIN_y", "QIN_x", "QIN_y"]),
    ],
)
def test_expansion(config, expids, seeds, names):
    assert [plan.name for plan in run_many.expand(config, expids, seeds)] == names


@pytest.mark.parametrize("option", [["--seed", "7"], ["--seeds", "7"]])
def test_one_seed_is_that_of_every_run(config, monkeypatch, option):
    asked = []

    def run(plans, settings, *, gpus):
        asked.extend(plan.name for plan in plans)
        return [Outcome(plan, "completed") for plan in plans]

    monkeypatch.setattr(run_many, "run_many", run)
    with pytest.raises(SystemExit) as ended:
        run_expid_main(["--config", str(config), "--expid", "QIN_*", *option])
    assert ended.value.code == 0
    assert asked == ["QIN_x_s7", "QIN_y_s7"]


def test_a_name_is_of_one_experiment(config, capsys):
    with pytest.raises(SystemExit) as ended:
        run_expid_main(["--config", str(config), "--expid", "QIN_*", "--name", "mine"])
    assert ended.value.code == 2
    assert "--name mine would name the runs of several experiments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expids", "seeds", "message"),
    [
        ("QIN_z", None, "'QIN_z' names nothing in .*Did you mean 'QIN_y'"),
        ("TWIN_*", None, "names nothing"),
        ("Base", None, "names nothing"),
        (" , ", None, "empty"),
        ("QIN_x", "1,two", "'two' is no seed; write 1,2,3 or 1-3"),
        ("QIN_x", "3-1", "'3-1' is no seed"),
        ("QIN_x", "-1", "'-1' is no seed"),
    ],
)
def test_what_names_nothing_is_refused(config, expids, seeds, message):
    with pytest.raises(ConfigError, match=message):
        run_many.expand(config, expids, seeds)


def test_failures_stop_nothing_and_an_interrupt_stops_the_rest(capsys):
    ends = {"a": "completed", "b": "failed", "c": "completed", "d": "interrupted"}
    asked = []

    def launch(plan, arguments):
        asked.append((plan.name, arguments["gpu"]))
        return Outcome(plan, ends[plan.expid], error=f"why {plan.expid}")

    outcomes = run_many.run_many([Plan(name) for name in "abcdef"], {"gpu": -1}, launch=launch)
    assert [outcome.status for outcome in outcomes] == [*ends.values(), "not run", "not run"]
    assert asked == [("a", -1), ("b", -1), ("c", -1), ("d", -1)]
    assert run_many.exit_status(outcomes) == 1
    assert run_many.exit_status(outcomes[:1]) == 0
    run_many.print_outcomes(outcomes)
    shown = capsys.readouterr()
    assert "[3/6] c" in shown.err
    assert "2 of 6 runs complete" in shown.out
    assert "b: failed: why b" in shown.out
    assert "a: completed" not in shown.out


def test_no_name_of_a_run_is_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "QIN_test@learning_rate=1e-3+weight_averaging=0.995"
    run_many.print_outcomes([Outcome(Plan(name), "completed")])
    cells = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells) == name


def test_each_run_has_a_process_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(run_many, "PRELOADED", ())
    launch = functools.partial(launch_in_process, run=stand_in)
    names = ["large", "input_error", "crash", "killed", "small"]
    outcomes = run_many.run_many([Plan(name, 7) for name in names], {"directory": tmp_path}, launch=launch)
    assert [outcome.status for outcome in outcomes] == ["completed", "failed", "failed", "failed", "completed"]
    large, data, crash, killed, small = outcomes
    assert data.error == "the data is missing"
    assert crash.error == "ZeroDivisionError: oops"
    assert killed.error == "its process was ended by signal 9 (often the system's out-of-memory killer)"
    first, second = (json.loads(outcome.report.read_text()) for outcome in (large, small))
    assert first["seed"] == second["seed"] == 7
    assert first["process"] != second["process"]
    assert first["peak_mib"] > second["peak_mib"] + 100


def test_slots_share_the_runs_and_keep_their_order(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    both = threading.Barrier(2, timeout=20)
    seen = {}

    def launch(plan, arguments):
        if plan.expid in ("a", "b"):
            both.wait()  # passes only if the two run at the same time
        seen[plan.name] = arguments["gpu"]
        return Outcome(plan, "failed" if plan.expid == "b" else "completed", seconds=6)

    outcomes = run_many.run_many([Plan(name) for name in "abcd"], {"seedless": 1}, gpus=[0, 1], launch=launch)
    assert [(outcome.plan.name, outcome.status) for outcome in outcomes] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "completed"),
        ("d", "completed"),
    ]
    assert {seen["a"], seen["b"]} == {0, 1}
    assert "[3/4] c completed, 0.1 min" in capsys.readouterr().err


def test_an_interrupted_slot_stops_the_others(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    both = threading.Barrier(2, timeout=20)

    def launch(plan, arguments):
        both.wait()
        return Outcome(plan, "interrupted")

    outcomes = run_many.run_many([Plan(name) for name in "abcd"], {}, gpus=[-1, -1], launch=launch)
    assert [outcome.status for outcome in outcomes] == ["interrupted", "interrupted", "not run", "not run"]


@pytest.mark.parametrize("expid", ["endless", "stubborn"])
def test_a_run_that_is_told_to_stop_ends(monkeypatch, tmp_path, expid):
    monkeypatch.setattr(run_many, "PRELOADED", ())
    monkeypatch.setattr(run_many, "INTERRUPT_SECONDS", 20 if expid == "endless" else 0.1)
    stop = Stop()
    arguments = {"directory": tmp_path, "gpu": -1}
    threading.Thread(target=lambda: (started(tmp_path / f"{expid}.started"), stop.end_with(signal.SIGHUP))).start()
    outcome = launch_in_process(Plan(expid, 7), arguments, run=stand_in, stop=stop)
    assert (outcome.status, outcome.report, outcome.signal) == ("interrupted", None, signal.SIGHUP)
    assert outcome.seconds < 20
    assert run_many.exit_status([outcome]) == 129
    assert not alive(started(tmp_path / f"{expid}.started"))
    quiet = {"run": stand_in, "stop": Stop()}
    assert launch_in_process(Plan("small", 7), arguments, **quiet).status == "completed"


def test_a_quiet_run_is_heard_of(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run_many, "PRELOADED", ())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plans = [Plan("slow", 7), Plan("small", 7)]
    outcomes = run_many.run_many(plans, {"directory": tmp_path}, gpus=[-1, -1], run=stand_in)
    assert [outcome.status for outcome in outcomes] == ["completed", "completed"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slow_s7: ")]
    assert [line.partition(" rows, ")[0] for line in lines] == [
        "slow_s7: epoch 1: 2 of 10", "slow_s7: epoch 1: 5 of 10"
    ]  # fmt: skip


def started(path) -> list[int]:
    """Wait for the processes of a stand-in, and return them."""
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(number) for number in path.read_text().split()]


def alive(pids, *, within=5.0) -> list[int]:
    """Those that still run, after they had time to go."""
    deadline = time.monotonic() + within
    while True:
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


PARENT = """
import functools, sys
from pathlib import Path
from fuxictr_multimodal.launch import run_many
from fuxictr_multimodal.system.command import command
from tests.helpers.run_many_stand_in import stand_in
if __name__ == "__main__":
    run_many.PRELOADED = ()
    launch = functools.partial(run_many.launch_in_process, run=stand_in)
    with command():
        plans = [run_many.Plan("endless", 7), run_many.Plan("small", 7)]
        outcomes = run_many.run_many(plans, {"directory": Path(sys.argv[1])}, launch=launch)
        run_many.print_outcomes(outcomes)
        raise SystemExit(run_many.exit_status(outcomes))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130), ("SIGKILL", -9)])
def test_no_run_outlives_its_parent(repository, tmp_path, name, status):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    # The whole group gets the signal, as from a terminal or a batch system.
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": str(repository)}, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = started(tmp_path / "endless.started")
    os.killpg(process.pid, signal.Signals[name])
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert alive(pids) == []
    if name != "SIGKILL":
        assert "0 of 2 runs complete" in said
        assert f"endless_s7: interrupted: interrupted by {name}" in said
        assert "small_s7: not run" in said


@pytest.mark.slow
def test_real_runs_in_turn(repository, data_root, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config = repository / "config"
    overrides = [f"data_root={data_root}", f"model_root={tmp_path / 'checkpoints'}", "verbose=0"]
    plans = [*run_many.expand(config, "QIN_tes?", "1-2"), Plan("QIN_MicroLens_1M", None, config)]
    outcomes = run_many.run_many(plans, {"overrides": overrides})
    assert [outcome.status for outcome in outcomes] == ["completed", "completed", "failed"]
    first, second = (Report.read(outcome.report) for outcome in outcomes[:2])
    assert (first.seed, second.seed) == (1, 2)
    assert first.metrics != second.metrics
    assert "recsys.westlake.edu.cn" in outcomes[2].error
    run_many.print_outcomes(outcomes)
    assert f"{first.metrics['test']['AUC']:.4f}" in capfd.readouterr().out
