"""A process that has imported what commands need, and forks one child a task: `python -m tests.torture.hostile.server`.

It reads tasks as lines of JSON, and answers each with the exit status of its child, negative for a signal, or null
where the child was ended after its time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
# Imported, not used: a library that has started its threads does not survive a fork.
PRELOADED = (
    "torch", "sklearn.preprocessing", "h5py", "polars", "pyarrow.parquet", "fuxictr.pytorch.models",
    "fuxictr_multimodal.api", "fuxictr_multimodal.cli.main", "fuxictr_multimodal.training.runner",
    "fuxictr_multimodal.scoring.scores", "fuxictr_multimodal.explain.attention", "fuxictr_multimodal.comparison.page",
    "fuxictr_multimodal.comparison.comparison", "fuxictr_multimodal.launch.tuning.run",
    "fuxictr_multimodal.serving.export", "bilingual_embedding.commands", "onnx", "onnxruntime", "model_zoo.QIN",
)  # fmt: skip


class Server:
    """The process; a context manager.

    Args:
        preload: whether it imports what commands need.
    """

    def __init__(self, *, preload: bool = True) -> None:
        self._arguments = ["preload"] if preload else []

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=environment,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def call(self, function: str, *arguments: str | int, seconds: float) -> int | None:
        """Call `module:function` in a child; its exit status, None where it was ended after `seconds`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, list(arguments), seconds]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def main() -> None:
    """Import, then serve until the input ends."""
    for name in PRELOADED if sys.argv[1:] else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        function, arguments, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(function, arguments)
        print(json.dumps(_status(child, seconds)), flush=True)


def _child(function: str, arguments: list[Any]) -> None:
    os.setsid()
    status = 71
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(*arguments)
        status = 0
    finally:
        os._exit(status)


def _status(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)
    # What it started goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
