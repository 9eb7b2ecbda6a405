"""`fxmm` as a user types it after `pip install`: subcommands, shipped configs, hints, exit statuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_multimodal.cli.main import SUBCOMMANDS
from fuxictr_multimodal.config.packaged import packaged
from fuxictr_multimodal.version import __version__
from tests.helpers.typed_command import type_command

HEAVY = {"torch", "fuxictr", "ray", "polars", "numpy", "yaml", "rich"}


@pytest.fixture
def fxmm(repository, tmp_path):
    """Run `fxmm` in an empty folder."""

    def call(*arguments, options=()):
        return subprocess.run(
            [sys.executable, *options, "-m", "fuxictr_multimodal.cli.main", *map(str, arguments)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "120"},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return call


@pytest.fixture
def forked(tmp_path):
    """Run `fxmm` in an empty folder, with the large imports done before."""

    def call(*arguments):
        words = ["-m", "fuxictr_multimodal.cli.main", *map(str, arguments)]
        done = type_command(words, folder=tmp_path, environment={"COLUMNS": "120"})
        return subprocess.CompletedProcess(words, done.status, done.out, done.errors)

    return call


@pytest.mark.parametrize("arguments", [["--help"], [], *([name, "--help"] for name in SUBCOMMANDS)])
def test_help_needs_the_standard_library_only(fxmm, arguments):
    done = fxmm(*arguments, options=["-X", "importtime"])
    assert done.returncode == 0, done.stderr
    assert f"usage: fxmm{' ' if arguments in ([], ['--help']) else ' ' + arguments[0]}" in done.stdout
    assert "examples:\n  fxmm " in done.stdout
    assert ") (default: " not in " ".join(done.stdout.split())
    assert not HEAVY & {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}


def test_help_lists_every_subcommand_and_version_says_it(fxmm):
    shown = fxmm("--help").stdout
    assert re.findall(r"^  (\w+)  +\S", shown.partition("commands:")[2], flags=re.MULTILINE) == list(SUBCOMMANDS)
    assert fxmm("--version").stdout == f"fxmm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leaderbord"], "fxmm has no command 'leaderbord'. Did you mean 'leaderboard'?"),
        (["zzz"], "fxmm has no command 'zzz'. Known: build, compare,"),
        (["run", "--expid", "QIN_tset"], "Did you mean 'QIN_test'?"),
        (["build", "--dataset_id", "MovieLens"], "python datasets/movielens.py --raw"),
        (["tune"], "copies the packaged ones to ./config"),
        (["compare"], "copies the packaged ones to ./config"),
        (["verify", "--dataset-id", "Synthetic_test"], "does not exist: build the dataset first"),
    ],
)
def test_bad_input_is_one_line_and_status_2(forked, tmp_path, arguments, message):
    done = forked(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_shipped_configs_are_used_until_there_are_own_ones(fxmm, tmp_path):
    done = fxmm("config")
    assert re.search(r"^QIN_test +QIN +Synthetic_test \(synthetic\)$", done.stdout, flags=re.MULTILINE)
    assert done.stderr == (
        f"Configs are read from {packaged('config')}; a ./config folder or --config takes precedence.\n"
    )
    assert "files to ./config" in fxmm("config", "--copy").stdout
    shipped = sorted(path.relative_to(packaged("config")) for path in packaged("config").glob("*/*.yaml"))
    assert sorted(path.relative_to(tmp_path / "config") for path in tmp_path.rglob("*.yaml")) == shipped
    (tmp_path / "config/model_config/own.yaml").write_text("Own: {model: QIN, dataset_id: Synthetic_test}\n")
    done = fxmm("config")
    assert "\nOwn " in "\n" + done.stdout
    assert done.stderr == ""
    assert fxmm("config", "--copy").stderr.startswith("error: ./config already exists")


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    from bilingual_embedding.cli import run_embedding_main

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SystemExit) as ended:
        run_embedding_main([])
    assert ended.value.code == 2
    assert "pip install 'fuxictr-multimodal[embedding]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_first_session_in_an_empty_folder(fxmm, forked, tmp_path):
    assert forked("build", "--dataset_id", "Synthetic_test").returncode == 0
    assert "files match the manifest" in forked("verify", "--dataset-id", "Synthetic_test").stdout
    done = fxmm("run", "--expid", "QIN_test", "--seed", "5")
    assert done.returncode == 0, done.stderr
    assert "Configs are read from" in done.stderr
    assert forked("predict", "--expid", "QIN_test", "--seed", "5", "--out", "scores.csv").returncode == 0
    assert "QIN_test" in forked("leaderboard", "--bootstrap", "0").stdout
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "config.csv", "data", "scores.csv"}
    with next((tmp_path / "data/Synthetic_test").glob("test*.h5")).open("ab") as file:
        file.write(b"x")
    assert "does not match its checksum" in forked("verify", "--dataset-id", "Synthetic_test").stderr


def test_scripts_of_known_data_are_subcommands_of_build(forked, tmp_path):
    done = forked("build", "synthetic", "--dataset-id", "Synthetic_test", "--rows", "300")
    assert done.returncode == 0, done.stderr
    assert '"rows": 300' in (tmp_path / "data/Synthetic_test/manifest.json").read_text()
    assert forked("build", "movielens", "--raw", "nowhere").returncode == 2


def test_the_run_commands_read_no_shipped_configs(repository, tmp_path):
    done = type_command([str(repository / "run_expid.py")], folder=tmp_path)
    assert done.status == 2
    assert "pass the folder with --config" in done.errors
    assert Path(packaged("config")) == repository / "config"
