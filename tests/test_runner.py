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
from fuxictr_multimodal.loader import MultimodalDataLoader
from fuxictr_multimodal.metrics import auc
from fuxictr_multimodal.report import Report, print_summary
from fuxictr_multimodal.store import SplitReader
from fuxictr_multimodal.trainer import Trainer, TrainingDiverged, fit_batches
from tests.loader_store import feature_map, write_split


def losses(report: Report) -> list[float]:
    return [row["train_loss"] for row in report.curve]


def test_report_files_and_result_line(run_qin, tmp_path, data_root):
    report, path = run_qin("epochs=2", seed=3)
    assert path == tmp_path / "checkpoints/Synthetic_test/QIN_test_s3.report.json"
    assert Report.read(path) == report
    assert (report.status, report.error, report.seed, report.expid) == ("completed", None, 3, "QIN_test_s3")
    assert set(report.metrics["test"]) == {"AUC", "gAUC", "logloss"}
    assert report.best_epoch in (1, 2)
    assert len(report.curve) == 2
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
    streamed, _ = run_qin("epochs=2", seed=2)
    assert losses(first) == losses(again)
    assert first.metrics == again.metrics
    assert losses(first) != losses(streamed)


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


# Single rows at the end of an epoch, and metrics without a value


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_batch_norm_trains_where_a_single_row_is_left(run_qin, kill_at_evaluation, mode):
    # 4000 rows: three batches and a single row.
    settings = ("epochs=2", "batch_size=1333", "batch_norm=True", "eval_steps=2", f"loader_mode={mode}")
    whole, path = run_qin(*settings, seed=1)
    log = path.with_name("QIN_test_s1.log").read_text()
    assert "Start training: 3 batches/epoch" in log
    assert log.count("the last row of an epoch joins the batch before it") == 1
    assert whole.curve[-1]["step"] == 6
    kill_at_evaluation(1, *settings, seed=1, overwrite=True)
    resumed, _ = run_qin(*settings, seed=1, resume=True)
    assert losses(resumed) == losses(whole)
    assert resumed.metrics == whole.metrics


def test_without_batch_norm_a_single_row_is_a_batch_of_its_own(run_qin):
    report, path = run_qin("epochs=1", "batch_size=1333", "batch_norm=False")
    assert report.curve[-1]["step"] == 4
    assert "Start training: 4 batches/epoch" in path.with_name("QIN_test.log").read_text()


@pytest.mark.parametrize(
    ("expid", "settings"),
    [
        ("DIN_demo", ["batch_norm=True"]),
        ("DIN_demo", ["dnn_activations=Dice", "batch_norm=False"]),
        ("DCNv2_demo", ["batch_norm=True"]),
    ],
)
def test_batch_norm_of_another_model_trains_too(run_qin, expid, settings):
    small = ("dataset_id=Synthetic_test", "epochs=1", "batch_size=1333", "embedding_dim=4")
    report, _ = run_qin(*small, *settings, expid=expid)
    assert (report.status, report.curve[-1]["step"]) == ("completed", 3)


def test_batch_norm_and_single_rows_only_is_said_before_training(run_qin, tmp_path):
    with pytest.raises(ConfigError, match=r"QIN has BatchNorm \(.*norm.*\).*batch_size is 1: set it to 2 or more"):
        run_qin("batch_size=1", "batch_norm=True")
    assert Report.read(tmp_path / "checkpoints/Synthetic_test/QIN_test.report.json").curve == []
    loader = MultimodalDataLoader(feature_map(), write_split(tmp_path, rows=1), batch_size=8)
    with pytest.raises(ConfigError, match=r"train has a single row: build the dataset with more training rows"):
        fit_batches(loader, torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    fit_batches(loader, torch.nn.Sequential(torch.nn.LayerNorm(3)))
    assert len(loader) == 1


@pytest.fixture
def one_class_users(tmp_path, repository):
    """Settings of a run on a dataset whose users have one label each in every split."""
    from fuxictr_multimodal.config import load_dataset_config
    from fuxictr_multimodal.store.builder import StoreBuilder

    entry = load_dataset_config(repository / "config", "Synthetic_test")
    columns = [column for column in entry["feature_cols"] if column["name"] in ("user_id", "likes_level", "item_id")]
    rng = np.random.default_rng(0)
    with StoreBuilder(
        dataset_id="Synthetic_test", data_root=tmp_path / "data", feature_cols=columns, label_col=entry["label_col"],
        max_len=4, group_id="user_id", item_col="item_id", recipe={}, progress=False,
    ) as builder:  # fmt: skip
        builder.write_items({"item_id": np.arange(20)})
        for split in ("train", "valid", "test"):
            user = rng.integers(0, 8, 64)
            rows = {"user_id": user, "likes_level": rng.integers(0, 11, 64), "item_id": rng.integers(1, 20, 64)}
            rows["label"] = (user % 2).astype(np.uint8)
            builder.append(split, rows, rng.integers(1, 20, 64), np.arange(65))
        builder.finish(split_method="made up")
    return [f"data_root={tmp_path / 'data'}", "synthetic=null", "epochs=1", "batch_norm=False"]


def test_a_metric_that_is_not_defined_is_null_and_noted_once(run_qin, one_class_users, tmp_path, capsys):
    report, path = run_qin(*one_class_users)
    assert report.status == "completed"
    for split in ("valid", "test"):
        assert report.metrics[split]["gAUC"] is None
        assert 0 <= report.metrics[split]["AUC"] <= 1
    assert json.loads(path.read_text())["metrics"]["valid"]["gAUC"] is None
    log = path.with_name("QIN_test.log").read_text()
    for split in ("valid", "test"):
        assert log.count(f"Left out of the metrics of the {split} split: gAUC is undefined: no group holds both") == 1
    print_summary(report, path)
    assert re.search(r"valid\s+│\s+[\d.]+\s+│\s+-\s+│\s+[\d.]+", capsys.readouterr().out)
    assert re.search(r"\[test\] AUC: [\d.]+ - logloss: [\d.]+\n", (tmp_path / "config.csv").read_text())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("monitor=gAUC", r"monitor: gAUC has no value .*valid\.h5 \(.*no group holds both"),
        ("monitor={AUC: 1, avgAUC: 0.5}", "monitor: avgAUC has no value"),
        ("metrics=[AUC, AUCC]", "'AUCC' is not known. Did you mean 'AUC'"),
        ("group_id=null", "gAUC needs `group_id`"),
    ],
)
def test_a_monitored_metric_that_is_not_defined_is_said_before_training(
    run_qin, one_class_users, tmp_path, setting, message
):
    with pytest.raises(ConfigError, match=message):
        run_qin(*one_class_users, setting)
    report = Report.read(tmp_path / "checkpoints/Synthetic_test/QIN_test.report.json")
    assert (report.status, report.curve) == ("failed", [])


def test_a_validation_split_of_one_class_is_said_before_training(run_qin, monkeypatch):
    monkeypatch.setattr(MultimodalDataLoader, "labels_and_groups", lambda self: (np.ones(64), np.arange(64)))
    message = r"monitor: AUC has no value .*all 64 rows have label 1.*monitor another metric, such as logloss"
    with pytest.raises(ConfigError, match=message):
        run_qin("epochs=1")


def test_two_processes_on_one_run(run_qin, tmp_path):
    import filelock

    directory = tmp_path / "checkpoints/Synthetic_test"
    directory.mkdir(parents=True)
    with filelock.FileLock(directory / ".QIN_test.lock"), pytest.raises(ConfigError, match="another process"):
        run_qin("epochs=1")
