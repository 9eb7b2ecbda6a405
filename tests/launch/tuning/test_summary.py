"""What a sweep says: live table and lines, selection by validation, importance, pictures."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fuxictr_multimodal.config.identity import trial_hash
from fuxictr_multimodal.launch.job import exit_text
from fuxictr_multimodal.launch.tuning.board import Board
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record, best_record, is_out_of_memory, monitored
from fuxictr_multimodal.launch.tuning.pictures import insight
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.summary import command_line, write_summary
from tests.helpers.tuner_sweep import Sweep

SPACE = {"learning_rate": [1.0e-3, 2.0e-3, 3.0e-3], "batch_size": [32, 64], "dnn_hidden_units": [[8], [8, 4]]}


@pytest.fixture
def space(tmp_path, monkeypatch):
    return Sweep(tmp_path).tuner(SPACE).space(monkeypatch)


@pytest.fixture
def records(space):
    """A grid whose value depends on the learning rate alone, but for a little of the batch."""
    made = [Record.of(trial) for trial in space.grid()]
    for record in made:
        settings = record.trial.settings
        record.status = "completed"
        record.value = 0.9 - 100 * settings["learning_rate"] + 1e-4 * settings["batch_size"]
        record.metrics = {"AUC": record.value}
    return made


def test_importance_finds_the_parameter_that_matters(space, records, tmp_path):
    found = insight(tmp_path, records, space.axes, value="valid AUC")
    assert next(iter(found.fractions)) == "learning_rate"
    assert found.fractions["learning_rate"] > 0.9
    assert found.fractions["dnn_hidden_units"] < 0.05
    assert sum(found.fractions.values()) == pytest.approx(1)
    assert "fANOVA" in found.method


def test_no_importance_of_too_little(space, records, tmp_path):
    few = insight(tmp_path, records[:3], space.axes, value="valid AUC")
    assert few.fractions == {}
    assert "fewer than 4" in few.method
    assert "importance" not in {file.stem for file in few.pictures}
    for record in records:
        record.value = 0.5
    assert "same value" in insight(tmp_path, records, space.axes, value="valid AUC").method
    assert insight(tmp_path, [], space.axes, value="").pictures == []


def test_without_optuna_a_line_names_the_extra(space, records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    folder = SweepFolder(tmp_path)
    write_summary(folder, space, records, search="grid", script=Path("run_expid.py"))
    text = (tmp_path / "summary.md").read_text()
    assert "pip install 'fuxictr-multimodal[tuner]'" in text
    assert "![" not in text
    assert json.loads((tmp_path / "summary.json").read_text())["importance"]["shares"] == {}


def test_the_best_is_the_best_on_validation_in_the_monitors_direction(records):
    assert best_record(records).value == max(record.value for record in records)
    for record in records:
        record.trial.params["monitor_mode"] = "min"
    assert best_record(records).value == min(record.value for record in records)
    assert best_record([]) is None


def test_test_metrics_do_not_select(records):
    report = {"metrics": {"valid": {"AUC": 0.7}, "test": {"AUC": 0.9}}}
    assert monitored(report, records[0].trial.params) is None  # logloss is monitored too, with weight 0
    assert monitored(report, {"monitor": "AUC"}) == 0.7
    assert monitored({"metrics": {"test": {"AUC": 0.9}}}, {"monitor": "AUC"}) is None
    assert monitored({"metrics": {"valid": {"AUC": float("nan")}}}, {"monitor": "AUC"}) is None


def test_a_report_of_another_configuration_or_build_of_the_data_is_not_finished(space, records, monkeypatch):
    trial = records[0].trial
    restart = Restart(space)
    report = {"status": "completed", "config_hash": trial.config_hash, "manifest_hash": "abc"}
    trial.report.parent.mkdir(parents=True)
    assert restart.options(trial) == []
    for change, dataset, finished, options in (
        ({}, "abc", True, ["--overwrite"]),
        ({}, None, True, ["--overwrite"]),
        ({}, "another", False, ["--overwrite"]),
        ({"config_hash": "another"}, "abc", False, ["--overwrite"]),
        ({"status": "running"}, "abc", False, ["--resume"]),
        ({"status": "failed"}, None, False, ["--resume"]),
        # Its state is of other settings, or of other rows.
        ({"status": "running", "config_hash": "another"}, "abc", False, ["--overwrite"]),
        ({"status": "running"}, "another", False, ["--overwrite"]),
    ):
        trial.report.write_text(json.dumps({**report, **change}))
        monkeypatch.setattr("fuxictr_multimodal.launch.tuning.outcome.dataset_hash", lambda trial, known=dataset: known)
        restart = Restart(space)
        assert (restart.complete_report(trial) is not None) == finished
        assert restart.options(trial) == options
    # A report of an earlier version: its hash covers the names of the dataset's files, which nobody reads.
    before = {**trial.params, "data_format": "h5", "train_data": "elsewhere/train.h5"}
    for config, finished in ((before, True), ({**before, "seed": 99}, False)):
        trial.report.write_text(
            json.dumps({**report, "manifest_hash": "", "config_hash": trial_hash(before), "config": config})
        )
        assert (Restart(space).complete_report(trial) is not None) == finished
    trial.report.write_text("half a rep")
    assert restart.complete_report(trial) is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", True),
        ("MemoryError", True),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 TiB", True),
        (exit_text(-9), False),
        ("RuntimeError: shapes differ", False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_failures(records, line, expected):
    record = records[0]
    record.fail(None, 1, ["something", line])
    assert is_out_of_memory(record) == expected


def test_lines_where_there_is_no_terminal(space, records):
    console = Console(file=io.StringIO(), width=80)
    records[0].reused = True
    records[1].status, records[1].error = "failed", ["exit status 1: [bold] broke"]
    with Board(records=lambda: records, open_trials=lambda: 3, varied=space.varied, console=console) as board:
        board.on_change("start", records[0])
        board.on_change("tick", None)
        board.on_change("end", records[1])
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "1 trials are already finished and are not run again"
    assert lines[1].startswith(f"start   {records[0].trial.expid}  learning_rate=0.001 batch_size=32")
    assert "exit status 1: [bold] broke" in lines[2]
    assert "11 completed, 1 failed, 3 queued, best" in lines[2]
    assert "left]" in lines[2]


def test_live_table_on_a_terminal(space, records):
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    records[0].status, records[0].value, records[0].curve = "running", None, [0.5, 0.625]
    records[1].status, records[1].error = "failed", ["exit status 1: [/] broke"]
    with Board(records=lambda: records, open_trials=lambda: 0, varied=space.varied, console=console) as board:
        board.on_change("tick", None)
    text = console.file.getvalue()
    assert "0.62500" in text
    assert "(best)" in text
    assert "exit status 1: [/] broke" in text


def test_the_summary_keeps_its_cells_whatever_settings_and_errors_hold(tmp_path, monkeypatch):
    odd = "a|b `c` <d> *e*\nf"
    space = Sweep(tmp_path).tuner({"batch_size": [32, 64], "behaviour": [odd, "ok"]}).space(monkeypatch)
    records = [Record.of(trial) for trial in space.grid()]
    for number, record in enumerate(records):
        record.status, record.value, record.metrics = "completed", 0.5 + number / 10, {"AUC": 0.5 + number / 10}
    for record in records[1:3]:
        record.status, record.error = "failed", [f"exit status 1: {odd}", odd, "\x1b[31mred"]
    monkeypatch.setattr(sys, "argv", ["run_param_tuner.py", "--tag", "`x`\n# no heading"])
    folder = SweepFolder(space.path.with_suffix(""))
    folder.path.mkdir()
    write_summary(folder, space, records, search="grid", script=Path("run_expid.py"))
    text = (folder.path / "summary.md").read_text(encoding="utf-8")
    trials = [line for line in text.splitlines() if line.startswith(("| trial", "| DIN_fake"))]
    assert len(trials) == 1 + len(records)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in trials} == {4 + 2 + 1}
    assert "<d>" not in text.replace("    ", "").split("Failed")[0]
    assert "\x1b" not in text
    assert "\n# no heading" not in text
    with (folder.path / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["expid"]: row for row in csv.DictReader(file)}
    assert rows[records[0].trial.expid]["behaviour"] == odd
    assert rows[records[1].trial.expid]["error"] == f"exit status 1: {odd}\n{odd}\n\\x1b[31mred"
    header = (folder.path / "best/model_config.yaml").read_text(encoding="utf-8").splitlines()[:3]
    assert all(line.startswith("# ") for line in header)


def test_pictures_of_a_grid_and_of_odd_values(space, records, tmp_path):
    (tmp_path / "again").mkdir()
    found = insight(tmp_path, records, space.axes, value="valid AUC")
    names = [f"{name}.{kind}" for name in ("slices", "history", "parallel", "importance") for kind in ("png", "svg")]
    assert [file.name for file in found.pictures] == names
    again = insight(tmp_path / "again", records, space.axes, value="valid AUC")
    assert [file.read_bytes() for file in found.pictures] == [file.read_bytes() for file in again.pictures]
    odd = {"behaviour": ["$\\frac{$", "$_$", None]}
    for number, record in enumerate(records):
        record.trial.settings["behaviour"] = odd["behaviour"][number % 3]
    assert len(insight(tmp_path, records, odd, value="valid $_$").pictures) == len(names)


def test_the_summary_holds_no_password(space, records, tmp_path, monkeypatch):
    url = "postgresql://ann:s3cret@db/optuna"
    monkeypatch.setattr(sys, "argv", ["run_param_tuner.py", "--storage", url, f"--storage={url}?password=s3cret"])
    write_summary(SweepFolder(tmp_path), space, records, search="tpe", script=Path("run_expid.py"))
    for path in tmp_path.rglob("*.*"):
        if path.suffix in (".md", ".json", ".csv", ".yaml"):
            assert "s3cret" not in path.read_text()
    assert "postgresql://ann:***@db/optuna" in (tmp_path / "summary.md").read_text()


def test_the_command_can_be_typed(monkeypatch):
    for program, typed in (
        ("/opt/bin/fxmm", "fxmm tune --trials 2"),
        ("./run_x.py", "python run_x.py tune --trials 2"),
    ):
        monkeypatch.setattr(sys, "argv", [program, "tune", "--trials", "2"])
        assert command_line() == typed
