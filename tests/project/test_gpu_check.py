"""`benchmarks/gpu_check.py`: all of it on the CPU, and checks that fail, hang or die, which end no other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "benchmarks"
PLANTED = (
    "import sys; sys.path[:0] = {paths!r}; import gpu_check, planted_checks; "
    "sys.exit(gpu_check.main(planted_checks.{checks}, {arguments!r}))"
)


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


def planted(checks: str, folder: Path, *arguments: str) -> tuple[int, dict, list[dict]]:
    """Exit status, the last line and the lines of `results.jsonl`."""
    paths = [str(FOLDER), str(REPOSITORY / "tests/helpers")]
    given = ["--out", "out", "--gpu", "-1", "--start", "spawn", *arguments]
    done = run(["-c", PLANTED.format(paths=paths, checks=checks, arguments=given)], folder)
    assert done.stdout, done.stderr
    lines = (folder / "out/results.jsonl").read_text(encoding="utf-8").splitlines()
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), [json.loads(line) for line in lines]


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


def test_a_check_with_nothing_to_do_is_no_failure(tmp_path):
    status, whole, _ = planted("GOOD", tmp_path)
    assert status == 0
    assert whole["ok"]
    status, whole, lines = planted("GOOD", tmp_path, "--only", "skips")
    assert (status, [line["name"] for line in lines]) == (0, ["skips"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_failure_and_not_the_cpu(tmp_path):
    done = run([str(FOLDER / "gpu_check.py"), "--out", "out", "--only", "device"], tmp_path)
    assert done.returncode == 1
    result = json.loads(done.stdout.splitlines()[-1])["checks"]["device"]
    assert result["reason"] == "RuntimeError: --gpu 0, but torch sees 0 CUDA devices"
    assert result["figures"] == {}
