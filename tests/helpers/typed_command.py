"""A command as a user types it, in a process that has the large imports behind it already: a second instead of six."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from fuxictr_multimodal.launch.pool import PRELOADED

ROOT = Path(__file__).resolve().parents[2]
# What commands import besides, and what starts no threads either.
MORE = ("matplotlib.pyplot", "optuna.importance", "pydantic", "rich.live", "rich.table", "sklearn.ensemble")


@dataclass(frozen=True)
class Typed:
    """What a command left: exit status, standard output and standard error."""

    status: int | None
    out: str
    errors: str


def nothing() -> None:
    """What is done before most commands."""


def type_command(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
    before: Callable[[], None] = nothing,
) -> Typed:
    """Run `python SCRIPT ...` in a folder: the script as `__main__` of a process of its own, as Python would.

    Args:
        words: the script and its arguments.
        folder: where it is run.
        environment: variables to add.
        seconds: after these it is ended, and its status is None.
        before: a function of a module, called in the process before the script.
    """
    outputs = [folder / f".{name}" for name in ("out", "errors")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **(environment or {})}
    process = _context().Process(target=_run, args=(list(words), folder, environment, outputs, before))
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


_servers: list[int] = []


def _context() -> ForkServerContext:
    """Start the server that imports and forks, in the place of one that a pool of this process has left."""
    context = multiprocessing.get_context("forkserver")
    server = forkserver._forkserver
    if server._forkserver_pid not in _servers:
        server._stop()
        context.set_forkserver_preload([*PRELOADED, *MORE])
        server.ensure_running()
        _servers.append(server._forkserver_pid)
    return context


def _run(
    words: list[str],
    folder: Path,
    environment: Mapping[str, str],
    outputs: Sequence[Path],
    before: Callable[[], None],
) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # A run that the command starts has the large imports behind it too, where no thread is lost by a fork.
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: context("fork" if threading.active_count() == 1 else method)
    sys.argv = words
    sys.path[:0] = [str((folder / words[0]).parent)]
    before()
    runpy.run_path(words[0], run_name="__main__")
