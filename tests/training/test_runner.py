"""One expid from YAML to report: results, repeatability, resume, and what happens on failure."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from fuxictr_multimodal.config.identity import config_hash, trial_hash
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.errors import ConfigError, DataError, TrainingDiverged
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.system import reduced_precision
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.training import environment, run_log, runner
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.recorder import print_summary
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.trainer import Trainer, fit_batches
from tests.helpers.loader_store import feature_map, write_split
from tests.helpers.typed_command import Command


def losses(report: Report) -> list[float]:
    return [row["train_loss"] for row in report.curve]


def test_a_ranking_metric_selects_and_is_reported(run_qin):
    names = ["AUC", "NDCG(k=5)", "HR(k=1)", "MAP", "Precision(k=2)", "Recall(k=2)"]
    report, _ = run_qin(f"metrics={json.dumps(names)}", "monitor=HR(k=1)", "epochs=2")
    assert list(report.metrics["test"]) == names
    assert all(0 < value < 1 for value in report.metrics["test"].values())
    reached = [row["monitor"] for row in report.curve]
    assert reached == [row["metrics"]["HR(k=1)"] for row in report.curve]
    assert report.metrics["valid"]["HR(k=1)"] == pytest.approx(max(reached))


def test_report_files_and_result_line(run_qin, tmp_path, data_root):
    report, path = run_qin("epochs=2", seed=3)
    run = "QIN_test@epochs=2_s3"
    assert path == tmp_path / f"checkpoints/Synthetic_test/{run}.report.json"
    assert Report.read(path) == report
    assert (report.status, report.error, report.seed) == ("completed", None, 3)
    assert (report.expid, report.run, report.experiment) == (run, run, "QIN_test")
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
    assert path.with_name(f"{run}.model").is_file()
    assert not path.with_name(f"{run}.state").exists()

    line = (tmp_path / "config.csv").read_text()
    assert re.fullmatch(
        r" \d{8}-\d{6},\[command\] python .*,\[exp_id\] QIN_test@epochs=2_s3,\[dataset_id\] Synthetic_test,"
        r"\[train\] N\.A\.,"
        r"\[val\] AUC: [\d.]+ - gAUC: [\d.]+ - logloss: [\d.]+,\[test\] AUC: .*\n",
        line,
    )
    log = path.with_name(f"{run}.log").read_text()
    for text in (
        "Start training: 16 batches/epoch",
        "Epoch=1 start",
        "[Metrics] AUC:",
        "Save best model: monitor(max)",
    ):
        assert text in log

    kept = np.load(path.with_name(f"{run}.predictions.npz"))
    with SplitReader(data_root / "Synthetic_test/test.h5") as split:
        labels = split.read("label", 0, split.rows)
    assert auc(labels, kept["test_scores"]) == pytest.approx(report.metrics["test"]["AUC"])


def test_a_run_of_an_earlier_version_is_finished(run_qin, data_root):
    """Its report lacks the note and hashes the names of the dataset's files, which nobody reads."""
    report, path = run_qin("epochs=1", seed=4)
    stored = json.loads(path.read_text())
    config = {key: value for key, value in stored["config"].items() if key != "note"}
    config |= {"data_format": "h5", "train_data": "./elsewhere/train.h5", "data_root": "./data/"}
    stored |= {"config": config, "config_hash": trial_hash(config)}
    path.write_text(json.dumps(stored))
    assert stored["config_hash"] != report.config_hash == config_hash(config)
    again, _ = run_qin("epochs=1", seed=4)
    assert (again.status, again.seconds) == ("completed", report.seconds)
    other, other_path = run_qin("epochs=1", "learning_rate=0.01", seed=4)
    assert (other.status, other_path != path, other.run) == ("completed", True, "QIN_test@learning_rate=0.01_s4")


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
        monkeypatch.setattr("fuxictr_multimodal.data.loader._choose_mode", lambda path: modes.append(mode) or mode)
        return run_qin("epochs=2", seed=1, overwrite=True)[0]

    resident, streamed = run_as("resident"), run_as("streaming")
    assert modes == ["resident"] * 3 + ["streaming"] * 3  # train, valid and test
    assert losses(streamed) == losses(resident)
    assert streamed.metrics == resident.metrics


@pytest.fixture
def kill_at_evaluation(run_qin, monkeypatch):
    """Run, and raise a KeyboardInterrupt after so many evaluations; 0 is before the first."""

    def run(count, *settings, **options):
        evaluate = Trainer._evaluation
        calls = []

        def killed(self, *arguments):
            if len(calls) == count == 0:
                raise KeyboardInterrupt
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
def test_a_killed_run_resumes_with_the_same_trace(run_qin, kill_at_evaluation, eval_steps, weight_averaging):
    settings = ("epochs=3", f"eval_steps={eval_steps}", f"weight_averaging={weight_averaging}")
    whole, path = run_qin(*settings, seed=1)
    kill_at_evaluation(2, *settings, seed=1, overwrite=True)
    assert (Report.read(path).status, Report.read(path).error) == ("interrupted", "interrupted by SIGINT")
    resumed, _ = run_qin(*settings, seed=1, resume=True)
    assert losses(resumed) == losses(whole)
    assert [row["metrics"] for row in resumed.curve] == [row["metrics"] for row in whole.curve]
    assert resumed.metrics == whole.metrics


def test_a_killed_run_resumes_with_its_own_settings_and_data_only(run_qin, kill_at_evaluation, tmp_path):
    kill_at_evaluation(1, "epochs=2")
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints/Synthetic_test").iterdir()}
    for change, said in (
        ("weight_averaging=0.9", r"weight_averaging: not set then, 0.9 now"),
        ("learning_rate=1.e-3", r"learning_rate: 0.002 then, 0.001 now"),
    ):
        with pytest.raises(ConfigError, match=rf"QIN_test@.*\.state .* another configuration \({said}\): --overwrite"):
            run_qin("epochs=2", change, resume=True)
    assert {path: path.read_bytes() for path in files} == files
    more, _ = run_qin("epochs=3", "early_stop_patience=9", resume=True)
    assert len(more.curve) == 3
    assert (more.config["epochs"], more.config["early_stop_patience"]) == (3, 9)


def test_a_killed_run_keeps_what_the_command_line_does_not_name(run_qin, kill_at_evaluation, tmp_path):
    whole, _ = run_qin("epochs=5", name="whole")
    kill_at_evaluation(2, "epochs=5")
    resumed, path = run_qin(resume=True)
    assert path.name == "QIN_test@epochs=5.report.json"
    assert (resumed.status, resumed.config["epochs"]) == ("completed", 5)
    assert losses(resumed) == losses(whole)
    assert resumed.seconds > 0
    # Before its first evaluation a run has no state, but settings.
    kill_at_evaluation(0, "epochs=4")
    assert not list(path.parent.glob("*.state"))
    assert run_qin(resume=True)[0].config["epochs"] == 4
    # What is complete is not resumed: this is the experiment itself.
    assert run_qin(resume=True)[1].name == "QIN_test.report.json"


@pytest.mark.parametrize("change", ["epochs=4", "early_stop_patience=3"])
def test_epochs_and_patience_of_a_run_never_shrink(run_qin, kill_at_evaluation, change):
    kill_at_evaluation(1, "epochs=5", "early_stop_patience=4")
    key, _, now = change.partition("=")
    said = rf"QIN_test@.*{key}: {int(now) + 1} then, {now} now \({key} may increase, not decrease\)"
    with pytest.raises(ConfigError, match=said):
        run_qin(change, resume=True)


def test_resume_of_what_is_complete_returns_it(run_qin, kill_at_evaluation):
    kill_at_evaluation(1, "epochs=3", name="mine")
    first, path = run_qin(name="mine", resume=True)
    assert (first.status, first.config["epochs"]) == ("completed", 3)
    again, _ = run_qin(name="mine", resume=True)
    assert again == Report.read(path)
    with pytest.raises(ConfigError, match=r"complete run of another configuration \(epochs: 3 then, 4 now\)"):
        run_qin("epochs=4", name="mine", resume=True)


def test_a_name_does_not_resume_the_run_of_another_experiment(run_qin, kill_at_evaluation, repository, tmp_path):
    config = shutil.copytree(repository / "config", tmp_path / "config")
    (config / "model_config/other.yaml").write_text(
        "QIN_other: {model: QIN, dataset_id: Synthetic_test, epochs: 1, batch_size: 8}"
    )
    said = r"QIN_test.* of 'QIN_test', not of 'QIN_other'"
    kill_at_evaluation(1, "epochs=2", name="QIN_test")
    for _ in range(2):
        with pytest.raises(ConfigError, match=said):
            run_qin(expid="QIN_other", config_dir=config, name="QIN_test", resume=True)
        assert run_qin(name="QIN_test", resume=True)[0].status == "completed"


def test_a_run_that_was_killed_after_its_report_is_found_and_not_trained_again(run_qin):
    first, path = run_qin("epochs=2")
    state = path.with_name("QIN_test@epochs=2.state")
    state.touch()
    again, found = run_qin(resume=True)
    assert (found, again.metrics) == (path, first.metrics)
    assert not state.exists()


def test_an_interruption_that_fuxictr_makes_an_error_of_is_one(run_qin, monkeypatch, tmp_path):
    def build(*arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except:  # noqa: E722, as FuxiCTR writes it
            raise NotImplementedError("optimizer=Adam is not supported.") from None

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    monkeypatch.setattr(Experiment, "build_model", build)
    try:
        with pytest.raises(Interrupted), raised_on_signals():
            run_qin("epochs=1")
    finally:
        signal.signal(signal.SIGTERM, before)
    report = Report.read(tmp_path / "checkpoints/Synthetic_test/QIN_test.report.json")
    assert (report.status, report.error) == ("interrupted", "interrupted by SIGTERM")


def test_more_patience_lets_a_run_train_on_that_had_stopped_early(run_qin, monkeypatch):
    settings = ("epochs=6", "learning_rate=1.e-12", "batch_norm=False")
    whole, _ = run_qin(*settings, "early_stop_patience=3", name="whole")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_qin(*settings, "early_stop_patience=1")
    stopped, _ = run_qin("early_stop_patience=3", resume=True)
    assert losses(stopped) == losses(whole)
    assert (len(whole.curve), stopped.config["early_stop_patience"]) == (4, 3)


def test_a_resumed_run_keeps_the_precision_that_was_chosen(run_qin, kill_at_evaluation, monkeypatch):
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: 0.1)
    kill_at_evaluation(1, "epochs=2", "precision=auto")
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: 9.0)
    report, path = run_qin("epochs=2", "precision=auto", resume=True)
    assert (report.precision["asked"], report.precision["used"]) == ("auto", "float32")
    assert Report.read(path).precision == report.precision


def test_a_yaml_that_changed_changes_no_run_that_is_resumed(run_qin, kill_at_evaluation, tmp_path, repository):
    config = tmp_path / "config"
    shutil.copytree(repository / "config", config)
    kill_at_evaluation(1, config_dir=config)
    file = config / "model_config/qin.yaml"
    text = file.read_text()
    file.write_text(
        text.replace("    dataset_id: Synthetic_test\n", "    dataset_id: Synthetic_test\n    num_row: 3\n", 1)
    )
    resumed, path = run_qin(resume=True, config_dir=config)
    assert resumed.config["num_row"] == 4
    assert (
        "QIN_test keeps its own settings: num_row: 4 (the configuration says 3)"
        in path.with_name("QIN_test.log").read_text()
    )
    assert losses(resumed) == losses(run_qin(name="again")[0])


def test_an_unfinished_run_is_not_trained_anew_unasked(run_qin, kill_at_evaluation, tmp_path):
    kill_at_evaluation(1)
    state = tmp_path / "checkpoints/Synthetic_test/QIN_test.state"
    before = state.read_bytes()
    with pytest.raises(ConfigError, match=r"QIN_test\.state belongs to an unfinished run: --resume .* --overwrite"):
        run_qin()
    assert state.read_bytes() == before
    assert run_qin(overwrite=True)[0].status == "completed"


def test_the_state_goes_after_the_report_says_completed(run_qin, monkeypatch):
    seen = []
    write = Report.write

    def watched(self, path):
        seen.append((self.status, path.with_name("QIN_test.state").is_file()))
        write(self, path)

    monkeypatch.setattr(Report, "write", watched)
    _, path = run_qin()
    assert seen[-1] == ("completed", True)
    state = path.with_name("QIN_test.state")
    assert not state.exists()
    state.write_bytes(b"left by a kill in between")
    stamp = path.stat().st_mtime_ns
    run_qin()
    assert (state.exists(), path.stat().st_mtime_ns) == (False, stamp)


def test_several_unfinished_runs_are_named(run_qin, kill_at_evaluation):
    kill_at_evaluation(1, "epochs=4")
    kill_at_evaluation(1, "net_dropout=0.2")
    kill_at_evaluation(1, "net_dropout=0.3", seed=3)
    with pytest.raises(ConfigError, match=r"QIN_test@epochs=4, QIN_test@net_dropout=0.2 are unfinished"):
        run_qin(resume=True)
    assert run_qin("net_dropout=0.2", resume=True)[0].status == "completed"
    assert run_qin(resume=True)[0].config["epochs"] == 4
    assert run_qin(resume=True, seed=3)[0].run == "QIN_test@net_dropout=0.3_s3"


def test_a_damaged_state_is_one_error(run_qin, kill_at_evaluation, tmp_path):
    kill_at_evaluation(1)
    state = tmp_path / "checkpoints/Synthetic_test/QIN_test.state"
    weights = state.with_suffix(".model").read_bytes()
    for damaged in (state.read_bytes()[:1000], b"", weights):
        state.write_bytes(damaged)
        with pytest.raises(DataError, match=r"QIN_test\.state cannot be read .*: --overwrite"):
            run_qin(resume=True)


def start(repository, data_root, folder, *arguments):
    """`run_expid.py` on QIN_test in its own folder, as the leader of a process group."""
    command = [sys.executable, repository / "run_expid.py", "--config", repository / "config", "--expid", "QIN_test"]
    sets = [("--set", f"{key}={value}") for key, value in (("data_root", data_root), ("model_root", folder / "ck"))]
    return subprocess.Popen(
        [*command, *(text for pair in sets for text in pair), *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(process, pattern, folder):
    """The first file of a name, once it is there."""
    deadline = time.monotonic() + 120
    while not (found := sorted(folder.rglob(pattern))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def start_forked(repository, data_root, folder, *arguments):
    """The same with the large imports done before."""
    words = [f"{repository / 'run_expid.py'}", "--config", f"{repository / 'config'}", "--expid", "QIN_test"]
    sets = [("--set", f"{key}={value}") for key, value in (("data_root", data_root), ("model_root", folder / "ck"))]
    return Command([*words, *(text for pair in sets for text in pair), *arguments], folder=folder)


LONG = ("--set", "epochs=500", "--set", "early_stop_patience=500")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_leaves_a_report_and_one_line(repository, data_root, tmp_path, name, status):
    process = (start if name == "SIGTERM" else start_forked)(repository, data_root, tmp_path, *LONG)
    state = wait_for(process, "*.state", tmp_path)
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if "--resume" in line] == [
        f"interrupted by {name}: {state} holds its last saved step, the same command with --resume continues it"
    ]
    report = Report.read(state.with_name(state.name.replace(".state", ".report.json")))
    assert (report.status, report.error) == ("interrupted", f"interrupted by {name}")
    if name != "SIGTERM":
        return
    again = start_forked(repository, data_root, tmp_path, *LONG)
    _, said = again.communicate(timeout=60)
    assert again.returncode == 2
    assert said.splitlines()[-1].startswith(f"error: {state} belongs to an unfinished run")


def test_signals_reach_the_seeds(repository, data_root, tmp_path):
    process = start(repository, data_root, tmp_path, *LONG, "--seeds", "1-2")
    state = wait_for(process, "*.state", tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "0 of 2 runs complete" in said
    assert Report.read(state.with_name(state.name.replace(".state", ".report.json"))).status == "interrupted"
    _, left = psutil.wait_procs(children, timeout=10)
    assert left == []


@pytest.mark.slow
def test_a_sigkilled_process_leaves_a_state_to_go_on_from(repository, data_root, tmp_path):
    process = start_forked(repository, data_root, tmp_path, *LONG, "--set", "epochs=30")
    state = wait_for(process, "*.state", tmp_path)
    process.kill()
    process.communicate()
    temporary = state.with_name(f".{state.name}.{process.pid}.tmp")
    temporary.touch()
    report = state.with_name(state.name.replace(".state", ".report.json"))
    before = json.loads(report.read_text())
    assert before["status"] == "running"
    done = start_forked(repository, data_root, tmp_path, "--resume", "--set", "epochs=31")
    said, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    after = json.loads(report.read_text())
    assert after["curve"][: len(before["curve"])] == before["curve"]
    assert after["status"] == "completed"
    assert after["config"]["early_stop_patience"] == 500
    assert "QIN_test" in said
    assert not temporary.exists()


def test_a_finished_run_is_returned_not_repeated(run_qin):
    first, path = run_qin("epochs=1")
    stamp = path.stat().st_mtime_ns
    again, _ = run_qin("epochs=1")
    assert again == first
    assert path.stat().st_mtime_ns == stamp
    name = path.name.removesuffix(".report.json")
    with pytest.raises(ConfigError, match=r"complete run of another configuration \(learning_rate: .* now\)"):
        run_qin("epochs=1", "learning_rate=1.e-3", name=name)
    # Nothing given is the default, which null is not.
    with pytest.raises(ConfigError, match=r"another configuration \(attention_dim: not set then, None now\)"):
        run_qin("epochs=1", "attention_dim=null", name=name)


def test_a_run_of_other_settings_has_a_name_that_says_them(run_qin):
    _, plain = run_qin("epochs=1", "num_workers=1")  # the YAML's own, and where it runs
    assert plain.name == "QIN_test.report.json"
    other, path = run_qin("epochs=2", "learning_rate=0.001", "net_dropout=0.1")
    assert path.name == "QIN_test@epochs=2+learning_rate=1e-3.report.json"
    assert other.experiment == "QIN_test"
    named, path = run_qin("epochs=2", name="short")
    assert (path.name, named.run, named.experiment) == ("short.report.json", "short", "QIN_test")
    assert run_qin("epochs=2", "seed=3")[1].name == "QIN_test@epochs=2_s3.report.json"
    with pytest.raises(ConfigError, match=r"--name '\.\./x' holds '/'"):
        run_qin(name="../x")


@pytest.mark.parametrize("seed", [None, 4])
def test_runs_of_versions_without_suffixes_are_recognised(run_qin, kill_at_evaluation, seed):
    """They were named by expid and seed alone, whatever `--set` said, and had no keys `run` and `experiment`."""
    older = "QIN_test" if seed is None else "QIN_test_s4"
    _, path = run_qin("epochs=2", name="QIN_test", seed=seed)
    assert path.name == f"{older}.report.json"
    content = json.loads(path.read_text())
    assert (content.pop("run"), content.pop("experiment")) == (older, "QIN_test")
    path.write_text(json.dumps(content))
    found, again = run_qin("epochs=2", seed=seed)
    assert (again, found.run, found.experiment) == (path, older, "QIN_test")
    kill_at_evaluation(1, "epochs=2", name="QIN_test", seed=seed, overwrite=True)
    with pytest.raises(ConfigError, match="unfinished"):
        run_qin("epochs=2", seed=seed)
    assert run_qin("epochs=2", seed=seed, resume=True)[1] == path
    assert len(Report.read(path).curve) == 2


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
    report = Report.read(tmp_path / "checkpoints/Synthetic_test/QIN_test@epochs=3_s4.report.json")
    assert (report.status, report.best_epoch, len(report.curve)) == ("failed", 1, 1)
    assert "TrainingDiverged" in report.error
    weights = torch.load(tmp_path / "checkpoints/Synthetic_test/QIN_test@epochs=3_s4.model", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_gpu_that_stops_at_a_number_is_a_divergence(run_qin, monkeypatch):
    def stop(self, inputs):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Trainer, "_train_step", stop)
    with pytest.raises(TrainingDiverged, match="the GPU stopped at a prediction that is not a number in epoch 1"):
        run_qin("epochs=1", seed=4)


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
    log = path.with_name(f"{whole.run}.log").read_text()
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
    assert "Start training: 4 batches/epoch" in path.with_name(f"{report.run}.log").read_text()


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


def test_batch_norm_and_single_rows_only_is_reported_before_training(run_qin, tmp_path):
    with pytest.raises(ConfigError, match=r"QIN has BatchNorm \(.*norm.*\).*batch_size is 1: set it to at least 2"):
        run_qin("batch_size=1", "batch_norm=True", name="one")
    assert Report.read(tmp_path / "checkpoints/Synthetic_test/one.report.json").curve == []
    loader = MultimodalDataLoader(feature_map(), write_split(tmp_path, rows=1), batch_size=8)
    with pytest.raises(ConfigError, match=r"train has a single row: build the dataset with more training rows"):
        fit_batches(loader, torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    fit_batches(loader, torch.nn.Sequential(torch.nn.LayerNorm(3)))
    assert len(loader) == 1


@pytest.fixture
def one_class_users(tmp_path, repository):
    """Settings of a run on a dataset whose users have one label each in every split."""
    from fuxictr_multimodal.config.expids import load_dataset_config
    from fuxictr_multimodal.data.store.builder import StoreBuilder

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
    log = path.with_name(f"{report.run}.log").read_text()
    for split in ("valid", "test"):
        assert log.count(f"Left out of the metrics of the {split} split: gAUC is undefined: no group has both") == 1
    print_summary(report, path)
    assert re.search(r"valid\s+│\s+[\d.]+\s+│\s+-\s+│\s+[\d.]+", capsys.readouterr().out)
    assert re.search(r"\[test\] AUC: [\d.]+ - logloss: [\d.]+\n", (tmp_path / "config.csv").read_text())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("monitor=gAUC", r"monitor: gAUC has no value .*valid\.h5 \(.*no group has both"),
        ("monitor={AUC: 1, avgAUC: 0.5}", "monitor: avgAUC has no value"),
        ("group_id=null", "gAUC needs `group_id`"),
    ],
)
def test_a_monitored_metric_that_is_not_defined_is_reported_before_training(
    run_qin, one_class_users, tmp_path, setting, message
):
    with pytest.raises(ConfigError, match=message):
        run_qin(*one_class_users, setting, name="refused")
    report = Report.read(tmp_path / "checkpoints/Synthetic_test/refused.report.json")
    assert (report.status, report.curve) == ("failed", [])


def test_a_validation_split_of_one_class_is_reported_before_training(run_qin, monkeypatch):
    monkeypatch.setattr(MultimodalDataLoader, "labels_and_groups", lambda self: (np.ones(64), np.arange(64)))
    message = r"monitor: AUC has no value .*all 64 samples have label 1.*monitor another metric, such as logloss"
    with pytest.raises(ConfigError, match=message):
        run_qin("epochs=1")


def test_two_processes_on_one_run(run_qin, tmp_path):
    import filelock

    directory = tmp_path / "checkpoints/Synthetic_test"
    directory.mkdir(parents=True)
    with filelock.FileLock(directory / ".QIN_test.lock"), pytest.raises(ConfigError, match="another process"):
        run_qin()


# Folders in the place of files: even root cannot write them.
def test_what_is_not_the_result_only_warns(run_qin, tmp_path, capsys, caplog):
    folder = tmp_path / "checkpoints/Synthetic_test"
    kept = ("QIN_test.log", "QIN_test.curve.png", "QIN_test.predictions.npz")
    for path in (tmp_path / "config.csv", *(folder / name for name in kept)):
        path.mkdir(parents=True)
    report, _ = run_qin()
    assert report.status == "completed"
    said = capsys.readouterr().err + caplog.text
    for name in ("config.csv", *kept):
        assert f"{name} cannot be written (Is a directory); the result is not affected" in said, name


@pytest.mark.parametrize(("name", "reported"), [("QIN_test.model", True), ("QIN_test.report.json", False)])
def test_a_result_that_cannot_be_written_fails_the_run(run_qin, tmp_path, name, reported):
    folder = tmp_path / "checkpoints/Synthetic_test"
    (folder / name).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"{name} cannot be written: .*Is a directory"):
        run_qin()
    if reported:
        report = Report.read(folder / "QIN_test.report.json")
        assert (report.status, f"{name} cannot be written" in report.error) == ("failed", True)


def test_a_model_root_that_cannot_be_written_is_one_error(run_qin, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/Synthetic_test cannot be written: Not a directory; see model_root"):
        run_qin(f"model_root={tmp_path / 'file'}")


def test_a_full_disk_ends_neither_the_run_nor_its_log(run_qin, tmp_path, monkeypatch, capsys):
    """Of what is written, the state alone is large: training continues without it."""
    save = torch.save

    def full(state, path, **options):
        if ".state." in str(path):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0\nframe #0: ...")
        save(state, path, **options)

    monkeypatch.setattr(torch, "save", full)
    assert run_qin()[0].status == "completed"
    assert (
        "QIN_test.state cannot be written (PytorchStreamWriter failed writing file data/0)" in capsys.readouterr().err
    )
    log = run_log._LogFile("/dev/full", encoding="utf-8")
    logging.getLogger().addHandler(log)
    logging.warning("a line")
    assert log not in logging.getLogger().handlers


def test_the_commit_is_that_of_the_package(tmp_path, monkeypatch):
    package, user = tmp_path / "package", tmp_path / "user"

    def git(folder, *arguments):
        command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for folder in (package, user):
        folder.mkdir()
        git(folder, "init", "-q")
        git(folder, "commit", "-q", "--allow-empty", "-m", f"of the {folder.name}")
    monkeypatch.chdir(user)

    def of_module(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        monkeypatch.setattr(environment, "__file__", str(path))
        return environment.git_commit()

    module = package / "fuxictr_multimodal/training/environment.py"
    assert of_module(module) is None  # not tracked yet
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "a module")
    assert of_module(module) == git(package, "rev-parse", "HEAD")
    module.write_text("x = 1\n")
    assert of_module(module) == git(package, "rev-parse", "HEAD") + "-dirty"
    # An installed package inside of a repository that does not track it.
    assert of_module(user / ".venv/site-packages/fuxictr_multimodal/training/environment.py") is None
