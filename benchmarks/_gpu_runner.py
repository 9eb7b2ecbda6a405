"""Runs the checks of `gpu_check.py` one after the other, each in its own process and within its limit of time.

A hang, a crash, an illegal access or a lack of memory ends one check and no other. The next process imports what it
needs while a check runs and touches no GPU before its turn.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LOG_BYTES = 64 << 10  # kept of either end of a log
MOST_LOG_BYTES = 64 << 20  # a check that writes more is ended
TEXT = 400  # characters of a reason
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that end a run


class Skip(Exception):
    """A check that has nothing to check here, and why."""


@dataclass(frozen=True)
class Check:
    """One check: `module:function`, which takes `Options` and a `Report`.

    Attributes:
        limit: seconds after which it is ended.
        what: a few words for the summary.
        least: seconds that must be left for it to begin.
        expected: seconds that it should take on an H200.
    """

    name: str
    function: str
    limit: float
    what: str
    least: float = 10.0
    expected: float = 0.0


class Stop:
    """The signal that asked for an end; 0 as long as there was none."""

    def __init__(self) -> None:
        self.signal = 0

    def notice(self, number: int, _: object) -> None:
        """Handle a signal: note the first."""
        self.signal = self.signal or number


@dataclass(frozen=True)
class Options:
    """What every check is called with: the GPU, -1 for the CPU, and whether sizes are small."""

    gpu: int
    small: bool


@dataclass
class Result:
    """How a check ended.

    Attributes:
        status: `passed`, `failed` or `skipped`.
        reason: why not passed.
        out_of_time: whether the total time was over, before the check or during it.
        interrupted: whether a signal ended it.
        figures: what it measured, also where it failed later.
        run: device, sizes and date.
    """

    name: str
    status: str = "skipped"
    reason: str = ""
    seconds: float = 0.0
    out_of_time: bool = False
    interrupted: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    run: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a line of `results.jsonl`."""
        return asdict(self)


class Report:
    """Hands figures to the parent process as they are measured, so that a later crash cannot take them."""

    def __init__(self, connection: Connection, limit: float) -> None:
        self._connection, self._ends = connection, time.monotonic() + limit

    def __call__(self, **figures: Any) -> None:
        """Add figures, or replace those of the same name."""
        self._connection.send(("figures", figures))

    def left(self) -> float:
        """Seconds until the check is ended."""
        return self._ends - time.monotonic()

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Report an exception as the figure `name` instead of failing: for what the project does not offer itself."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self(**{name: {"error": _text(error)}})


def run(
    checks: Sequence[Check],
    options: Options,
    *,
    folder: Path,
    seconds: float,
    start: str,
    stop: Stop,
    done: Callable[[Result], None],
) -> list[Result]:
    """Run all checks and return their results, in order; after a signal, of those that began.

    Args:
        checks: most important first.
        options: of all of them.
        folder: where `<check>.log` is written, with what the check and its processes printed.
        seconds: of all checks together; what does not begin in time is skipped.
        start: how processes are started, `spawn` or `fork`; only a parent that never used a GPU may fork.
        stop: a signal noted here ends the run.
        done: called with each result as soon as it is there.
    """
    ends = time.monotonic() + seconds
    context = multiprocessing.get_context(start)
    results, coming = [], list(checks)
    children: list[_Child] = []
    try:
        while coming and not stop.signal:
            while len(children) < min(2, len(coming)):
                children.append(_Child(coming[len(children)], options, folder, context))
            check, child = coming.pop(0), children.pop(0)
            left = ends - time.monotonic()
            if left < check.least:
                result = Result(check.name, reason="the total time was over", out_of_time=True)
            else:
                result = child.result(min(check.limit, left), short=left < check.limit, stop=stop)
            child.end()
            results.append(result)
            done(result)
    finally:
        for child in children:
            child.end()
    return results


class _Child:
    def __init__(self, check: Check, options: Options, folder: Path, context: Any) -> None:
        self.check, self.log = check, folder / f"{check.name}.log"
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_main, args=(check.function, options, theirs, self.log, os.getpid()))
        # Ctrl-C goes to all processes of a terminal: to this one not before it leads a session of its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()

    def result(self, limit: float, *, short: bool, stop: Stop) -> Result:
        """Let it begin and wait for its end; `short` says that the total time decides, not the check's own limit."""
        started = time.monotonic()
        result = Result(self.check.name, "failed")
        with contextlib.suppress(OSError):  # it died while importing: noticed below
            self.connection.send(limit)
        over = False
        while not over:
            left = started + limit - time.monotonic()
            if left <= 0:
                result.out_of_time = short
                result.reason = f"ended after {limit:.0f} s, " + (
                    "when the total time was over" if short else "its limit"
                )
                break
            if stop.signal:
                if not self._read(result):
                    result.interrupted = True
                    result.reason = f"interrupted by {signal.Signals(stop.signal).name}"
                break
            wait([self.connection, self.process.sentinel], timeout=min(left, 0.2))
            alive = self.process.is_alive()
            over = self._read(result) or not alive
            if not over and self.log.exists() and self.log.stat().st_size > MOST_LOG_BYTES:
                result.reason = f"wrote more than {MOST_LOG_BYTES >> 20} MiB of log"
                break
        if over and not result.reason and result.status == "failed":
            self.process.join(10)
            result.reason = f"its process {_end_of(self.process.exitcode)}"
        result.seconds = time.monotonic() - started
        return result

    def _read(self, result: Result) -> bool:
        """Take what was reported; whether that was the end."""
        try:
            while self.connection.poll(0):
                kind, value = self.connection.recv()
                if kind == "figures":
                    result.figures.update(value)
                else:
                    result.status, result.reason = kind, value
                    return True
        except (EOFError, OSError):
            pass  # the end of the process says the rest
        return False

    def end(self) -> None:
        """End it with all that it started, and shorten its log."""
        self.connection.close()
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()  # one that leads no session yet
        self.process.join(10)  # a process that hangs in a driver may not end: the others go on
        with contextlib.suppress(OSError):
            _early(self.log).unlink(missing_ok=True)  # it never had its turn
        with contextlib.suppress(OSError):
            _shorten(self.log)


def _main(function: str, options: Options, connection: Connection, log: Path, parent: int) -> None:
    """The process of a check. It imports, waits for its turn, and ends without tidying up, which could hang."""
    os.setsid()
    tempfile.tempdir = None  # a forked process would keep the parent's
    for number in SIGNALS:  # the parent's are not ours
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        file = os.open(_early(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError:  # a full disk takes the log alone
        file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    status, reason = "passed", ""
    try:
        module, name = function.split(":")
        call = getattr(importlib.import_module(module), name)
        limit = connection.recv()
        _begin(log)
        _prepare(options)
        call(options, Report(connection, limit))
    except EOFError:  # not asked to begin
        os._exit(0)
    except Skip as skip:
        status, reason = "skipped", str(skip)
    except BaseException as error:
        _begin(log)
        traceback.print_exc()
        status, reason = "failed", _text(error)
    with contextlib.suppress(OSError):
        connection.send((status, reason))
    sys.stdout.flush()
    os._exit(0)


def _early(log: Path) -> Path:
    """Where a check prints before its turn, so that the log of an earlier run stays until then."""
    return log.with_name(f".{log.name}")


def _begin(log: Path) -> None:
    with contextlib.suppress(OSError):
        _early(log).replace(log)


def _prepare(options: Options) -> None:
    """Refuse a GPU that is not there, since FuxiCTR would take the CPU; keep small work on one thread."""
    if "torch" not in sys.modules:
        return
    import torch

    if options.gpu < 0:
        torch.set_num_threads(1)
    elif options.gpu >= torch.cuda.device_count():
        raise RuntimeError(f"--gpu {options.gpu}, but torch sees {torch.cuda.device_count()} CUDA devices")
    else:
        torch.cuda.set_device(options.gpu)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _end_of(exitcode: int | None) -> str:
    if exitcode is None:
        return "gave no result and does not end"
    if exitcode < 0:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode} and no result"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:TEXT]


def _shorten(log: Path) -> None:
    """Keep both ends of a long log; an empty one goes."""
    size = log.stat().st_size
    if not size:
        log.unlink()
    elif size > 2 * LOG_BYTES:
        with log.open("rb+") as file:
            head = file.read(LOG_BYTES)
            file.seek(-LOG_BYTES, os.SEEK_END)
            tail = file.read()
            file.seek(0)
            file.write(head + f"\n... {size - 2 * LOG_BYTES} bytes left out ...\n".encode() + tail)
            file.truncate()
