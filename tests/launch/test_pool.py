"""Jobs have their own processes, which end on request, or when their parent is gone."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fuxictr_multimodal.launch import pool as pool_module
from fuxictr_multimodal.launch.job import Job, Outcome, run_script
from fuxictr_multimodal.launch.pool import Pool
from tests.helpers.stand_in_run import stand_in


@pytest.fixture
def job(tmp_path):
    """Make a job that ends in the way its name says."""

    def make(name: str, *, log=None) -> Job:
        arguments = {"config_dir": tmp_path, "expid": name, "seed": 7, "gpu": -1, "directory": tmp_path}
        return Job(name, functools.partial(stand_in, **arguments), log)

    return make


def run_all(pool: Pool, *jobs: Job, **options) -> list[Outcome]:
    waiting, outcomes = iter(jobs), {}
    pool.run(lambda gpu: next(waiting, None), outcomes.__setitem__, **options)
    return [outcomes[job] for job in jobs]


def test_each_job_has_a_process_of_its_own(job):
    names = ["large", "input_error", "crash", "exit", "killed", "small"]
    outcomes = run_all(Pool([-1]), *map(job, names))
    assert [(outcome.name, outcome.status, outcome.exit_code) for outcome in outcomes] == [
        ("large", "completed", 0),
        ("input_error", "failed", 2),
        ("crash", "failed", 1),
        ("exit", "failed", 3),
        ("killed", "failed", -9),
        ("small", "completed", 0),
    ]
    large, data, crash, ended, killed, small = outcomes
    assert data.error == "the data is missing"
    assert crash.error == "ZeroDivisionError: oops"
    assert ended.error == "exit status 3"
    assert killed.error == "killed by SIGKILL (often the system's out-of-memory killer)"
    first, second = (json.loads(outcome.report.read_text()) for outcome in (large, small))
    assert first["seed"] == second["seed"] == 7
    assert first["process"] != second["process"]
    assert first["peak_mib"] > second["peak_mib"] + 100


def test_a_job_works_where_and_with_what_its_starter_does(job, tmp_path, monkeypatch):
    """The server that forks it was started elsewhere, with another environment."""
    run_all(Pool([-1]), job("first"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_all(Pool([-1]), job("second"))
    seen = json.loads((tmp_path / "second.json").read_text())
    assert (seen["folder"], seen["threads"]) == (str(tmp_path), "7")


def test_the_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr(pool_module, "available_cores", lambda: 6)
    for given, gpus, threads in ((None, [-1], None), (None, [0, 1], "3"), ("2", [0, 1], "2"), (None, [-1] * 9, "1")):
        monkeypatch.setenv("OMP_NUM_THREADS", given or "")
        if given is None:
            del os.environ["OMP_NUM_THREADS"]
        Pool(gpus)
        assert os.environ.get("OMP_NUM_THREADS") == threads


def test_logs_are_appended_and_the_last_lines_say_why(job, tmp_path, capfd):
    log = tmp_path / "logs" / "crash.log"
    crash, small = run_all(Pool([-1]), job("crash", log=log), job("small", log=tmp_path / "logs" / "small.log"))
    (again,) = run_all(Pool([-1]), job("crash", log=log))
    assert crash.last_lines[-1] == again.last_lines[-1] == "ZeroDivisionError: oops"
    assert log.read_text().count("crash speaks\n") == 2
    assert small.last_lines == ()
    (silent,) = run_all(Pool([-1]), job("killed", log=log))
    assert silent.last_lines == ("killed speaks",)
    assert capfd.readouterr() == ("", "")


def test_a_script_runs_as_python_runs_it(tmp_path):
    script = tmp_path / "a folder" / "script.py"
    script.parent.mkdir()
    script.with_name("neighbour.py").write_text("WORD = 'ünder'\n")
    script.write_text(
        "import sys\nfrom neighbour import WORD\n"
        "if __name__ == '__main__':\n    print(sys.argv[1:], WORD)\n    sys.exit('no more' if sys.argv[2:] else None)\n"
    )
    log = tmp_path / "script.log"
    jobs = [Job("script", functools.partial(run_script, script, words), log) for words in (["a"], ["a", "b"])]
    first, second = run_all(Pool([-1]), *jobs)
    assert (first.status, second.status, second.exit_code) == ("completed", "failed", 1)
    assert log.read_text(encoding="utf-8").splitlines() == ["['a'] ünder", "['a', 'b'] ünder", "no more"]


@pytest.mark.parametrize("name", ["endless", "stubborn"])
def test_a_job_that_gets_a_signal_ends(job, tmp_path, monkeypatch, name):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(pool_module, "INTERRUPT_SECONDS", 20 if name == "endless" else 0.1)
    pool, file = Pool([-1, -1]), tmp_path / f"{name}.started"
    told, small = job(name), job("small")

    def tell():
        if file.is_file() and file.read_text():
            pool.stop(signal.SIGHUP, told)

    first, second = run_all(pool, told, small, on_tick=tell)
    assert (first.status, first.report, first.signal) == ("interrupted", None, signal.SIGHUP)
    assert first.error.startswith("interrupted by SIGHUP")
    assert first.seconds < 20
    assert alive(started(file)) == []
    # Only this job got the signal.
    assert second.status == "completed"
    assert pool.stopped is None


def test_an_error_of_the_starter_leaves_no_process(job, tmp_path):
    file, ends = tmp_path / "endless.started", []

    def fail():
        if file.is_file() and file.read_text():
            raise ZeroDivisionError

    waiting = iter([job("endless"), job("small")])
    with pytest.raises(ZeroDivisionError):
        Pool([-1]).run(lambda gpu: next(waiting, None), lambda job, outcome: ends.append(outcome.status), on_tick=fail)
    assert alive(started(file)) == []
    assert ends == ["interrupted"]


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
import sys
from pathlib import Path
from fuxictr_multimodal.launch import pool, run_many
from fuxictr_multimodal.launch.plans import Plan
from fuxictr_multimodal.system.command import command
from tests.helpers.stand_in_run import stand_in
if __name__ == "__main__":
    pool.PRELOADED = ()
    with command():
        plans = [Plan("endless", 7), Plan("small", 7)]
        outcomes = run_many.run_many(plans, {"directory": Path(sys.argv[1])}, run=stand_in)
        run_many.print_outcomes(outcomes)
        raise SystemExit(run_many.exit_status(outcomes))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130), ("SIGKILL", -9)])
def test_no_job_outlives_its_starter(repository, tmp_path, name, status):
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
        # The only slot's run prints to the terminal.
        assert "endless speaks" in said
        assert "0 of 2 runs complete" in said
        assert f"endless_s7: interrupted: interrupted by {name}" in said
        assert "small_s7: not run" in said
