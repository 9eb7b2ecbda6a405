"""A nano experiment end to end: a planted translation is learnt, a killed run resumes, settings are checked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from bilingual_embedding import commands
from bilingual_embedding.training import stage_trainer
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.runner import EmbeddingRun
from bilingual_embedding.training.settings import list_experiments, load_experiment
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.typed_command import type_command

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "config" / "embedding"
# Stages that have a state to go on from, and steps after it.
SHORT = ("mlm.steps=20", "pairs.steps=20", "multitask.steps=20", "save_steps=10")


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    subprocess.run([sys.executable, REPOSITORY / "tests" / "helpers" / "planted_languages.py", folder], check=True)
    return folder


@pytest.fixture
def make_run(planted, tmp_path):
    def make(*overrides, name="run", root=tmp_path):
        settings = [f"data_root={planted}", f"model_root={root}", *overrides]
        experiment = load_experiment(CONFIG, "BiEncoder_nano", overrides=settings)
        return EmbeddingRun("BiEncoder_nano", experiment, run_name=name, device=torch.device("cpu"), progress=False)

    return make


@pytest.fixture(scope="session")
def finished(planted, tmp_path_factory):
    """One complete run that several tests look at."""
    return executed(planted, tmp_path_factory.mktemp("finished"), "save_steps=10")


@pytest.fixture(scope="session")
def short(planted, tmp_path_factory):
    """A run of `SHORT`, complete at once."""
    return executed(planted, tmp_path_factory.mktemp("short"), *SHORT)


def executed(planted, root, *overrides):
    settings = [f"data_root={planted}", f"model_root={root}", *overrides]
    experiment = load_experiment(CONFIG, "BiEncoder_nano", overrides=settings)
    run = EmbeddingRun("BiEncoder_nano", experiment, run_name="run", device=torch.device("cpu"), progress=False)
    return run, run.execute("all")


def test_planted_translation_is_learnt(finished):
    _, report = finished
    assert report.status == "completed"
    found = report.evaluation
    for way in ("left->right", "right->left"):
        assert found["untrained"][f"held_out {way}"] < 10
        assert report.floors[f"held_out {way}"] < 10
        assert found["pairs"][f"held_out {way}"] > 90
        assert found["multitask"][f"held_out {way}"] > 90
    assert found["multitask"]["held_out_scored"] > found["untrained"]["held_out_scored"]


def test_report_tells_the_run(finished):
    run, report = finished
    assert EmbeddingReport.read(run.files.report) == report
    assert list(report.stages) == ["mlm", "pairs", "multitask"]
    assert report.stages["pairs"]["steps"] == 150
    assert {"retrieval", "sts"} == {task for row in report.stages["multitask"]["curve"] for task in row["loss"]}
    assert report.data["sentences"]["pairs"]["kept"] <= 1500
    assert set(report.tokenizer["tokens_per_word"]) == {"left", "right"}
    assert {p.name for p in run.files.path.iterdir()} == {"report.json", "tokenizer.json", "mlm", "pairs", "multitask"}
    assert (run.files.path / "mlm" / "head.safetensors").is_file()


@pytest.mark.parametrize("stage", ["mlm", "pairs", "multitask"])
def test_a_run_killed_in_any_stage_ends_the_same(short, make_run, monkeypatch, stage):
    original = stage_trainer.StageTrainer._step

    def die(self, number):
        if self.name == stage and number == 15:
            raise KeyboardInterrupt
        return original(self, number)

    monkeypatch.setattr(stage_trainer.StageTrainer, "_step", die)
    run = make_run(*SHORT)
    with pytest.raises(KeyboardInterrupt):
        run.execute("all")
    left = EmbeddingReport.read(run.files.report)
    state = run.files.path / f"{stage}.state.pt"
    assert left.status == "interrupted"
    assert left.error == "interrupted by SIGINT"
    assert state.is_file()
    monkeypatch.setattr(stage_trainer.StageTrainer, "_step", original)
    torch.manual_seed(123)
    report = make_run(*SHORT).execute("all", resume=True)
    _, expected = short
    assert report.evaluation == expected.evaluation
    assert [s["curve"] for s in report.stages.values()] == [s["curve"] for s in expected.stages.values()]
    ours, theirs = (load_file(r.files.path / "multitask" / "model.safetensors") for r in (run, short[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_stages_one_by_one_equal_all_at_once(short, make_run):
    for stage in ("mlm", "pairs", "multitask"):
        report = make_run(*SHORT).execute(stage)
    assert report.status == "completed"
    assert report.evaluation == short[1].evaluation


def test_gradient_cache_leaves_the_trace(make_run):
    """A quarter of the memory: the same losses but for rounding."""
    short = ("mlm=null", "multitask=null", "pairs.steps=10")
    whole = make_run(*short, name="whole").execute("all").stages["pairs"]["curve"]
    cached = make_run(*short, "memory_tokens=300", name="cached").execute("all").stages["pairs"]["curve"]
    for one, other in zip(whole, cached, strict=True):
        assert one["loss"]["sentences"] == pytest.approx(other["loss"]["sentences"], rel=1e-3)


def test_other_objectives_and_precision_run(make_run):
    report = make_run(
        "mlm=null", "pairs.steps=5", "multitask.steps=6", "multitask.sts_objective=squared_error",
        "multitask.widths=[8, 32]", "precision=bfloat16", "gradient_checkpointing=true", "positions=learned",
        "evaluation=null",
    ).execute("all")  # fmt: skip
    assert report.status == "completed"
    assert report.evaluation == {}


def test_nothing_is_trained_twice_unasked(finished, make_run):
    run, _ = finished
    again = EmbeddingRun("BiEncoder_nano", run.experiment, run_name="run", device=torch.device("cpu"), progress=False)
    with pytest.raises(ConfigError, match="holds mlm, pairs, multitask already: --resume"):
        again.execute("all")
    assert again.execute("evaluate").evaluation["multitask"] == finished[1].evaluation["multitask"]
    with pytest.raises(ConfigError, match="stage 'pairs' starts from stage 'mlm', which is not trained yet"):
        make_run(name="fresh").execute("pairs")
    with pytest.raises(ConfigError, match="'mlm' is not in this experiment; it has pairs"):
        make_run("mlm=null", "multitask=null").execute("mlm")
    with pytest.raises(ConfigError, match="contains no trained stage"):
        make_run(name="fresh").load()


def test_overwrite_trains_a_stage_and_forgets_the_later_ones(make_run):
    small = ("mlm.steps=2", "pairs.steps=2", "multitask.steps=2")
    make_run(*small).execute("all")
    run = make_run(*small)
    report = run.execute("pairs", overwrite=True)
    assert (list(report.stages), list(report.evaluation)) == (["mlm", "pairs"], ["untrained", "mlm", "pairs"])
    assert not run.files.trained("multitask")
    assert report.status == "running"


def test_evaluation_texts_never_reach_training(make_run, planted, tmp_path):
    copy = tmp_path / "data"
    copy.mkdir()
    for path in planted.iterdir():
        (copy / path.name).write_text(path.read_text())
    for side in ("left", "right"):
        text = (copy / f"test.{side}.txt").read_text().splitlines()
        with (copy / f"train.{side}.txt").open("a") as file:
            file.writelines(line.upper() + ".\n" for line in text[:7])
    run = make_run(f"data_root={copy}", "mlm=null", "multitask=null", "pairs.steps=1")
    counts = run.execute("all").data["sentences"]["pairs"]
    assert counts["contaminated"] >= 7
    assert counts["read"] == 1507


def test_masked_words_are_scored_by_length(planted, tmp_path):
    books = [
        {"book": str(i), "chapters": [(planted / "train.left.txt").read_text().splitlines()[i::4]]} for i in range(4)
    ]
    (tmp_path / "en_kjv.json").write_text(json.dumps(books))
    files = {"format": "bible_json", "paths": ["en_kjv.json"], "languages": ["en"]}
    trained, held_out = ({**files, "books": numbers} for numbers in ([0, 3], [3, 4]))
    experiment = load_experiment(
        CONFIG, "Lengths_learned",
        overrides=[
            "preset=nano", f"data_root={tmp_path}", f"model_root={tmp_path}", "tokenizer.vocabulary_size=400",
            f"data.bible={json.dumps(trained)}", f"data.held_out={json.dumps(held_out)}",
            "evaluation.masked_lengths=[64, 256]", "mlm.steps=3", "mlm.max_length=64",
        ],
    )  # fmt: skip
    run = EmbeddingRun("Lengths_learned", experiment, run_name="run", device=torch.device("cpu"), progress=False)
    report = run.execute("all")
    assert set(report.evaluation["mlm"]) == {"masked words at 64", "masked words at 256"}
    assert set(report.data) == {"bible"}


@pytest.mark.parametrize("expid", list_experiments(CONFIG))
def test_shipped_experiments_bind(expid):
    experiment = load_experiment(CONFIG, expid)
    assert experiment.evaluation.held_out
    assert set(experiment.evaluation.held_out) <= set(experiment.data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pair.steps=3", "'pair' is not a group of settings here. Did you mean 'pairs'?"),
        ("pairs.stepz=3", "'pairs' has no key 'stepz'. Did you mean 'steps'?"),
        ("pairs.steps=many", "pairs: steps must be a whole number from 0, found 'many'"),
        ("pairs.optimiser.learning_rate=-1", "learning_rate must be a positive number"),
        ("preset=3", "preset must be text, found 3"),
        ("precision=float8", "precision 'float8' is unknown; choose from float32, bfloat16"),
        ("pairs.rates={sentence: 1.0}", "source 'sentence' is not under `data`. Did you mean 'sentences'?"),
        ("evaluation.sources=[sentences]", "source 'sentences' is evaluated on and trained on"),
        ("tokenizer={}", "tokenizer does not set `sources`"),
        ("steps", "write key=value"),
    ],
)
def test_bad_settings_are_named(override, message):
    with pytest.raises(ConfigError) as caught:
        load_experiment(CONFIG, "BiEncoder_nano", overrides=[override])
    assert message in str(caught.value)


def test_unknown_experiment_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'BiEncoder_en_de'?"):
        load_experiment(CONFIG, "BiEncoder_ende")


def test_a_published_encoder_is_scored_on_the_same_sets(planted, monkeypatch, capsys):
    def constant(texts):
        return np.ones((len(texts), 1), dtype=np.float32)

    monkeypatch.setattr(commands, "load_published", lambda name, device: constant)
    commands.evaluate_published(
        config_dir=CONFIG, expid="BiEncoder_nano", name="some/encoder",
        overrides=[f"data_root={planted}", "evaluation.sources=[held_out]"],
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["scores"] == {"held_out left->right": 1.0, "held_out right->left": 1.0}
    assert set(found["floors"]) == set(found["scores"])


def test_missing_data_is_named(make_run, tmp_path):
    run = make_run(f"data_root={tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="does not exist; set data_root"):
        run.execute("all")
    assert EmbeddingReport.read(run.files.report).status == "failed"


def test_command(finished, planted, tmp_path):
    """The script as a user types it: quick help, one-line errors, encode with a JSON line at the end."""

    def typed(*arguments):
        words = [REPOSITORY / "run_embedding.py", "--config", CONFIG, *arguments]
        return type_command([*map(str, words)], folder=tmp_path)

    bad = typed("--expid", "BiEncoder_nan")
    assert (bad.status, bad.out) == (2, "")
    assert bad.errors.startswith("error: expid 'BiEncoder_nan' is not in")
    assert typed("--stage", "encode").status == 2
    run, _ = finished
    (run.files.path.parent / "BiEncoder_nano").symlink_to(run.files.path)
    done = typed(
        "--stage", "encode", "--set", f"model_root={run.files.path.parent}", "--input", planted / "test.left.txt",
        "--output", "v.parquet",
    )  # fmt: skip
    assert done.status == 0, done.errors
    assert json.loads(done.out.splitlines()[-1])["texts"] == 100
    assert len(pl.read_parquet(tmp_path / "v.parquet")) == 100


def test_help_is_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", REPOSITORY / "run_embedding.py", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "numpy", "polars", "tokenizers"} & imported
