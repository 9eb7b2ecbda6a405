"""Jobs on the slots of a Ray cluster end as on those of one machine; a lost worker costs time, no trial."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
import time
from pathlib import Path

import filelock
import psutil
import pytest

from fuxictr_multimodal.cli.tuner import run_param_tuner_main
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.launch import cluster as cluster_module
from fuxictr_multimodal.launch import ray_pool
from fuxictr_multimodal.launch.cluster import Cluster, slots_of
from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.launch.ray_pool import RayPool
from fuxictr_multimodal.launch.shared_paths import differences, marked, seen_here
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.grid import Grid
from fuxictr_multimodal.launch.tuning.outcome import is_by_machine
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.run import tune
from fuxictr_multimodal.launch.tuning.scheduler import MOST_LOSSES, Scheduler
from fuxictr_multimodal.launch.tuning.sweep import Sweep as Trials
from fuxictr_multimodal.system import ray_cluster
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.training.run_names import RunFiles
from tests.helpers.stand_in_run import stand_in
from tests.helpers.tuner_sweep import FAKE, FAKE_TRIAL, Sweep
from tests.launch.test_pool import alive, started


@pytest.fixture(scope="module")
def ray():
    """A cluster of one machine with two CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "available_cores", lambda: 2)
        patch.setenv("OMP_NUM_THREADS", "1")
        handler = signal.getsignal(signal.SIGTERM)
        with ray_cluster.ray_at(None) as module:
            assert signal.getsignal(signal.SIGTERM) is handler
            yield module


@pytest.fixture
def pool(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with slots_of(Cluster(), files=[], folders=[tmp_path], preload=False, say=print) as made:
        yield made
    assert not list(tmp_path.glob(".seen-*"))


@pytest.fixture
def job(tmp_path):
    """Make a job that ends in the way its name says."""

    def make(name: str) -> Job:
        arguments = {"config_dir": tmp_path, "expid": name, "seed": 7, "directory": tmp_path}
        return Job(name, functools.partial(stand_in, **arguments, gpu=-1), tmp_path / "logs" / f"{name}.log")

    return make


def run_all(pool: Pool | RayPool, *jobs: Job, **options) -> list[Outcome]:
    waiting, outcomes = iter(jobs), {}
    pool.run(lambda gpu: next(waiting, None), outcomes.__setitem__, **options)
    return [outcomes[job] for job in jobs]


def test_jobs_end_as_on_one_machine(pool, job, tmp_path, capfd):
    names = ["meet_a", "meet_b", "input_error", "crash", "exit", "killed"]
    # The first two would fail if they did not run at the same time.
    far = run_all(pool, *map(job, names))
    near = run_all(Pool([-1, -1]), *map(job, names[2:]))
    assert [outcome.status for outcome in far] == ["completed"] * 2 + ["failed"] * 4
    for one, other in zip(far[2:], near, strict=True):
        assert (one.name, one.error, one.exit_code) == (other.name, other.error, other.exit_code)
        assert one.last_lines == other.last_lines != ()
    seen = json.loads(far[0].report.read_text())
    assert (seen["folder"], seen["threads"], seen["gpu"]) == (str(tmp_path), "1", -1)
    assert (tmp_path / "logs/crash.log").read_text().count("ZeroDivisionError: oops") == 2
    assert capfd.readouterr().err == ""


def test_a_signal_reaches_the_jobs(pool, job, tmp_path):
    """One job alone first, then all of them with the command; no process stays behind."""
    told, file = job("endless"), tmp_path / "endless.started"

    def tell(number: int, named: Job | None = None) -> None:
        if file.is_file() and file.read_text():
            (lambda: pool.stop(number, named))() if named else signal.raise_signal(number)

    first, second = run_all(pool, told, job("small"), on_tick=lambda: tell(signal.SIGHUP, told))
    assert (first.status, first.signal, second.status) == ("interrupted", signal.SIGHUP, "completed")
    assert first.error.startswith("interrupted by SIGHUP")
    assert alive(started(file)) == []
    file.unlink()
    ends: list[Outcome] = []
    waiting = iter([job("endless"), job("small"), job("crash")])
    with pytest.raises(Interrupted) as caught, raised_on_signals():
        pool.run(
            lambda gpu: next(waiting, None),
            lambda job, outcome: ends.append(outcome),
            on_tick=lambda: tell(signal.SIGTERM),
        )
    assert caught.value.number == signal.SIGTERM
    assert "interrupted" in [outcome.status for outcome in ends]
    assert alive(started(file)) == []


def test_a_machine_that_sees_something_else_is_named(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(cluster_module, "seen_here", lambda files, folders: {tmp_path / "manifest.json": "other"})
    with (
        pytest.raises(
            InputError, match=r"machine \S+: \S+manifest.json is missing or another file there: all machines must see"
        ),
        slots_of(Cluster(), files=[], folders=[], preload=False, say=print),
    ):
        pass


def test_a_trial_that_no_machine_can_hold_is_refused(ray, tmp_path):
    cluster = Cluster(cpus=64, gpus=0.5)
    with (
        pytest.raises(InputError, match=r"no machine of the cluster has the 64 CPUs and 0.5 GPUs of a trial"),
        slots_of(cluster, files=[], folders=[], preload=False, say=print),
    ):
        pass


def test_room_on_this_machine_is_asked_before_data_is_prepared(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path)
    sweep.write("config/model_config/din.yaml", {"DIN_fake": {**FAKE, "epochs": 3, "epoch_seconds": 0.2}})
    sweep.tuner({"learning_rate": [1.0e-3]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(InputError, match="no machine of the cluster has the 6400 CPUs of a trial"):
        tune(Path("config/tuner/fake_tuner.yaml"), [None], gpus=[-1], cluster=Cluster(cpus=6400), pictures=False)
    assert not sweep.folder.exists()


def test_workers_that_die_as_they_begin_are_one_error(pool, job, monkeypatch):
    def dies(self):
        os._exit(1)

    monkeypatch.setattr(ray_pool.Slot, "ready", dies)
    broken = RayPool(pool._ray, pool._setup, cpus=1, gpus=0, say=print)
    monkeypatch.setattr(ray_pool, "MOST_DEATHS", 1)
    with pytest.raises(InputError, match="1 workers in a row died: The actor is dead because its worker process"):
        run_all(broken, job("small"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_sweep_that_loses_a_worker_is_that_of_one_machine(ray, tmp_path, monkeypatch, capsys):
    sweeps = {}
    for name in ("near", "far"):
        sweeps[name] = Sweep(tmp_path / name)
        sweeps[name].write("config/model_config/din.yaml", {"DIN_fake": {**FAKE, "epochs": 3, "epoch_seconds": 0.2}})
        sweeps[name].tuner({"learning_rate": [1.0e-3, 5.0e-4], "batch_size": [64, 128]})
    far, killed = sweeps["far"], []

    def kill_a_worker() -> bool:
        if not killed and (starts := far.starts()):
            # The trial was forked by a server, which the worker started.
            killed.append(psutil.Process(int(starts[0][1])).parent().parent())
            killed[0].kill()
        return False

    file = Path("config/tuner/fake_tuner.yaml")
    monkeypatch.chdir(tmp_path / "near")
    tune(file, [None], gpus=[-1, -1], script=FAKE_TRIAL, pictures=False)
    monkeypatch.chdir(tmp_path / "far")
    capsys.readouterr()
    tune(file, [None], gpus=[-1], script=FAKE_TRIAL, pictures=False, cluster=Cluster(), is_over=kill_a_worker)
    said = capsys.readouterr().out
    lost = far.starts()[0][0]
    assert "Ray: room for 2 trials, each of 1 CPU, on 1 machine\n" in said
    assert f"lost    {lost} with its worker: it will run again" in said
    assert rows(far.folder) == rows(sweeps["near"].folder)
    expids = [start[0] for start in far.starts()]
    assert sorted(set(expids)) == sorted(start[0] for start in sweeps["near"].starts())
    assert (len(expids), expids.count(lost)) == (5, 2)
    # It resumes what the killed one left.
    assert [start[4:] for start in far.starts() if start[0] == lost] == [[], ["--resume"]]
    assert {start[2] for start in far.starts()} == {"1"}


class Losing:
    """A pool that loses every job."""

    stopped, remote = None, True

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, next_job, on_end, *, on_tick, waits) -> None:
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline
            if (job := next_job(-1)) is not None:
                self.jobs.append(job)
                on_end(job, Outcome(job.name, "lost", error="its worker is gone"))
            elif not waits():
                return


def test_a_trial_that_loses_every_worker_fails_and_counts_as_killed(tmp_path, monkeypatch):
    space = Sweep(tmp_path).tuner({"learning_rate": [1.0e-3]}).space(monkeypatch)
    folder, restart, events = SweepFolder.of(space.path), Restart(space), []
    grid = Grid(space.grid(), restart)
    trials = Trials(space, folder, grid, restart, "grid", FAKE_TRIAL)
    pool, lock = Losing(), RunFiles.of_report(grid.records[0].trial.report).lock
    lock.parent.mkdir(parents=True)
    held = filelock.FileLock(lock)

    def on_change(event, record) -> None:
        events.append(event)
        if events.count("lost") == 1 and event == "lost":
            # A machine that lost its connection only: its process still holds the run.
            held.acquire()
            assert scheduler._next_job(-1) is None
            assert scheduler._waits()
            held.release()

    scheduler = Scheduler([trials], pool, on_change=on_change, on_end=lambda sweep: events.append("over"))
    scheduler.run()
    assert len(pool.jobs) == MOST_LOSSES
    assert [event for event in events if event != "start"] == ["lost"] * (MOST_LOSSES - 1) + ["end", "over"]
    (record,) = grid.records
    assert record.error[0] == f"{MOST_LOSSES} times its worker is gone"
    assert is_by_machine(record)


def test_what_machines_see_is_compared(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "manifest.json").write_text(folder.name)
    assert differences(seen_here([here / "manifest.json", here / "not built yet"], [here])) == []
    with marked([here, here / "made"]) as marks:
        assert len(marks) == 2
        assert differences(marks, written=True) == []
        # As a machine sees it on which these paths are other folders, or none.
        elsewhere = {there / path.name: digest for path, digest in marks.items()}
        assert differences(elsewhere, written=True) == [f"{there} is another folder there"]
        assert differences({tmp_path / "no" / "file": "x", tmp_path / "none": None}) == [
            f"{tmp_path / 'no'} is not there",
            f"{tmp_path / 'none'} is not there",
        ]
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert differences(marks, written=True)[0] == f"{here} cannot be written there"
    assert not list(here.glob("**/.seen-*"))
    moved = {there / path.name: digest for path, digest in seen_here([here / "manifest.json"]).items()}
    assert differences(moved) == [f"{there / 'manifest.json'} is missing or another file there"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--gpu", "0", "--engine", "ray"], "--gpu names slots of this machine"),
        (["--ray-address", "auto"], "--ray-address is for --engine ray"),
        (["--cpus-per-trial", "2"], "--cpus-per-trial is for --engine ray"),
        (["--engine", "ray", "--cpus-per-trial", "0.5"], "--cpus-per-trial 0.5: a trial takes whole CPUs, at least 1"),
        (["--engine", "ray", "--gpus-per-trial", "2"], "--gpus-per-trial 2: a trial trains on one GPU, or a part"),
        (["--engine", "ray", "--gpus-per-trial", "many"], "'many' is not an amount: write 1, 2 or 0.5"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "--ray-address 127.0.0.1:1: Ray cannot be reached there"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, monkeypatch, capsys, words, reason):
    sweep = Sweep(tmp_path).tuner({"learning_rate": [1.0e-3]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_param_tuner_main(["--config", str(sweep.tuner_file), "--script", str(FAKE_TRIAL), *words])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert sweep.starts() == []


def test_a_report_of_another_machine_may_appear_late(tmp_path, monkeypatch):
    space = Sweep(tmp_path).tuner({"learning_rate": [1.0e-3]}).space(monkeypatch)
    restart = Restart(space)
    grid = Grid(space.grid(), restart)
    trials = Trials(space, SweepFolder.of(space.path), grid, restart, "grid", FAKE_TRIAL)
    pool = Losing()
    scheduler = Scheduler([trials], pool, on_change=lambda event, record: None, on_end=lambda sweep: None)
    job = scheduler._next_job(-1)
    seen = iter([None, None, {"metrics": {"valid": {"AUC": 0.75, "logloss": 0.5}}, "curve": []}])
    monkeypatch.setattr(restart, "complete_report", lambda trial: next(seen))
    scheduler._end(job, Outcome(job.name, "completed", exit_code=0))
    assert (grid.records[0].status, grid.records[0].value) == ("completed", 0.75)
