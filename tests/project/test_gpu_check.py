"""`benchmarks/gpu_check.py`: all of it on the CPU, and checks that fail, hang or die, which end no other."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "benchmarks"
PLANTED = (
    "import sys; sys.path[:0] = {paths!r}; import gpu_check, planted_checks; "
    "sys.exit(gpu_check.main(planted_checks.{checks}, {arguments!r}))"
)


@pytest.fixture
def module(monkeypatch):
    """Imports from the benchmarks."""
    for folder in (REPOSITORY / "tests/helpers", FOLDER):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def results(folder: Path) -> list[dict]:
    lines = (folder / "out/results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def planted(checks: str, folder: Path, *arguments: str) -> tuple[int, dict, list[dict]]:
    """Exit status, the last line and the lines of `results.jsonl`."""
    paths = [str(FOLDER), str(REPOSITORY / "tests/helpers")]
    given = ["--out", "out", "--gpu", "-1", "--start", "spawn", *arguments]
    done = run(["-c", PLANTED.format(paths=paths, checks=checks, arguments=given)], folder)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), results(folder)


def test_all_of_it_on_the_cpu(tmp_path):
    done = run([str(FOLDER / "gpu_check.py"), "--gpu", "-1", "--out", "out"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(done.stdout.splitlines()[-1])
    assert whole["ok"]
    assert whole["small"]
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line.pop("name"): line for line in lines} == whole["checks"]
    listed = run([str(FOLDER / "gpu_check.py"), "--list"], tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(whole["checks"])
    skipped = {name for name, result in whole["checks"].items() if result["status"] == "skipped"}
    assert skipped - {"kernels"} == {"tests", "train_tf32", "compile_tf32"}
    figures = {name: result["figures"] for name, result in whole["checks"].items()}
    assert figures["device"]["torch_version"] == torch.__version__
    for rate in (
        figures["train_bf16"]["rows_per_s"],
        figures["train_float32"]["of_peak"],
        figures["compile_float32"]["compiled"]["rows_per_s"],
        figures["epoch"]["loader_rows_per_s"],
        figures["epoch"]["best_epoch_s"],
        figures["score"]["float32_folded"]["rows_per_s"],
        figures["text"]["train_tokens_per_s"],
        figures["text"]["encode_tokens_per_s"],
        figures["auc"]["auc_bf16"],
    ):
        assert rate > 0
    table = (tmp_path / "out/summary.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {result['status']}" in table for name, result in whole["checks"].items())


def test_a_check_that_fails_hangs_or_dies_ends_no_other(tmp_path):
    status, whole, lines = planted("ALL", tmp_path)
    assert status == 1
    assert not whole["ok"]
    found = {line["name"]: line for line in lines}
    assert {name: line["status"] for name, line in found.items()} == {
        "passes": "passed",
        "fails": "failed",
        "hangs": "failed",
        "dies": "failed",
        "chatters": "passed",
        "skips": "skipped",
        "not_there": "failed",
        "reads_results": "passed",
    }
    assert found["passes"]["figures"] == {
        "rate": 2346.0,
        "of": {"peak": 0.5},
        "gpu": -1,
        "left": True,
        "not_offered": {"error": "ValueError: there is none"},
    }
    assert found["fails"]["reason"] == "ValueError: planted | on\ntwo lines"
    assert found["fails"]["figures"] == {"before": 1}
    assert "planted / on two lines" in (tmp_path / "out/summary.md").read_text(encoding="utf-8")
    assert "in fails" in (tmp_path / "out/fails.log").read_text(encoding="utf-8")
    assert found["hangs"]["reason"] == "ended after 2 s, its limit"
    assert 1.5 <= found["hangs"]["seconds"] < 10
    assert not found["hangs"]["out_of_time"]
    other = found["hangs"]["figures"]["other"]
    assert not psutil.pid_exists(other) or psutil.Process(other).status() == psutil.STATUS_ZOMBIE
    assert found["dies"]["reason"] == "its process was ended by SIGSEGV"
    assert found["dies"]["figures"] == {"before": 2}
    assert found["skips"]["reason"] == "there is nothing here"
    assert "no_such_module" in found["not_there"]["reason"]
    log = (tmp_path / "out/chatters.log").read_text(encoding="utf-8")
    assert log.startswith("first\n")
    assert log.endswith("last\n")
    assert "bytes left out" in log
    assert len(log) < 140_000
    assert not (tmp_path / "out/passes.log").read_text(encoding="utf-8").startswith("x")
    assert found["reads_results"]["figures"] == {"seen": list(found)[:-1], "table": True}


def test_what_the_total_time_does_not_allow_is_left_out_and_said(tmp_path):
    status, whole, lines = planted("ENDLESS", tmp_path, "--minutes", "0.08")
    assert status == 1
    assert [(line["status"], line["out_of_time"]) for line in lines] == [("failed", True), ("skipped", True)]
    assert re.fullmatch(r"ended after \d s, when the total time was over", lines[0]["reason"])
    assert lines[1]["reason"] == "the total time was over"
    assert whole["seconds"] < 30


def test_a_check_with_nothing_to_do_is_no_failure_and_the_lines_of_others_stay(tmp_path):
    status, whole, before = planted("GOOD", tmp_path)
    assert status == 0
    assert whole["ok"]
    status, whole, after = planted("GOOD", tmp_path, "--only", "skips", "--only", "skips")
    assert (status, list(whole["checks"])) == (0, ["skips"])
    assert [line["name"] for line in after] == ["passes", "skips"]
    assert after[0] == before[0]
    table = (tmp_path / "out/summary.md").read_text(encoding="utf-8")
    assert "| passes | passed (earlier: CPU, small sizes, " in table
    assert "| skips | skipped: there is nothing here | " in table
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_check_and_keeps_what_there_is(tmp_path, number):
    paths = [str(FOLDER), str(REPOSITORY / "tests/helpers")]
    arguments = ["--out", "out", "--gpu", "-1", "--start", "spawn"]
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PLANTED.format(paths=paths, checks="HANGS", arguments=arguments)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("passes: passed")
    log = tmp_path / "out/hangs.log"
    ends = time.monotonic() + 30
    while not log.exists() and time.monotonic() < ends:  # its turn has come
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, number)  # as a terminal does
    left, errors = process.communicate(timeout=30)
    name = signal.Signals(number).name
    assert (process.returncode, left) == (128 + number, "")
    assert errors == f"error: interrupted by {name}; the results until then are in out\n"
    passes, hangs = results(tmp_path)
    assert passes["status"] == "passed"
    assert (hangs["status"], hangs["reason"]) == ("failed", f"interrupted by {name}")
    other = hangs["figures"]["other"]
    assert not psutil.pid_exists(other) or psutil.Process(other).status() == psutil.STATUS_ZOMBIE
    assert not list((tmp_path / "tmp").glob("gpu_check.*"))


def test_interruption_and_lack_of_time_leave_an_earlier_result(tmp_path, module):
    runner, writer = module("_gpu_runner"), module("_gpu_results").Results
    checks = [runner.Check(name, "", 1, "planted") for name in ("a", "b", "c")]
    before = writer(tmp_path, checks, "before")
    for name in ("a", "b"):
        before.add(runner.Result(name, "passed", figures={"rate": 1}, run="before"))
    after = writer(tmp_path, checks, "after")
    after.add(runner.Result("a", "failed", "interrupted", interrupted=True, figures={"rate": 2}, run="after"))
    after.add(runner.Result("b", "skipped", "the total time was over", out_of_time=True, run="after"))
    after.add(runner.Result("c", "skipped", "the total time was over", out_of_time=True, run="after"))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["status"] for line in lines] == ["passed", "passed", "skipped"]
    assert lines[0]["figures"] == {"rate": 1, "interrupted": {"run": "after", "rate": 2}}
    assert lines[1]["figures"] == {"rate": 1}
    (tmp_path / "results.jsonl").write_text('{"name": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 of .*results.jsonl is no result"):
        writer(tmp_path, checks, "after")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "file"], "file cannot be written: File exists"),
        (["--out", "file/below"], "file/below cannot be written: Not a directory"),
        (["--minutes", "nan"], "--minutes nan: give a number of 0.017 or more"),
        (["--minutes", "-1"], "--minutes -1: give"),
        (["--minutes", "0.001"], "--minutes 0.001: give"),
        (["--minutes", "x"], "argument --minutes: invalid float value: 'x'"),
        (["--gpu", "-5"], "--gpu -5: give the number of a GPU, from 0, or -1 for the CPU"),
        (["--only", "passes", "--only", "skip"], "--only skip: there is no such check. Did you mean 'skips'?"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(tmp_path, module, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine", encoding="utf-8")
    status = module("gpu_check").main(module("planted_checks").GOOD, ["--out", "out", "--gpu", "-1", *arguments])
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("file").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("stream", [">&-", "> /dev/full"])
def test_a_closed_or_full_stdout_ends_nothing(tmp_path, stream):
    paths = [str(FOLDER), str(REPOSITORY / "tests/helpers")]
    arguments = ["--out", "out", "--gpu", "-1", "--start", "spawn"]
    command = [sys.executable, "-c", PLANTED.format(paths=paths, checks="GOOD", arguments=arguments)]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} {stream}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line["status"] for line in results(tmp_path)] == ["passed", "skipped"]


def test_the_checks_that_matter_most_fit_into_the_time_at_their_limits(module):
    checks = module("gpu_check").CHECKS
    assert [check.name for check in checks[:5]] == ["device", "tests", "kernels", "train_bf16", "epoch"]
    assert sum(check.limit for check in checks[:8]) <= 480
    assert all(2 <= check.limit / check.expected <= 3 for check in checks)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("import time; time.sleep(60)", "--gpu 3 does not answer within 0.3 s"),
        ("import os; os.kill(os.getpid(), 11)", "--gpu 3: the process that tried it died"),
        ("import sys; sys.exit('first\\nno driver')", "no driver"),
    ],
)
def test_a_gpu_that_hangs_or_kills_its_process_is_refused(module, monkeypatch, probe, message):
    command, runner = module("_gpu_command"), module("_gpu_runner")
    monkeypatch.setattr(command, "PROBE", probe)
    monkeypatch.setattr(command, "GPU_ANSWERS", 0.3 if "sleep" in probe else 30)
    with pytest.raises(command.Refused, match=message):
        command.require_gpu(runner.Options(3, small=False), runner.Stop())
    stopped = runner.Stop()
    stopped.notice(signal.SIGINT, None)
    command.require_gpu(runner.Options(3, small=False), stopped)  # ends at once


def test_nvidia_smi_is_asked_for_the_gpu_of_torch(module):
    name = module("_gpu_device")._id
    assert name(SimpleNamespace(uuid="71b8-04"), 1) == "GPU-71b8-04"
    assert name(SimpleNamespace(), 1) == "1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_one_line_at_once_and_not_the_cpu(tmp_path):
    done = run([str(FOLDER / "gpu_check.py"), "--out", "out"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"error: --gpu 0, but torch {torch.__version__} sees 0 CUDA devices; --gpu -1 is the CPU\n")
    assert not (tmp_path / "out").exists()
