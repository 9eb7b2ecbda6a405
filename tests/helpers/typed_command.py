"""A command as a user types it, in a process that has the large imports behind it already: a second instead of six."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.launch.pool import PRELOADED

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Typed:
    """What a command left: exit status, standard output and standard error."""

    status: int | None
    out: str
    errors: str


def type_command(
    words: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 600
) -> Typed:
    """Run `python SCRIPT ...` in a folder: the script as `__main__` of its own process, as Python would.

    Args:
        words: the script and its arguments.
        folder: where it is run.
        environment: variables to add.
        seconds: after these it is ended, and its status is None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    outputs = [folder / f".{name}" for name in ("out", "errors")]
    process = context.Process(target=_run, args=(list(words), folder, dict(environment or {}), outputs))
    process.start()
    process.join(seconds)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    texts = [path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "" for path in outputs]
    for path in outputs:
        path.unlink(missing_ok=True)
    return Typed(status, *texts)


def _run(words: list[str], folder: Path, environment: Mapping[str, str], outputs: Sequence[Path]) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(folder)
    os.environ.update({"PYTHONPATH": str(ROOT), "COLUMNS": "160", **environment})
    # A run that the command starts has the large imports behind it too, where no thread is lost by a fork.
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: context("fork" if threading.active_count() == 1 else method)
    sys.argv = words
    sys.path[:0] = [str((folder / words[0]).parent)]
    runpy.run_path(words[0], run_name="__main__")
