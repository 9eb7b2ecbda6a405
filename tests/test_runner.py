"""One expid from YAML to report: results, repeatability, resume, and what happens on failure."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics import auc
from fuxictr_multimodal.report import Report
from fuxictr_multimodal.store import SplitReader
from fuxictr_multimodal.trainer import Trainer, TrainingDiverged


def losses(report: Report) -> list[float]:
    return [row["train_loss"] for row in report.curve]


def test_report_files_and_result_line(run_qin, tmp_path, data_root):
    report, path = run_qin("epochs=2", seed=3)
    assert path == tmp_path / "checkpoints/Synthetic_test/QIN_test_s3.report.json"
    assert Report.read(path) == report
    assert (report.status, report.error, report.seed, report.expid) == ("completed", None, 3, "QIN_test_s3")
    assert set(report.metrics["test"]) == {"AUC", "gAUC", "logloss"}
    assert len(report.curve) == 2
    reached = [row["metrics"]["AUC"] for row in report.curve]
    assert report.best_epoch == 1 + reached.index(max(reached))
    assert report.metrics["valid"]["AUC"] == pytest.approx(max(reached))
    assert report.parameters["total"] > report.parameters["embedding"] > 0
    assert report.rows_per_s["train"] > 0
    assert report.rows_per_s["score"] > 0
    assert report.peak_memory_mib["host"] > 100
    assert report.config["learning_rate"] == 2e-3
    assert report.dataset_facts["bayes_auc"]["test"] > 0.8
    assert path.with_name("QIN_test_s3.model").is_file()
    assert not path.with_name("QIN_test_s3.state").exists()

    line = (tmp_path / "config.csv").read_text()
    assert re.fullmatch(
        r" \d{8}-\d{6},\[command\] python .*,\[exp_id\] QIN_test_s3,\[dataset_id\] Synthetic_test,\[train\] N\.A\.,"
        r"\[val\] AUC: [\d.]+ - gAUC: [\d.]+ - logloss: [\d.]+,\[test\] AUC: .*\n",
        line,
    )
    log = path.with_name("QIN_test_s3.log").read_text()
    for text in (
        "Start training: 16 batches/epoch",
        "Epoch=1 start",
        "[Metrics] AUC:",
        "Save best model: monitor(max)",
    ):
        assert text in log

    kept = np.load(path.with_name("QIN_test_s3.predictions.npz"))
    with SplitReader(data_root / "Synthetic_test/test.h5") as split:
        labels = split.read("label", 0, split.rows)
    assert auc(labels, kept["test_scores"]) == pytest.approx(report.metrics["test"]["AUC"])


def test_one_seed_gives_one_loss_trace(run_qin):
    first, _ = run_qin("epochs=2", seed=1)
    again, _ = run_qin("epochs=2", seed=1, overwrite=True)
    another, _ = run_qin("epochs=2", seed=2)
    assert losses(first) == losses(again)
    assert first.metrics == again.metrics
    assert losses(first) != losses(another)


def test_a_run_from_disk_has_the_trace_of_one_from_memory(run_qin, monkeypatch):
    modes = []

    def run_as(mode):
        monkeypatch.setattr("fuxictr_multimodal.loader._choose_mode", lambda path: modes.append(mode) or mode)
        return run_qin("epochs=2", seed=1, overwrite=True)[0]

    resident, streamed = run_as("resident"), run_as("streaming")
    assert modes == ["resident"] * 3 + ["streaming"] * 3  # train, valid and test
    assert losses(streamed) == losses(resident)
    assert streamed.metrics == resident.metrics


@pytest.fixture
def kill_at_evaluation(run_qin, monkeypatch):
    """Run, and raise a KeyboardInterrupt after so many evaluations."""

    def run(count, *settings, **options):
        evaluate = Trainer._evaluation
        calls = []

        def killed(self, *arguments):
            evaluate(self, *arguments)
            calls.append(1)
            if len(calls) == count:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_evaluation", killed)
            with pytest.raises(KeyboardInterrupt):
                run_qin(*settings, **options)

    return run


@pytest.mark.parametrize("weight_averaging", [0, 0.9])
@pytest.mark.parametrize("eval_steps", ["null", "5"])
def test_a_killed_run_goes_on_with_the_same_trace(run_qin, kill_at_evaluation, eval_steps, weight_averaging):
    settings = ("epochs=3", f"eval_steps={eval_steps}", f"weight_averaging={weight_averaging}")
    whole, path = run_qin(*settings, seed=1)
    kill_at_evaluation(2, *settings, seed=1, overwrite=True)
    assert Report.read(path).status == "failed"
    resumed, _ = run_qin(*settings, seed=1, resume=True)
    assert losses(resumed) == losses(whole)
    assert [row["metrics"] for row in resumed.curve] == [row["metrics"] for row in whole.curve]
    assert resumed.metrics == whole.metrics


def test_a_killed_run_goes_on_with_its_own_settings_and_data_only(run_qin, kill_at_evaluation, tmp_path):
    kill_at_evaluation(1, "epochs=2")
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints/Synthetic_test").iterdir()}
    for change, said in (
        ("weight_averaging=0.9", r"weight_averaging: not set then, 0.9 now"),
        ("learning_rate=1.e-3", r"learning_rate: 0.002 then, 0.001 now"),
    ):
        with pytest.raises(ConfigError, match=rf"QIN_test\.state .* another configuration \({said}\): --overwrite"):
            run_qin("epochs=2", change, resume=True)
    assert {path: path.read_bytes() for path in files} == files
    more, _ = run_qin("epochs=3", "early_stop_patience=9", resume=True)
    assert len(more.curve) == 3


@pytest.mark.slow
def test_a_sigkilled_process_leaves_a_state_to_go_on_from(repository, data_root, tmp_path):
    command = [
        *(sys.executable, repository / "run_expid.py", "--config", repository / "config", "--expid", "QIN_test"),
        *("--set", f"data_root={data_root}", "--set", f"model_root={tmp_path}", "--set", "epochs=200"),
        *("--set", "early_stop_patience=200"),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "Synthetic_test/QIN_test.state"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    report = state.with_name("QIN_test.report.json")
    before = json.loads(report.read_text())
    assert before["status"] == "running"
    done = subprocess.run(
        [*command, "--resume", "--set", f"epochs={len(before['curve']) + 1}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = json.loads(report.read_text())
    assert after["curve"][: len(before["curve"])] == before["curve"]
    assert after["status"] == "completed"
    assert "QIN_test" in done.stdout


def test_a_finished_run_is_returned_not_repeated(run_qin):
    first, path = run_qin("epochs=1")
    stamp = path.stat().st_mtime_ns
    again, _ = run_qin("epochs=1")
    assert again == first
    assert path.stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match=r"complete run of another configuration \(learning_rate: .* now\)"):
        run_qin("epochs=1", "learning_rate=1.e-3")
    # Nothing given is the default, which null is not.
    with pytest.raises(ConfigError, match=r"another configuration \(attention_dim: not set then, None now\)"):
        run_qin("epochs=1", "attention_dim=null")


def test_divergence_keeps_the_best_checkpoint_and_says_so(run_qin, monkeypatch, tmp_path):
    from model_zoo.QIN import QIN

    forward = QIN.forward

    def forward_that_breaks(self, inputs):
        output = forward(self, inputs)
        if getattr(self, "_epoch_index", 0) == 1:
            output["y_pred"] = output["y_pred"] * float("nan")
        return output

    monkeypatch.setattr(QIN, "forward", forward_that_breaks)
    with pytest.raises(TrainingDiverged, match="not a number in epoch 2: lower learning_rate"):
        run_qin("epochs=3", seed=4)
    report = Report.read(tmp_path / "checkpoints/Synthetic_test/QIN_test_s4.report.json")
    assert (report.status, report.best_epoch, len(report.curve)) == ("failed", 1, 1)
    assert "TrainingDiverged" in report.error
    weights = torch.load(tmp_path / "checkpoints/Synthetic_test/QIN_test_s4.model", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_missing_data_names_source_and_runnable_expids(run_qin):
    with pytest.raises(DataError, match=r"MicroLens_1M_x1.*recsys\.westlake.*QIN_test"):
        run_qin(expid="QIN_MicroLens_1M")


def test_evaluation_that_never_comes_is_refused(run_qin):
    with pytest.raises(ConfigError, match=r"eval_steps=99 is more than the 16 steps"):
        run_qin("epochs=1", "eval_steps=99")


def test_two_processes_on_one_run(run_qin, tmp_path):
    import filelock

    directory = tmp_path / "checkpoints/Synthetic_test"
    directory.mkdir(parents=True)
    with filelock.FileLock(directory / ".QIN_test.lock"), pytest.raises(ConfigError, match="another process"):
        run_qin("epochs=1")
