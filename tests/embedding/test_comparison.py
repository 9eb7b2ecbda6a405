"""Runs from another run's stage, several runs by one command, and their table over seeds."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bilingual_embedding.cli import run_embedding_main
from bilingual_embedding.commands import train
from bilingual_embedding.evaluation.comparison import compare, read_seeds
from bilingual_embedding.training import many
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import load_experiment
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.launch.plans import Plan
from tests.helpers.typed_command import type_command

REPOSITORY = Path(__file__).resolve().parents[2]
NANO = REPOSITORY / "config" / "embedding" / "nano.yaml"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A config folder with a small experiment and an ablation of its last stage, and their data and runs."""
    folder = tmp_path_factory.mktemp("bench")
    subprocess.run(
        [sys.executable, REPOSITORY / "tests" / "helpers" / "planted_languages.py", folder / "data"], check=True
    )
    nano = yaml.safe_load(NANO.read_text())["BiEncoder_nano"]
    nano.update(data_root=str(folder / "data"), model_root=str(folder / "runs"), mlm=None)
    nano["pairs"]["steps"] = nano["multitask"]["steps"] = 4
    arm = {**nano, "start_from": "Whole/pairs", "pairs": None}
    arm["multitask"] = {**nano["multitask"], "sts_objective": "squared_error"}
    config = folder / "config"
    config.mkdir()
    (config / "all.yaml").write_text(yaml.safe_dump({"Whole": nano, "Arm": arm}))
    return folder


@pytest.fixture(scope="module")
def trained(bench):
    """Two seeds of the experiment."""
    for seed in (1, 2):
        train(config_dir=bench / "config", expid="Whole", seed=seed)
    return bench


def test_a_run_starts_from_a_stage_of_another(trained):
    report, _ = train(config_dir=trained / "config", expid="Arm", seed=1, overrides=[f"model_root={trained / 'runs'}"])
    whole = EmbeddingReport.read(trained / "runs" / "Whole_s1" / "report.json")
    assert list(report.evaluation) == ["Whole/pairs", "multitask"]
    assert report.evaluation["Whole/pairs"] == whole.evaluation["pairs"]
    assert report.tokenizer["vocabulary_size"] == whole.tokenizer["vocabulary_size"]
    assert list(report.stages) == ["multitask"]


def test_the_same_last_stage_ends_the_same(trained, tmp_path):
    """An ablation that ablates nothing is the run it starts from."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "Whole_s1").symlink_to(trained / "runs" / "Whole_s1")
    report, _ = train(
        config_dir=trained / "config", expid="Arm", seed=1,
        overrides=[f"model_root={runs}", "multitask.sts_objective=pearson"],
    )  # fmt: skip
    whole = EmbeddingReport.read(runs / "Whole_s1" / "report.json")
    assert report.evaluation["multitask"] == whole.evaluation["multitask"]


def test_a_missing_start_names_the_folder_and_the_command(bench, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(config_dir=bench / "config", expid="Arm", seed=7, overrides=[f"model_root={tmp_path}"])
    assert str(tmp_path / "Whole_s7" / "pairs") in str(caught.value)
    assert "`python run_embedding.py --expid Whole --stage all --seed 7` trains it" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("preset=tiny", "its encoder is not of preset 'tiny'"),
        ("positions=learned", "with positions 'learned'"),
        ("start_from=Whole", "write <expid>/<stage> with a stage of mlm, pairs, multitask"),
        ("evaluation.max_length=32", None),
    ],
)
def test_a_start_must_fit(trained, tmp_path, override, message):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "Whole_s1").symlink_to(trained / "runs" / "Whole_s1")
    overrides = [f"model_root={runs}", override]
    if message is None:
        assert train(config_dir=trained / "config", expid="Arm", seed=1, overrides=overrides)[0].status == "completed"
    else:
        with pytest.raises(ConfigError, match=message):
            train(config_dir=trained / "config", expid="Arm", seed=1, overrides=overrides)


def test_a_start_that_may_know_the_evaluated_texts_is_refused(trained):
    overrides = ["data.other={format: lines, paths: [train.left.txt], languages: [left]}", "evaluation.sources=[other]"]
    with pytest.raises(ConfigError, match="other is evaluated here but was not held out there"):
        train(config_dir=trained / "config", expid="Arm", seed=2, overrides=overrides)


def test_finished_runs_are_left_alone(trained, capsys):
    path = trained / "runs" / "Whole_s2" / "report.json"
    before = path.read_bytes()
    report, _ = train(config_dir=trained / "config", expid="Whole", seed=2, resume=True)
    assert report.status == "completed"
    assert path.read_bytes() == before
    assert "Whole (nano), seed 2: completed" in capsys.readouterr().out


def test_plans_of_a_glob_and_seeds(bench):
    config = bench / "config"
    assert many.expand(config, "Wh*,Arm", "1-2") == [
        Plan(expid, seed, config) for expid in ("Whole", "Arm") for seed in (1, 2)
    ]
    with pytest.raises(ConfigError, match="'Hole' matches nothing in .* Did you mean 'Whole'?"):
        many.expand(config, "Hole", None)


def test_several_runs_by_one_command(trained):
    """One is finished, one starts from a run that is missing: the others go on, and the status says so."""
    done = type_command(
        [str(REPOSITORY / "run_embedding.py"), "--config", str(trained / "config"), "--expid", "Whole,Arm",
         "--seeds", "2-3", "--resume", "--set", "save_steps=2", "--set", "start_from=Nothing/pairs"],
        folder=trained,
    )  # fmt: skip
    lines = done.out.splitlines()
    assert done.status == 1, done.errors
    assert any(line.startswith("Whole_s2: completed") for line in lines)
    assert sum("Nothing_s" in line and ": failed in" in line for line in lines) == 3
    assert "[4/4] Arm_s3" in done.errors


def write_report(root, expid, seed, final, *, status="completed", score="sts"):
    report = EmbeddingReport(
        expid=expid, preset="nano", seed=seed, status=status, floors={score: 50.0},
        stages={"pairs": {"seconds": 60.0}}, evaluation={"untrained": {score: 10.0}, "pairs": {score: final}},
    )  # fmt: skip
    report.write(root / f"{expid}_s{seed}" / "report.json")


def test_table_over_seeds(bench, tmp_path):
    for seed, final in ((1, 60.0), (2, 62.0), (10, 64.0)):
        write_report(tmp_path, "Whole", seed, final)
        write_report(tmp_path, "Arm", seed, final + seed)
    write_report(tmp_path, "Whole", 11, 0.0, status="failed")
    overrides = [f"model_root={tmp_path}"]
    text = compare(bench / "config", ["Whole", "Arm"], overrides=overrides)
    assert text == compare(bench / "config", ["Whole", "Arm"], overrides=overrides)
    assert "Preset nano; seeds 1, 2, 10; 1.0 minutes of training a run." in text
    assert "| sts      |     50.0 | 10.0 ± 0.0 | 62.0 ± 2.0 |" in text
    # Mean of 1, 2, 10 with t(2) = 4.303 and a standard deviation of 4.933.
    assert "## Minus Whole" in text
    assert "Arm (n = 3) |" in text
    assert "+4.3 [-7.9, +16.6]" in text


def test_one_seed_has_no_spread_and_other_scores_no_difference(bench, tmp_path):
    write_report(tmp_path, "Whole", 1, 60.0)
    write_report(tmp_path, "Arm", 1, 61.0, score="another")
    text = compare(bench / "config", ["Whole", "Arm"], overrides=[f"model_root={tmp_path}"])
    assert "| sts      |     50.0 |      10.0 |  60.0 |" in text
    assert "Minus" not in text


def test_a_score_that_is_not_defined_is_a_dash_and_is_left_out_of_means(bench, tmp_path):
    overrides = [f"model_root={tmp_path}"]
    for expid in ("Whole", "Arm"):
        write_report(tmp_path, expid, 1, None)
        write_report(tmp_path, expid, 2, 62.0)
        write_report(tmp_path, expid, 3, 64.0)
    text = compare(bench / "config", ["Whole", "Arm"], overrides=overrides)
    assert "| sts      |     50.0 | 10.0 ± 0.0 | 63.0 ± 1.4 (n = 2) |" in text
    assert "+0.0 [+0.0, +0.0] (n = 2) |" in text
    for expid in ("Whole", "Arm"):
        for seed in (2, 3):
            write_report(tmp_path, expid, seed, None)
    text = compare(bench / "config", ["Whole", "Arm"], overrides=overrides)
    assert "| sts      |     50.0 | 10.0 ± 0.0 |     - |" in text


def test_seeds_scored_after_different_stages_have_no_difference(bench, tmp_path):
    for expid in ("Whole", "Arm"):
        for seed, stage in ((1, "pairs"), (2, "mlm")):
            report = EmbeddingReport(expid, "nano", seed, "completed", evaluation={stage: {"sts": 1.0}})
            report.write(tmp_path / f"{expid}_s{seed}" / "report.json")
    assert "Minus" not in compare(bench / "config", ["Whole", "Arm"], overrides=[f"model_root={tmp_path}"])


def test_compare_says_what_is_missing(bench, tmp_path):
    overrides = [f"model_root={tmp_path}"]
    with pytest.raises(ConfigError, match="no completed run of Whole below"):
        compare(bench / "config", ["Whole"], overrides=overrides)
    write_report(tmp_path, "Whole", 1, 60.0)
    assert "Without a completed run: Arm." in compare(bench / "config", ["Whole", "Arm"], overrides=overrides)
    (tmp_path / "Whole_s1").rename(tmp_path / "Whole")
    write_report(tmp_path, "Whole", 1, 60.0)
    with pytest.raises(DataError, match="runs of Whole with one seed, 1"):
        read_seeds(tmp_path, "Whole")


def test_compare_from_the_command_line(trained, tmp_path, capsys):
    arguments = ["--config", str(trained / "config"), "--stage", "compare", "--expid", "Whole"]
    run_embedding_main([*arguments, "--output", str(tmp_path / "new" / "table.md")])
    printed = capsys.readouterr().out
    assert (tmp_path / "new" / "table.md").read_text() == printed
    assert printed.startswith("Scores in percent")
    with pytest.raises(SystemExit):
        run_embedding_main([*arguments, "--seeds", "1-2"])


def test_ablations_of_the_last_stage_differ_in_it_only():
    whole, other, without = (
        load_experiment(NANO.parent, f"BiEncoder_en_de{end}") for end in ("", "_squared_error", "_no_sts")
    )
    assert (other.start_from, without.start_from) == ("BiEncoder_en_de/pairs",) * 2
    assert other.multitask.sts_objective == "squared_error"
    assert list(without.multitask.tasks) == ["retrieval"]
    assert {e.multitask.steps for e in (whole, other, without)} == {whole.multitask.steps}
    assert whole.data == other.data == without.data
