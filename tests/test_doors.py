"""The doors as a user types them: quick help, exit status, one line on error, no traceback."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

DOORS = ["model_zoo/QIN/run_expid.py", *sorted(p.name for p in ROOT.glob("run_*.py"))]
DOORS += sorted(f"datasets/{p.name}" for p in ROOT.glob("datasets/*.py"))


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


@pytest.mark.parametrize("door", DOORS)
def test_help_comes_without_the_heavy_imports(repository, door):
    done = run(repository, "-X", "importtime", repository / door, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
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
    done = run(repository, repository / "run_expid.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config"]


@pytest.mark.parametrize("door", DOORS)
def test_a_bare_command_in_an_empty_folder_says_what_to_do(repository, tmp_path, door):
    done = run(repository, repository / door, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    *_, last = done.stderr.splitlines()
    assert re.match(r"(\w+\.py: )?error: .{20}", last)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_zoo_style_door_runs_where_a_fuxictr_user_runs_it(repository, tmp_path):
    folder = tmp_path / "model_zoo/QIN"
    folder.mkdir(parents=True)
    for path in (repository / "model_zoo/QIN/run_expid.py", repository / "model_zoo/QIN/config"):
        (folder / path.name).symlink_to(path)
    done = run(repository, "run_expid.py", "--expid", "QIN_test", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    assert (tmp_path / "data/Synthetic_test/manifest.json").is_file()
