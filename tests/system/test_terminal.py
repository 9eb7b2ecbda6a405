"""Commands on terminals of any encoding and with readers that leave: nothing dies of what it says."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_multimodal.comparison.board import Board
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.run_many import print_outcomes
from fuxictr_multimodal.system.terminal import plain_console
from fuxictr_multimodal.training.recorder import print_summary
from fuxictr_multimodal.training.report import Report

ROOT = Path(__file__).resolve().parents[2]
ASCII = {"PYTHONIOENCODING": "ascii"}
CP1252 = {"PYTHONIOENCODING": "cp1252"}
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
import sys
from fuxictr_multimodal.system.terminal import prepare_streams, plain_console
prepare_streams()
print("L\\u00e9on \\u00b1 1\\u2026 \\u6f22 \\udcff")
print("caf\\u00e9 \\u2588", file=sys.stderr)
plain_console(width=40).print("[red]a[/red] :bug: \\x1b[31m")
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **path, **environment}, check=False
    )


@pytest.mark.parametrize(
    ("environment", "out", "errors"),
    [
        (ASCII, b"L\\xe9on +- 1... \\u6f22 \\udcff", b"caf\\xe9 #"),
        (OLD, b"L\\xe9on +- 1... \\u6f22 \\udcff", b"caf\\xe9 #"),
        (CP1252, "Léon ± 1… \\u6f22 \\udcff".encode("cp1252"), "café #".encode("cp1252")),
        ({"PYTHONIOENCODING": "utf-8"}, "Léon ± 1… 漢 \\udcff".encode(), "café █".encode()),
        ({"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}, "Léon ± 1… 漢 \\udcff".encode(), "café █".encode()),
    ],
)
def test_any_text_on_any_encoding(environment, out, errors):
    done = run(PROGRAM, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [out, b"[red]a[/red] :bug: \\x1b[31m"]
    assert done.stderr.splitlines() == [errors]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_stops_nothing(tmp_path, unbuffered):
    """The work is done to its end, in the command and in what it starts."""
    code = f"""
import subprocess, sys
from pathlib import Path
from fuxictr_multimodal.system.terminal import prepare_streams, plain_console
prepare_streams()
for number in range(20_000):
    print("an unread line", number)
plain_console().print("another")
subprocess.run(["echo", "from a child"], check=True)
Path({str(tmp_path / "done")!r}).write_text("yes")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"an unread line 0\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert errors == b""
    assert (tmp_path / "done").read_text() == "yes"


@pytest.mark.parametrize("environment", [ASCII, CP1252, OLD])
def test_the_leaderboard_on_any_encoding(environment):
    source = ROOT / "results/leaderboard_demo.json"
    assert Board.read(source).entries
    done = subprocess.run(
        [sys.executable, ROOT / "run_leaderboard.py", "--from", source, "--short"],
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"QIN_best_demo" in done.stdout
    mark = b"0.8970 \xb1 0.0003" if environment is CP1252 else b"0.8970 +- 0.0003"
    assert mark in done.stdout
    assert b"\\u2500" not in done.stdout


@pytest.mark.parametrize("name", [*sorted(p.name for p in ROOT.glob("run_*.py")), "datasets/movielens.py"])
def test_help_is_printed_in_ascii_and_to_a_reader_that_leaves(name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **OLD}
    process = subprocess.Popen(
        [sys.executable, ROOT / name, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.close()  # before anything is written
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (0, b"")


def report(**changes) -> Report:
    found = Report(expid="QIN[red]x[/] $", model="QIN", dataset_id="D[bold]", seed=1, status="completed")
    found.metrics = {"valid": {"AUC": 0.75}}
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_summaries_show_names_as_they_are(capsys, tmp_path):
    print_summary(report(dataset_facts={"floor_auc_[red]": 0.5}), tmp_path / "[red]r.json")
    text = capsys.readouterr().out
    assert "QIN[red]x[/] $ on D[bold], seed 1: completed" in text
    assert "floor_auc_[red]: 0.5000" in text
    assert "[red]r.json" in text
    report(run="a[red]b").write(tmp_path / "r.json")
    outcomes = [
        Outcome("a[red]b", "completed", tmp_path / "r.json"),
        Outcome("c:bug:", "failed", error="no [/] \x1b[2J"),
    ]
    print_outcomes(outcomes)
    text = capsys.readouterr().out
    assert "a[red]b" in text
    assert "c:bug:: failed: no [/] \\x1b[2J" in text
    assert "\x1b" not in text


def test_a_console_draws_boxes_that_its_encoding_has():
    from rich.table import Table

    for encoding, line in (("ascii", "+---"), ("utf-8", "┏━━━")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        table = Table("a")
        table.add_row("b")
        plain_console(file=stream, width=20).print(table)
        stream.flush()
        assert line in stream.buffer.getvalue().decode(encoding)
