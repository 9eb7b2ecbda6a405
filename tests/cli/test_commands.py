"""The commands as a user types them: quick help, exit status, one line on error, no traceback."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers.typed_command import type_command

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = ["model_zoo/QIN/run_expid.py", *sorted(p.name for p in ROOT.glob("run_*.py"))]
COMMANDS += sorted(f"datasets/{p.name}" for p in ROOT.glob("datasets/*.py"))
# Processes of their own, with seconds of imports before the error, are tested by their runs.
SLOW_TO_REFUSE = {"model_zoo/QIN/run_expid.py", "run_embedding.py", "run_expid.py"}


def run(repository, *arguments, cwd=None):
    environment = {**os.environ, "COLUMNS": "120"}
    try:
        # Where the package is installed, as a user has it, nothing else may be needed to find it.
        metadata.distribution("fuxictr-multimodal")
    except metadata.PackageNotFoundError:
        environment["PYTHONPATH"] = str(repository)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd or repository, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_the_heavy_imports(repository, command):
    done = run(repository, "-X", "importtime", repository / command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    # A help text that says its default, and the formatter again.
    assert ") (default: " not in " ".join(done.stdout.split())
    assert not {"torch", "fuxictr", "ray", "polars"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--expid", "QIN_tset"], "expid 'QIN_tset' is not in config. Did you mean 'QIN_test'?"),
        (["--config", "nowhere"], "nowhere: found neither model_config.yaml"),
        (["--expid", "QIN_MicroLens_1M"], "recsys.westlake.edu.cn"),
        (["--set", "learning_rtae=1e-3"], "unknown key 'learning_rtae'. Did you mean 'learning_rate'?"),
    ],
)
def test_bad_input_is_one_line_and_status_2(repository, tmp_path, arguments, message):
    if "--config" not in arguments:
        arguments = [*arguments, "--config", "config"]
    (tmp_path / "config").symlink_to(repository / "config")
    done = type_command([str(repository / "run_expid.py"), *arguments], folder=tmp_path)
    assert done.status == 2
    assert message in done.errors
    assert "Traceback" not in done.errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_command_in_an_empty_folder_says_what_to_do(repository, tmp_path, command):
    if command in SLOW_TO_REFUSE:
        typed = type_command([str(repository / command)], folder=tmp_path, environment={"COLUMNS": "120"})
        status, out, errors = typed.status, typed.out, typed.errors
    else:
        done = run(repository, repository / command, cwd=tmp_path)
        status, out, errors = done.returncode, done.stdout, done.stderr
    assert status == 2, errors
    *_, last = errors.splitlines()
    assert re.match(r"(\w+\.py: )?error: .{20}", last)
    assert "Traceback" not in errors
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory):
    """A FuxiCTR clone with a copy of `model_zoo/QIN`, one file of which is edited, after a run from that folder."""
    folder = tmp_path_factory.mktemp("clone") / "model_zoo/QIN"
    shutil.copytree(repository / "model_zoo/QIN", folder, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    with (folder / "quadratic.py").open("a") as file:
        file.write("\nimport logging\nlogging.getLogger().warning('the edited copy')\n")
    done = type_command(["run_expid.py", "--expid", "QIN_test"], folder=folder)
    assert done.status == 0, done.errors
    return folder, done


@pytest.mark.slow
def test_a_copy_in_a_fuxictr_clone_runs_itself_and_says_so(clone):
    folder, done = clone
    assert "the edited copy" in done.errors
    log = (folder / "checkpoints/Synthetic_test/QIN_test.log").read_text()
    assert f"Model QIN is code of {folder / 'QIN.py'}" in log
    for text in (log, done.out):
        assert "smoke test" in text
        assert "too short to learn" in " ".join(text.split())


@pytest.mark.slow
def test_the_zoo_style_command_writes_below_the_folder_where_it_runs(clone):
    folder, done = clone
    assert "completed" in done.out
    assert (folder / "data/Synthetic_test/manifest.json").is_file()
    assert (folder / "checkpoints/Synthetic_test/QIN_test.report.json").is_file()
    above = folder.parent.parent
    assert [path.relative_to(above).as_posix() for path in sorted(above.glob("*/*"))] == ["model_zoo/QIN"]


@pytest.mark.slow
def test_each_seed_of_a_copy_runs_the_copy(repository, clone):
    folder, _ = clone
    done = run(repository, "run_expid.py", "--expid", "QIN_test", "--seeds", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    log = (folder / "checkpoints/Synthetic_test/QIN_test_s1.log").read_text()
    assert f"Model QIN is code of {folder / 'QIN.py'}" in log


def test_the_home_folder_in_arguments_and_overrides(repository, tmp_path, monkeypatch):
    from fuxictr_multimodal.cli.experiment import run_expid_main
    from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main

    home = tmp_path / "home"
    home.mkdir()
    (home / "config").symlink_to(repository / "config")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    settings = ["model_root=~/ck", "data_root=~/data", "synthetic.rows=256", "verbose=0"]
    run_expid_main(["--config=~/config", "--expid=QIN_test", *(f"--set={text}" for text in settings)])
    assert (home / "ck/Synthetic_test/QIN_test@synthetic.rows=256.report.json").is_file()
    assert '"rows": 256' in (home / "data/Synthetic_test/manifest.json").read_text()
    run_leaderboard_main(["--model-root=~/ck", "--out=~/board.md", "--bootstrap=0"])
    assert (home / "board.md").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run_expid_main", "--expid"],
        ["run_expid_main", "--seeds", "1,2", "--expid"],
        ["run_expid_main", "--expid", "QIN_test", "--set"],
        ["run_predict_main", "--expid"],
        ["run_explain_main", "--expid"],
        ["run_param_tuner_main", "--expid"],
        ["run_leaderboard_main", "--dataset"],
    ],
)
def test_a_name_that_leaves_its_folder_is_refused_everywhere(repository, tmp_path, monkeypatch, capsys, arguments):
    inside = tmp_path / "a/b/c"
    inside.mkdir(parents=True)
    (inside / "config").symlink_to(repository / "config")
    monkeypatch.chdir(inside)
    before = sorted(tmp_path.rglob("*"))
    name, *options = arguments
    room = {"run_expid_main": "experiment", "run_param_tuner_main": "tuner"}.get(name, name.split("_")[1])
    main = getattr(importlib.import_module(f"fuxictr_multimodal.cli.{room}"), name)
    for value in ("../../x", "x/../y"):
        with pytest.raises(SystemExit) as ended:
            main([*options, f"dataset_id={value}" if options[-1] == "--set" else value])
        error = capsys.readouterr().err
        assert (ended.value.code, error.count("\n")) == (2, 1)
        assert error.startswith("error: ")
        assert value in error
        assert sorted(tmp_path.rglob("*")) == before


def test_a_dataset_script_refuses_such_a_name_too(repository, tmp_path):
    done = run(repository, repository / "datasets/synthetic.py", "--dataset-id", "../x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: dataset_id '../x' holds '/': use letters, digits and _ - . @ = + only\n"
    assert not list(tmp_path.iterdir())
