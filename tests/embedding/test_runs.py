"""Runs of the text encoder that are stopped, fail or are repeated: what report and files say, and the user."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import torch
import yaml

from bilingual_embedding import cli, commands
from bilingual_embedding.commands import train
from bilingual_embedding.training import runner, stage_trainer
from bilingual_embedding.training.resuming import owner_of
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import list_experiments, load_experiment
from bilingual_embedding.training.start import Start
from bilingual_embedding.vectors.text_vectors import TextFile
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system import reduced_precision
from tests.helpers.planted_languages import write_planted
from tests.helpers.typed_command import Command

REPOSITORY = Path(__file__).resolve().parents[2]
NANO = REPOSITORY / "config" / "embedding" / "nano.yaml"
STEP = stage_trainer.StageTrainer._step


class Killed(BaseException):
    """Stands for SIGKILL: nothing may run after it."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"), rows=300, test_rows=20)


@pytest.fixture
def config(planted, tmp_path):
    """A config folder with an experiment of a moment, `Tiny`; its runs go to `runs` beside it."""
    nano = yaml.safe_load(NANO.read_text())["BiEncoder_nano"]
    nano.update(data_root=str(planted), model_root=str(tmp_path / "runs"), mlm=None, save_steps=2)
    nano["tokenizer"]["vocabulary_size"] = 300
    nano["pairs"].update(steps=6, batch_size=16)
    nano["multitask"].update(steps=4)
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "all.yaml").write_text(yaml.safe_dump({"Tiny": nano}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def stop_in(monkeypatch):
    """Raise an error in a step of a stage; the returned list counts the steps that are taken."""

    def stop(stage, step, error=KeyboardInterrupt):
        taken = []

        def die(self, number):
            if (self.name, number) == (stage, step):
                raise error
            taken.append((self.name, number))
            return STEP(self, number)

        monkeypatch.setattr(stage_trainer.StageTrainer, "_step", die)
        return taken

    return stop


def report_of(runs, name="Tiny"):
    return EmbeddingReport.read(runs / name / "report.json")


def test_a_score_without_a_value_does_not_end_the_run(config, planted, runs, tmp_path, caplog, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for path in planted.iterdir():
        (data / path.name).write_text(path.read_text())
    lines = [line.rsplit(",", 1)[0] for line in (data / "test.csv").read_text().splitlines()]
    (data / "test.csv").write_text("".join(f"{line},5.0\n" for line in lines))
    report, _ = train(config_dir=config, expid="Tiny", overrides=[f"data_root={data}"])
    assert report.status == report_of(runs).status == "completed"
    assert {scores["held_out_scored"] for scores in report_of(runs).evaluation.values()} == {None}
    assert None not in [scores["held_out left->right"] for scores in report.evaluation.values()]
    assert "baseline of held_out_scored: no value: all 20 human scores are equal" in caplog.messages
    assert "held_out_scored: no value: all 20 human scores are equal" in caplog.messages
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "held_out_scored" in line]
    assert row.count(" - ") == 4


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("ExperimentData", MemoryError("data")),
        ("stage_setup.train_tokenizer", RuntimeError("tokenizer")),
        ("lexical_baselines", ValueError("floors")),
        ("evaluate", MemoryError("evaluation")),
        ("save_encoder", OSError("disk")),
        ("remove_stale_temporaries", PermissionError("sweep")),
    ],
)
def test_a_failed_run_says_so_wherever_it_failed(config, runs, monkeypatch, where, error):
    def fail(*arguments, **options):
        raise error

    module, _, name = f"runner.{where}".rpartition(".")
    monkeypatch.setattr(f"bilingual_embedding.training.{module.split('.')[-1]}.{name}", fail)
    with pytest.raises(type(error)):
        train(config_dir=config, expid="Tiny")
    assert report_of(runs).status == "failed"
    assert report_of(runs).error == f"{type(error).__name__}: {error}"


def test_a_number_that_json_does_not_have_is_null_in_the_report(tmp_path):
    report = EmbeddingReport("x", "nano", 1, "failed", evaluation={"pairs": {"a": float("nan"), "b": 1.0}})
    report.stages = {"pairs": {"curve": [{"loss": float("inf")}]}}
    report.write(tmp_path / "report.json")
    found = EmbeddingReport.read(tmp_path / "report.json")
    assert (found.status, found.evaluation) == ("failed", {"pairs": {"a": None, "b": 1.0}})
    assert found.stages == {"pairs": {"curve": [{"loss": None}]}}


def test_an_interrupted_run_says_what_is_kept(config, runs, stop_in):
    stop_in("pairs", 1)
    with pytest.raises(KeyboardInterrupt) as before_the_first_state:
        train(config_dir=config, expid="Tiny")
    state = runs / "Tiny" / "pairs.state.pt"
    assert f"{state} is not written yet: --resume begins stage pairs again" in str(before_the_first_state.value)
    stop_in("pairs", 3)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(config_dir=config, expid="Tiny", resume=True)
    assert str(caught.value) == f"interrupted by SIGINT: {state} is saved: --resume continues from it"
    assert (report_of(runs).status, report_of(runs).error) == ("interrupted", "interrupted by SIGINT")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_the_command_with_one_line(config, runs, name, status):
    command = [f"{REPOSITORY / 'run_embedding.py'}", "--config", f"{config}", "--expid", "Tiny"]
    command += ["--set", "pairs.steps=100000"]
    if name == "SIGTERM":
        process = subprocess.Popen(
            [sys.executable, *command],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    else:
        process = Command(command, folder=Path.cwd())
    state = runs / "Tiny" / "pairs.state.pt"
    while process.poll() is None and not state.is_file():
        time.sleep(0.05)
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=60)
    line = f"interrupted by {name}: {state} is saved: --resume continues from it"
    assert (process.returncode, said.splitlines()[-1], "Traceback" in said) == (status, line, False)
    assert report_of(runs).status == "interrupted"


def test_a_killed_run_is_neither_deleted_nor_ignored(config, runs, stop_in):
    stop_in("pairs", 3)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny")
    state = runs / "Tiny" / "pairs.state.pt"
    before = state.read_bytes()
    for stage in ("all", "pairs"):
        with pytest.raises(ConfigError, match=f"{state} belongs to an interrupted run: --resume continues it"):
            train(config_dir=config, expid="Tiny", stage=stage)
    assert (state.read_bytes(), report_of(runs).status) == (before, "interrupted")
    taken = stop_in("pairs", 99)
    assert train(config_dir=config, expid="Tiny", overwrite=True)[0].status == "completed"
    assert taken[0] == ("pairs", 0)


def test_a_resumed_run_keeps_its_settings(config, runs, stop_in, caplog):
    own = ["pairs.steps=8", "pairs.batch_size=12"]
    whole, _ = train(config_dir=config, expid="Tiny", overrides=[*own, f"model_root={runs / 'whole'}"])
    stop_in("pairs", 5)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny", overrides=own)
    taken = stop_in("pairs", 99)
    report, _ = train(config_dir=config, expid="Tiny", resume=True)
    assert taken[0] == ("pairs", 4)
    assert report.config["pairs"]["batch_size"] == 12
    assert report.evaluation == whole.evaluation
    assert [s["curve"] for s in report.stages.values()] == [s["curve"] for s in whole.stages.values()]
    assert "Tiny keeps its own settings: pairs.steps: 8 (the configuration says 6)" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs.batch_size=12", "pairs.batch_size: 16 then, 12 now"),
        ("pairs.steps=5", "pairs.steps: 6 then, 5 now (steps may increase, not decrease)"),
        ("pairs.optimiser.learning_rate=1e-3", "pairs.optimiser.learning_rate: 0.01 then, 0.001 now"),
        ("seed=5", "seed: 2024 then, 5 now"),
        ("multitask=null", "multitask: {"),
        ("pairs.steps=9", None),
        ("multitask.steps=9", None),
        ("memory_tokens=5000", None),
    ],
)
def test_only_steps_and_the_machine_may_change_on_resume(config, runs, stop_in, override, message):
    stop_in("pairs", 3)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny")
    left = (runs / "Tiny" / "report.json").read_bytes()
    stop_in("pairs", 99)
    if message is None:
        report, _ = train(config_dir=config, expid="Tiny", resume=True, overrides=[override])
        key, value = override.split("=")
        assert report.status == "completed"
        if key.endswith(".steps"):
            assert report.stages[key.split(".")[0]]["steps"] == int(value)
        return
    with pytest.raises(ConfigError) as caught:
        train(config_dir=config, expid="Tiny", resume=True, overrides=[override])
    assert message in str(caught.value)
    assert (runs / "Tiny" / "report.json").read_bytes() == left


def test_a_trained_stage_gets_no_more_steps(config, stop_in):
    stop_in("multitask", 1)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny")
    with pytest.raises(ConfigError, match=r"pairs.steps: 6 then, 9 now \(pairs is trained already\)"):
        train(config_dir=config, expid="Tiny", resume=True, overrides=["pairs.steps=9"])


def test_a_finished_run_is_left_alone_and_says_what_differs(config, runs, caplog):
    train(config_dir=config, expid="Tiny")
    path = runs / "Tiny" / "report.json"
    # As an older version wrote it.
    content = json.loads(path.read_text())
    del content["precision"], content["config"]["obtain"]
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    assert train(config_dir=config, expid="Tiny", resume=True)[0].status == "completed"
    assert "other settings" not in caplog.text
    train(config_dir=config, expid="Tiny", resume=True, overrides=["pairs.steps=9"])
    assert "is complete with other settings (pairs.steps: 6 then, 9 now) and is left unchanged" in caplog.text
    assert path.read_bytes() == before


def test_a_kill_at_the_end_of_a_stage_trains_nothing_again(config, runs, stop_in, monkeypatch):
    whole, _ = train(config_dir=config, expid="Tiny", overrides=[f"model_root={runs / 'whole'}"])
    seen = []

    def kill(self):
        seen.append(report_of(runs))
        raise Killed

    monkeypatch.setattr(stage_trainer.StageTrainer, "discard_state", kill)
    with pytest.raises(Killed):
        train(config_dir=config, expid="Tiny")
    # The state goes only when the report has the stage and its scores.
    assert seen[0].stages["pairs"]["steps"] == 6
    assert seen[0].evaluation["pairs"] == whole.evaluation["pairs"]
    seen[0].write(runs / "Tiny" / "report.json")  # a kill would have left this one
    monkeypatch.undo()
    taken = stop_in("pairs", 0, AssertionError)
    report, _ = train(config_dir=config, expid="Tiny", resume=True)
    assert {stage for stage, _ in taken} == {"multitask"}
    assert report.evaluation == whole.evaluation
    assert not list((runs / "Tiny").glob("*.state.pt"))


def test_a_trained_stage_without_scores_is_scored_on_resume(config, runs, stop_in):
    """What an older version left that ended in the evaluation after a stage: weights, no state, no scores."""
    whole, path = train(config_dir=config, expid="Tiny")
    left = EmbeddingReport.read(path)
    left.status = "running"
    left.stages.pop("multitask")
    left.evaluation.pop("multitask")
    left.write(path)
    taken = stop_in("pairs", 0, AssertionError)
    report, _ = train(config_dir=config, expid="Tiny", resume=True)
    assert (report.status, report.evaluation, taken) == ("completed", whole.evaluation, [])


def test_temporary_files_of_killed_processes_are_swept(config, runs):
    folder = runs / "Tiny"
    (folder / "pairs").mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [
        folder / f".report.json.{ended.pid}.tmp",
        folder / f".pairs.state.pt.{ended.pid}.tmp",
        folder / "pairs" / f".model.safetensors.{ended.pid}.tmp",
    ]
    for path in left:
        path.write_text("half")
    train(config_dir=config, expid="Tiny", stage="pairs")
    assert not [path for path in left if path.exists()]


def test_a_tokenizer_of_other_settings_is_not_used(config, runs, stop_in):
    stop_in("pairs", 1)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny", overrides=["tokenizer.vocabulary_size=280"])
    stop_in("pairs", 99)
    report, _ = train(config_dir=config, expid="Tiny")
    assert report.tokenizer["vocabulary_size"] == 300


def test_a_stage_is_not_trained_under_a_later_one(config):
    train(config_dir=config, expid="Tiny", overrides=["multitask=null"])
    mlm = "{sources: [sentences], steps: 1, batch_tokens: 64, optimiser: {learning_rate: 1.e-3}}"
    with pytest.raises(ConfigError, match="holds pairs, trained without mlm: --overwrite trains from scratch"):
        train(config_dir=config, expid="Tiny", stage="mlm", overrides=[f"mlm={mlm}"])


def test_an_evaluation_leaves_a_stopped_run_stopped(config, runs, stop_in):
    stop_in("multitask", 1)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny", overrides=["pairs.steps=5", "multitask.steps=7"])
    before = report_of(runs)
    report, _ = train(config_dir=config, expid="Tiny", stage="evaluate")
    assert (report.status, report.error) == ("interrupted", before.error)
    assert report.config == before.config
    assert report.evaluation["pairs"] == before.evaluation["pairs"]


def test_an_evaluation_keeps_the_settings_of_the_training(config):
    before, _ = train(config_dir=config, expid="Tiny", overrides=["pairs.steps=5"])
    report, _ = train(config_dir=config, expid="Tiny", stage="evaluate", overrides=["evaluation.max_length=9"])
    assert report.config["pairs"] == before.config["pairs"]
    assert report.config["evaluation"] == {**before.config["evaluation"], "max_length": 9}


@pytest.mark.parametrize("arguments", [{"overwrite": True}, {"stage": "evaluate"}], ids=str)
def test_data_that_cannot_be_read_leaves_a_finished_run_as_it_is(config, runs, arguments):
    train(config_dir=config, expid="Tiny")
    files = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"test\.left\.txt does not exist"):
        train(config_dir=config, expid="Tiny", overrides=["data_root=nowhere"], **arguments)
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == files


def test_too_few_pairs_for_the_negatives_are_named(config, planted, runs, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for path in planted.iterdir():
        lines = path.read_text().splitlines(keepends=True)
        (data / path.name).write_text("".join(lines[:3] if "train" in path.name else lines))
    overrides = [f"data_root={data}", "pairs=null", "multitask.negatives=3"]
    with pytest.raises(ConfigError, match="3 pairs are too few for 3 hard negatives a query"):
        train(config_dir=config, expid="Tiny", overrides=overrides)
    assert report_of(runs).status == "failed"


def test_one_process_a_run(config, runs):
    runs.mkdir()
    with filelock.FileLock(runs / ".Tiny.lock"), pytest.raises(ConfigError, match="another process is running 'Tiny'"):
        train(config_dir=config, expid="Tiny")


@pytest.mark.parametrize(("speedup", "used"), [(0.1, "float32"), (1.1, "float32"), (1.6, "bfloat16")])
def test_auto_precision_is_measured_logged_and_kept(config, runs, stop_in, monkeypatch, caplog, speedup, used):
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: speedup)
    stop_in("pairs", 3)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny", overrides=["precision=auto"])
    assert report_of(runs).precision["asked"] == "auto"
    assert report_of(runs).precision["used"] == used
    assert f"precision: {used} was chosen" in caplog.text
    stop_in("pairs", 99)
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: 1.6 if used == "float32" else 0.1)
    report, _ = train(config_dir=config, expid="Tiny", resume=True)
    assert report.precision["used"] == used
    # On a processor where the run is slow now, it says so.
    assert ("bfloat16 is configured, but" in caplog.text) == (used == "bfloat16")


def test_the_shipped_experiments_choose_their_precision():
    found = {load_experiment(NANO.parent, expid).precision for expid in list_experiments(NANO.parent)}
    assert found == {"auto", "float32"}


def test_the_encode_stage_says_its_precision(config, planted, runs, tmp_path, monkeypatch, capsys, caplog):
    train(config_dir=config, expid="Tiny")
    monkeypatch.setattr(reduced_precision, "cpu_speedup", lambda: 0.1)
    file = TextFile(source=planted / "test.left.txt", target=tmp_path / "v.parquet")
    for asked, used in (("auto", "float32"), ("bfloat16", "bfloat16")):
        facts = commands.encode(
            config_dir=config, expid="Tiny", file=file,
            overrides=[f"precision={asked}"],
        )  # fmt: skip
        assert facts["precision"] == used
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == facts
    assert "precision: float32 was chosen" in caplog.text
    assert "precision: bfloat16 is configured, but" in caplog.text


@pytest.mark.parametrize("stage", cli.STAGES)
def test_a_gpu_that_is_not_there_is_an_error_in_every_stage(config, monkeypatch, capsys, stage):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    needed = {"encode": ["--input", "x.txt", "--output", "x.parquet"], "mteb": ["--output", "x"]}
    texts = needed.get(stage, [])
    for gpu in ("0", "-2"):
        with pytest.raises(SystemExit) as ended:
            cli.run_embedding_main(
                ["--config", str(config), "--expid", "Tiny", "--stage", stage, f"--gpu={gpu}", *texts]
            )
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said == f"error: --gpu {gpu}: this machine has no GPU that PyTorch can use (0 GPUs); -1 is the CPU\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("20240101: {preset: nano}", "expid 20240101 is read as int, not as text: write it in quotes"),
        ("1e3: {preset: nano}\n'../x': {preset: nano}", "expid '../x' holds '/'"),
        ("A: 3", "'A' must be a mapping of settings, found 3"),
        ("Tiny: {preset: nano}", "'Tiny' is defined in"),
    ],
)
def test_expids_are_checked_on_reading(config, content, message):
    (config / "more.yaml").write_text(content)
    for read in (list_experiments, lambda folder: load_experiment(folder, "Tiny")):
        with pytest.raises(ConfigError) as caught:
            read(config)
        assert message in str(caught.value)
        assert "more.yaml" in str(caught.value)


def test_a_folder_without_experiments_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no \*.yaml; name the folder of experiments with --config"):
        load_experiment(tmp_path, "Tiny")


def test_a_start_outside_of_the_model_folder_is_refused(config):
    with pytest.raises(ConfigError, match=r"the expid of start_from '..' must not"):
        load_experiment(config, "Tiny", overrides=["start_from=../pairs"])


def test_the_home_folder_is_expanded(config, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = ["data_root=~/d", "model_root=~/m", "data.sentences.paths=[~/a, b]"]
    experiment = load_experiment(config, "Tiny", overrides=overrides)
    assert (experiment.data_root, experiment.model_root) == (f"{tmp_path}/d", f"{tmp_path}/m")
    assert experiment.data["sentences"].paths == (f"{tmp_path}/a", "b")
    experiment = load_experiment(config, "Tiny", overrides=[*overrides, "start_from=Other/pairs"])
    assert Start.of(experiment, None).folder == tmp_path / "m" / "Other" / "pairs"


def test_the_home_folder_is_expanded_in_arguments(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    monkeypatch.setattr(cli, "_one_run", seen.append)
    for stage in ("encode", "evaluate"):
        paths = ["--config=~/c", "--input=~/i.txt", "--output=~/o.parquet"]
        cli.run_embedding_main(["--stage", stage, *paths])
        expected = [tmp_path / name for name in ("c", "i.txt", "o.parquet")]
        assert [seen[-1].config, seen[-1].input, seen[-1].output] == expected


def test_missing_data_says_where_it_comes_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run_embedding_main(["--config", str(NANO)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert said.startswith("error: source 'held_out': data/planted/test.left.txt does not exist; set data_root")
    assert said.endswith("`python tests/helpers/planted_languages.py data/planted` writes its files there.")
    assert report_of(Path("checkpoints/embedding"), "BiEncoder_nano").status == "failed"
    # Once the data is there, nothing is in the way.
    experiment = load_experiment(NANO, "BiEncoder_nano")
    run = runner.EmbeddingRun("BiEncoder_nano", experiment, run_name="BiEncoder_nano", device=torch.device("cpu"))
    assert not run.files.begun()


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("mlm.optimiser.warmup_steps=3", lambda e: (e.mlm.optimiser.warmup_steps, e.mlm.optimiser.learning_rate)),
        ("evaluation.masked_lengths=[3]", lambda e: (e.evaluation.masked_lengths[0], e.mlm.optimiser.learning_rate)),
    ],
)
def test_set_reaches_a_group_that_no_file_writes_down(planted, tmp_path, override, found):
    entry = {
        "preset": "nano", "data_root": str(planted), "tokenizer": {"sources": ["a"]}, "mlm": {"sources": ["a"]},
        "data": {"a": {"format": "lines", "paths": ["x"], "languages": ["en"]}},
    }  # fmt: skip
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"X": entry}))
    assert found(load_experiment(tmp_path, "X", overrides=[override])) == (3, 1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs.optimizer.learning_rate=1", "'optimizer' is not a group of settings here. Did you mean 'optimiser'?"),
        ("pairs.optimiser.learningrate=1", "'optimiser' has no key 'learningrate'. Did you mean 'learning_rate'?"),
        ("multitask.tasks.st.rate=1", "'st' is not a group of settings here. Did you mean 'sts'?"),
        ("multitask.tasks.sts.rat=1", "'sts' has no key 'rat'. Did you mean 'rate'?"),
        ("data.sentenes.paths=[x]", "'sentenes' is not a group of settings here. Did you mean 'sentences'?"),
        ("evaluation.max_lenght=3", "'evaluation' has no key 'max_lenght'. Did you mean 'max_length'?"),
        ("pairs.steps.x=3", "'steps' is not a group of settings here."),
        ("modelroot=x", "unknown key 'modelroot'. Did you mean 'model_root'?"),
        ("seed=-1", "seed must be a whole number from 0, found -1"),
        (
            "evaluation={sources: [held_out], masked_source: held_out, masked_lengths: [2]}",
            "masked_lengths must be numbers",
        ),
        ("save_steps=0", "save_steps must be a whole number from 1, found 0"),
    ],
)
def test_an_unknown_key_of_set_names_the_nearest(config, override, message):
    with pytest.raises(ConfigError) as caught:
        load_experiment(config, "Tiny", overrides=[override])
    assert message in str(caught.value)


def test_a_damaged_state_is_one_clear_error(config, runs, stop_in):
    stop_in("pairs", 3)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Tiny")
    state = runs / "Tiny" / "pairs.state.pt"
    for content in (state.read_bytes()[:1000], b"", b"text"):
        state.write_bytes(content)
        with pytest.raises(DataError, match=rf"{state} cannot be read .*: --overwrite"):
            train(config_dir=config, expid="Tiny", resume=True)
    assert report_of(runs).status == "failed"


def test_a_state_of_another_run_is_refused(config, runs, stop_in):
    for overrides in (["pairs.temperature=0.5", "seed=5", f"model_root={runs / 'other'}"], []):
        stop_in("pairs", 3)
        with pytest.raises(KeyboardInterrupt):
            train(config_dir=config, expid="Tiny", overrides=overrides)
    own = runs / "Tiny" / "pairs.state.pt"
    own.write_bytes((runs / "other" / "Tiny" / own.name).read_bytes())
    stop_in("pairs", 2)
    with pytest.raises(DataError) as caught:
        train(config_dir=config, expid="Tiny", resume=True)
    differing = "pairs.temperature: 0.5 there, 0.05 here, seed: 5 there, 2024 here"
    assert str(caught.value) == f"{own} is of another run ({differing}): --overwrite starts the run over"
    own.unlink()
    own.mkdir()
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(DataError, match=r"pairs\.state\.pt is a folder, but .*: move it away"):
            train(config_dir=config, expid="Tiny", **options)


def test_what_may_differ_between_a_state_and_its_run(config):
    def settings(*overrides):
        return load_experiment(config, "Tiny", overrides=overrides)

    for stage, override, may in (
        ("pairs", "pairs.steps=9", True), ("pairs", "multitask.steps=9", True), ("pairs", "memory_tokens=5000", True),
        ("pairs", "evaluation=null", True), ("multitask", "multitask.steps=9", True), ("pairs", "data_root=x", True),
        ("multitask", "pairs.steps=9", False), ("pairs", "pairs.batch_size=9", False), ("pairs", "dropout=0.3", False),
    ):  # fmt: skip
        stored = owner_of(settings(override), stage, "Tiny").as_dict()
        # A later version may have settings that the state does not know.
        del stored["settings"]["positions"]
        with contextlib.nullcontext() if may else pytest.raises(DataError, match=override.partition("=")[0]):
            owner_of(settings(), stage, "Tiny").refuse_another(stored, Path("x"))


def test_logging_is_left_as_it_was(config, capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    train(config_dir=config, expid="Tiny", seed=3, overrides=["multitask=null", "pairs.steps=1"])
    assert (root.handlers, root.level) == before
    assert " Tiny_s3 INFO evaluation: pairs" in capsys.readouterr().err
