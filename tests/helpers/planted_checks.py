"""Checks for `benchmarks/gpu_check.py` that pass, fail, hang, die, chatter or skip, for `test_gpu_check.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from _gpu_runner import Check, Options, Report, Skip


def passes(options: Options, report: Report) -> None:
    """Measures."""
    report(rate=1234.5678, of={"peak": 0.5})
    report(rate=2345.6789, gpu=options.gpu, left=report.left() > 0)
    with report.attempt("not_offered"):
        raise ValueError("there is none")


def fails(options: Options, report: Report) -> None:
    """Fails after a figure."""
    report(before=1)
    raise ValueError("planted | on\ntwo lines")


def hangs(options: Options, report: Report) -> None:
    """Never ends, nor does what it started."""
    other = subprocess.Popen(["sleep", "1000"])
    report(other=other.pid)
    while True:
        time.sleep(1)


def dies(options: Options, report: Report) -> None:
    """Ends as by an illegal access, after a figure."""
    report(before=2)
    os.kill(os.getpid(), signal.SIGSEGV)


def chatters(options: Options, report: Report) -> None:
    """Prints much, and its child process too."""
    print("first")
    for _ in range(5000):
        print("x" * 100)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", "print('last')"], check=True)


def skips(options: Options, report: Report) -> None:
    """Has nothing to check."""
    raise Skip("there is nothing here")


def reads_results(options: Options, report: Report) -> None:
    """What is on disk of the checks before it."""
    lines = Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()
    report(seen=[json.loads(line)["name"] for line in lines])
    report(table="| reads_results | not yet |" in Path("out/summary.md").read_text(encoding="utf-8"))


def _check(function: str, limit: float) -> Check:
    return Check(function, f"planted_checks:{function}", limit, "planted", least=1)


ALL = [
    _check("passes", 20),
    _check("fails", 20),
    _check("hangs", 1.5),
    _check("dies", 20),
    _check("chatters", 20),
    _check("skips", 20),
    Check("not_there", "no_such_module:check", 20, "planted", least=1),
    _check("reads_results", 20),
]
ENDLESS = [Check("endless", "planted_checks:hangs", 60, "planted", least=1), _check("passes", 20)]
GOOD = [_check("passes", 20), _check("skips", 20)]
HANGS = [_check("passes", 20), _check("hangs", 60), _check("skips", 20)]
