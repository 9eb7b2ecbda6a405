"""A command as a user types it, in a process that has the large imports behind it already: a second instead of six."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from fuxictr_multimodal.launch.pool import PRELOADED
from tests.helpers.empty_curves import leave_curves_empty

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
    """What is done before a command whose every picture counts."""


class Command:
    """A command that runs, with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] = leave_curves_empty,
    ) -> None:
        printed = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, printed)
        self._outputs = [Path(printed, name) for name in ("out", "errors")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **(environment or {})}
        self._process = _context().Process(target=_run, args=(list(words), folder, environment, self._outputs, before))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and give what it printed so far; `returncode` is None if it has not ended by then."""
        self._process.join(timeout)
        out, errors = (
            path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "" for path in self._outputs
        )
        return out, errors


def type_command(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
    before: Callable[[], None] = leave_curves_empty,
) -> Typed:
    """Run `python SCRIPT ...` in a folder: the script as `__main__` of its own process, as Python would.

    Args:
        words: the script and its arguments, or `-m`, a module and its arguments.
        folder: where it is run.
        environment: variables to add.
        seconds: after these it is ended, and its status is None.
        before: a function of a module, called in the process before the script. By default curves are not drawn.
    """
    command = Command(words, folder=folder, environment=environment, before=before)
    command.communicate(seconds)
    status = command.returncode
    if status is None:
        command.kill()
    return Typed(status, *command.communicate())


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
    # As for a command of a shell; the server that forks ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before()
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[:0] = [str(folder)]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = words
    sys.path[:0] = [str((folder / words[0]).parent)]
    runpy.run_path(words[0], run_name="__main__")
