"""A night alone: trials that crash, are killed or out of memory, a killed tuner, and what is there in the morning."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.launch.tuning.run import tune
from tests.helpers.tuner_sweep import FAKE, FAKE_TRIAL, ROOT, Sweep

RATES = [1.0e-3, 5.0e-4, 2.0e-3]


@pytest.fixture
def sweep(tmp_path):
    home = tmp_path / "a folder with spaces"
    home.mkdir()
    return Sweep(home)


def rows(sweep: Sweep) -> dict[str, dict[str, str]]:
    with (sweep.folder / "summary.csv").open(newline="") as file:
        return {row["expid"]: row for row in csv.DictReader(file)}


def of_status(sweep: Sweep, status: str) -> list[dict[str, str]]:
    return [row for row in rows(sweep).values() if row["status"] == status]


def begun(sweep: Sweep) -> set[str]:
    return {path.name.split(".")[0] for path in (sweep.home / "checkpoints").glob("*/*.report.json")}


def completed(sweep: Sweep) -> set[str]:
    paths = (sweep.home / "checkpoints").glob("*/*.report.json")
    return {path.name.split(".")[0] for path in paths if json.loads(path.read_text())["status"] == "completed"}


def test_twelve_trials_on_two_slots_one_crashing_and_one_killed(sweep):
    settings = [{"behaviour": "crash"}, {"behaviour": "kill"}, *({"rate": index} for index in range(10))]
    sweep.tuner({"plan": settings, "dnn_hidden_units": [[16]]})
    done = sweep.run("--gpu", "-1", "-1", pictures=True)
    assert done.returncode == 1
    assert "10 completed, 2 failed" in done.stdout
    assert len(rows(sweep)) == len(sweep.starts()) == 12
    assert not sweep.left_processes()

    crashed, killed = sorted(of_status(sweep, "failed"), key=lambda row: row["exit_code"], reverse=True)
    assert crashed["exit_code"] == "1"
    assert crashed["error"].startswith("exit status 1: RuntimeError: the fake trial crashed as requested\n")
    assert killed["exit_code"] == "-9"
    assert killed["error"].startswith("killed by SIGKILL")

    # Ranked by validation, the best first and as an expid that runs.
    values = [float(row["value"]) for row in of_status(sweep, "completed")]
    assert values == sorted(values, reverse=True)
    best = json.loads((sweep.folder / "summary.json").read_text())["best"]
    assert best["expid"] == of_status(sweep, "completed")[0]["expid"]
    tuned = load_config(sweep.folder / "best", "DIN_fake_tuned")
    assert (tuned["plan"], tuned["tuning_trials"]) == ({"rate": 0}, 12)
    text = (sweep.folder / "summary.md").read_text()
    assert "DIN got 12 trials: 10 completed, 2 failed." in text
    assert "killed by SIGKILL" in text
    assert {"slices.png", "slices.svg"} <= {path.name for path in sweep.folder.iterdir()}


def test_sweeps_of_several_models_share_the_slots(sweep):
    """No slot waits for the last trial of the model before, and one model that fails stops no other."""
    models = {"A": {"epoch_seconds": 0.5}, "B": {"behaviour": "crash"}, "C": {}}
    sweep.write("config/model_config/din.yaml", {f"DIN_{name}": {**FAKE, **own} for name, own in models.items()})
    sweep.tuner({"learning_rate": [1.0e-3], "epochs": [2]})
    done = sweep.run("--expid", "DIN_A, DIN_B,DIN_C", "--gpu", "-1", "-1")
    assert done.returncode == 1
    events = [line.split() for line in done.stdout.splitlines()]
    events = [(words[0], words[1][:5]) for words in events if words[0] in ("start", "completed", "failed")]
    assert events[:2] == [("start", "DIN_A"), ("start", "DIN_B")]
    assert sorted(events[2:]) == [
        ("completed", "DIN_A"),
        ("completed", "DIN_C"),
        ("failed", "DIN_B"),
        ("start", "DIN_C"),
    ]
    for name, trials in (("A", "1 completed"), ("B", "1 failed"), ("C", "1 completed")):
        summary = sweep.folder.with_name(f"fake_tuner_DIN_{name}") / "summary.md"
        assert f"{trials}; summary in {summary.relative_to(sweep.home)}" in done.stdout
        assert summary.is_file()


def test_a_fault_of_the_last_model_is_reported_before_the_first_trial(sweep):
    sweep.write("config/model_config/din.yaml", {"DIN_A": FAKE})
    done = sweep.tuner({"learning_rate": RATES}).run("--expid", "DIN_A,DIN_a")
    assert done.returncode == 2
    assert "Did you mean 'DIN_A'" in done.stderr
    assert sweep.starts() == []


def test_a_killed_tuner_leaves_no_orphan_and_resumes_where_it_was(sweep):
    sweep.tuner({"learning_rate": RATES, "batch_size": [64, 128], "epoch_seconds": 0.4, "behaviour": "helper"})
    tuner = sweep.start("--gpu", "-1", "-1")
    sweep.kill_when(tuner, lambda: len(completed(sweep)) >= 2 and begun(sweep) > completed(sweep))
    assert sweep.left_processes() == []
    finished = completed(sweep)
    before = {path: path.stat().st_mtime_ns for path in (sweep.home / "checkpoints/d").iterdir()}
    first = [start[0] for start in sweep.starts()]
    # A process that was killed before it wrote its report has begun nothing.
    interrupted = begun(sweep) - finished
    assert interrupted
    assert len(first) < 6

    done = sweep.run("--gpu", "-1", "-1")
    assert done.returncode == 0
    assert f"{len(finished)} trials are already finished" in done.stdout
    again = {start[0]: start[4:] for start in sweep.starts()[len(first) :]}
    assert set(again).isdisjoint(finished)
    assert set(again) | finished == completed(sweep) == set(rows(sweep))
    assert len(completed(sweep)) == 6
    # A killed run resumes from its state; one that had not begun starts over.
    assert all(options == (["--resume"] if expid in interrupted else []) for expid, options in again.items())
    for path, stamp in before.items():
        if path.name.split(".")[0] in finished:
            assert path.stat().st_mtime_ns == stamp

    done = sweep.run("--gpu", "-1", "-1")
    assert "6 trials are already finished" in done.stdout
    assert len(sweep.starts()) == len(first) + len(again)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_trials_and_writes_the_summary(sweep, number, status):
    sweep.tuner({"learning_rate": RATES, "epoch_seconds": 30.0})
    tuner = sweep.start()
    sweep.kill_when(tuner, lambda: list(sweep.home.glob("checkpoints/d/*.report.json")), number)
    assert tuner.returncode == status
    assert sweep.left_processes() == []
    assert len(of_status(sweep, "queued")) == 3
    # The trial had time to say so.
    (report,) = (sweep.home / "checkpoints/d").glob("*.report.json")
    assert json.loads(report.read_text())["status"] == "interrupted"


def test_a_killed_trial_leaves_no_helper(sweep):
    sweep.tuner({"learning_rate": [1.0e-3], "epoch_seconds": 30.0, "behaviour": "helper"})
    tuner = sweep.start()
    deadline = time.monotonic() + 30
    while not sweep.starts() and time.monotonic() < deadline:
        time.sleep(0.02)
    trial = int(sweep.starts()[0][1])
    os.kill(os.getpgid(trial), signal.SIGKILL)
    tuner.communicate(timeout=30)
    assert tuner.returncode == 1
    assert sweep.left_processes() == []
    assert of_status(sweep, "failed")[0]["exit_code"] == "-9"


def test_out_of_memory_is_retried_once_with_half_the_batch(sweep):
    space = {"behaviour": "oom", "batch_size": [64, 256], "fits": 128}
    assert sweep.tuner(space).run().returncode == 1
    assert len(of_status(sweep, "failed")) == 1
    assert "out of memory" in of_status(sweep, "failed")[0]["error"]

    # Asked for now: what is known to be out of memory starts with its smaller variant.
    done = sweep.run("--retry-oom")
    assert done.returncode == 0, done.stdout
    assert len(sweep.starts()) == 3
    (retried,) = [row for row in rows(sweep).values() if row["ran_as"]]
    params = load_config(sweep.folder, retried["ran_as"])
    assert (params["batch_size"], params["accumulation_steps"]) == (128, 2)
    assert retried["status"] == "completed"
    assert sweep.run("--retry-oom").returncode == 0
    assert len(sweep.starts()) == 3

    # In one go, and only once: 512 does not fit, nor does its half.
    done = sweep.tuner({**space, "batch_size": [256, 512]}).run("--retry-oom", "--gpu", "-1", "-1")
    assert done.returncode == 1
    assert "retry" in done.stdout
    assert len(sweep.starts()) == 5
    assert len(of_status(sweep, "failed")) == 1


def test_an_exit_without_a_report_is_a_failure(sweep):
    assert sweep.tuner({"behaviour": ["silent"]}).run().returncode == 1
    assert of_status(sweep, "failed")[0]["error"].startswith("exit status 0: it printed nothing")


def test_slots_tag_and_threads(sweep, monkeypatch):
    sweep.tuner({"learning_rate": RATES})
    monkeypatch.chdir(sweep.home)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # The command refuses a GPU that is not there; the fake trials need none.
    tune(Path("config/tuner/fake_tuner.yaml"), [None], gpus=[0, 1], script=ROOT / "tests/helpers/fake_trial.py")
    starts = sweep.starts()
    assert {gpu for _, _, _, gpu in starts} == {"0", "1"}
    cores = len(os.sched_getaffinity(0))
    assert {int(threads) for _, _, threads, _ in starts} == {max(1, cores // 2)}

    expid = starts[0][0]
    for path in (sweep.home / "checkpoints/d").iterdir():
        path.unlink()
    sweep.run("--tag", expid[-6:])
    assert [start[0] for start in sweep.starts()[3:]] == [expid]
    assert [row["status"] for row in rows(sweep).values()] == ["completed", "queued", "queued"]


def test_a_second_tuner_is_refused(sweep):
    sweep.tuner({"learning_rate": [1.0e-3], "epoch_seconds": 30.0})
    first = sweep.start()
    sweep.kill_when(first, lambda: sweep.starts() and sweep.run().returncode == 2, signal.SIGTERM)
    assert len(sweep.starts()) == 1


def test_time_is_up(sweep):
    # The time counts from the start, and on a busy machine a first trial may take a second to begin.
    done = sweep.tuner({"learning_rate": RATES, "epoch_seconds": 2.0}).run("--time", "3s")
    assert done.returncode == 0
    assert 1 <= len(sweep.starts()) < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "tuner file nowhere.yaml does not exist"),
        (["--script", "nowhere.py"], "script nowhere.py does not exist"),
        (["--trials", "3"], "--trials needs --search"),
        (["--search", "tpe"], "--search tpe has no end: give --trials or --time"),
        (["--time", "two hours"], "is not a duration"),
        (["--tag", "zzz"], "--tag zzz: no trial's expid contains it"),
    ],
)
def test_bad_input_is_one_line_and_status_2(sweep, arguments, message):
    done = sweep.tuner({"learning_rate": RATES}).run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_comes_without_the_heavy_imports():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "run_param_tuner.py", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "fuxictr", "numpy", "optuna", "rich", "yaml"} & loaded


@pytest.mark.slow
def test_the_real_runner(tmp_path, data_root):
    sweep = Sweep(tmp_path)
    space = {"max_len": [16, 64], "data_root": str(data_root), "epochs": 1}
    sweep.tuner(space, base_config=str(ROOT / "config"), base_expid="QIN_test")
    done = sweep.run("--gpu", "-1", "-1", script=ROOT / "run_expid.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready: model QIN, dataset Synthetic_test" in done.stdout
    assert len(of_status(sweep, "completed")) == 2
    best = of_status(sweep, "completed")[0]
    assert float(best["valid_AUC"]) == pytest.approx(float(best["value"]))
    assert len((tmp_path / "fake_tuner.csv").read_text().splitlines()) == 2
    assert sweep.run(script=ROOT / "run_expid.py").returncode == 0
    assert len((tmp_path / "fake_tuner.csv").read_text().splitlines()) == 2

    # A key that no model reads stops the night before it begins.
    sweep.tuner({**space, "net_dropuot": [0.1]}, base_config=str(ROOT / "config"), base_expid="QIN_test")
    done = sweep.run(script=ROOT / "run_expid.py")
    assert done.returncode == 2
    assert "unknown key 'net_dropuot'. Did you mean 'net_dropout'?" in done.stderr
    assert "no trial of config/tuner/fake_tuner.yaml was started" in done.stderr


def test_models_may_take_turns_as_long_as_they_are_given_one(sweep, monkeypatch):
    """One trial of each model, then the next of each; a model that gets no turn draws no more."""
    models = ("A", "B", "C")
    sweep.write("config/model_config/din.yaml", {f"DIN_{name}": FAKE for name in models})
    sweep.tuner({"learning_rate": [1.0e-3, 5.0e-4, 2.0e-3]})
    monkeypatch.chdir(sweep.home)
    asked = []

    def turns(sweeps, turn):
        assert [other.space.base_expid for other in sweeps] == [f"DIN_{name}" for name in models]
        name = turn.space.base_expid[-1]
        asked.append(name)
        return not (name == "B" and asked.count("B") > 2)

    records = tune(
        sweep.tuner_file.relative_to(sweep.home),
        [f"DIN_{name}" for name in models],
        gpus=[-1],
        script=FAKE_TRIAL,
        turns=turns,
        pictures=False,
    )
    assert [start[0][4] for start in sweep.starts()] == list("ABCABCAC")
    assert [[record.status for record in of_model].count("completed") for of_model in records] == [3, 2, 3]
    assert records[1][2].status == "queued"
    summary = sweep.folder.with_name("fake_tuner_DIN_A")
    assert not list(summary.glob("*.png"))
    assert "Method: none: not asked for." in (summary / "summary.md").read_text()


def test_when_the_time_is_over_trials_are_interrupted_and_queued_again(sweep, monkeypatch):
    sweep.write("config/model_config/din.yaml", {"DIN_fake": {**FAKE, "epochs": 50, "epoch_seconds": 0.1}})
    sweep.tuner({"learning_rate": [1.0e-3, 5.0e-4]})
    monkeypatch.chdir(sweep.home)
    file = sweep.tuner_file.relative_to(sweep.home)
    reports = Path("checkpoints/d")
    (records,) = tune(file, [None], gpus=[-1], script=FAKE_TRIAL, is_over=lambda: any(reports.glob("*.report.json")))
    assert [record.status for record in records] == ["queued", "queued"]
    (report,) = reports.glob("*.report.json")
    assert json.loads(report.read_text())["status"] == "interrupted"
    assert len(sweep.starts()) == 1
    # The next tuner resumes it.
    sweep.write("config/model_config/din.yaml", {"DIN_fake": {**FAKE, "epochs": 50}})
    assert sweep.run().returncode == 0
