"""A job: work in its own process, the main function of that process, and the outcome that it sends back."""

from __future__ import annotations

import functools
import io
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuxictr_multimodal.system import supervisor
from fuxictr_multimodal.system.command import refusal
from fuxictr_multimodal.system.files import kept_if_possible
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.system.progress import heard_by
from fuxictr_multimodal.system.terminal import prepare_streams
from fuxictr_multimodal.text.escape import visible


@dataclass(frozen=True, eq=False)
class Job:
    """What to run.

    Attributes:
        name: what messages call it.
        work: is pickled and called in the process of the job. It returns a report and its file, or None.
        log: the file to which the process appends what it prints; None for the terminal.
    """

    name: str
    work: Callable[[], tuple[Any, Path] | None]
    log: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        name: of the job.
        status: `completed`, `failed`, `interrupted`, `not run`, or `lost` with the machine or the worker that ran it.
        report: the report's file, where the work returned one.
        error: why the job is not completed.
        signal: what interrupted it.
        exit_code: of its process; negative for a signal that killed it, None where it did not end by itself.
        seconds: from its start to its end.
        last_lines: what it printed last, where it has a log and is not completed.
    """

    name: str
    status: str
    report: Path | None = None
    error: str | None = None
    signal: int | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    last_lines: tuple[str, ...] = ()


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Run a Python script as `python -u SCRIPT ARGUMENTS` does; the work of a job."""
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


def exit_text(status: int | None) -> str:
    """An exit status in words.

    >>> exit_text(3), exit_text(-15), exit_text(-9)
    ('exit status 3', 'killed by SIGTERM', "killed by SIGKILL (often the system's out-of-memory killer)")
    """
    if status is None:
        return "stopped"
    if status >= 0:
        return f"exit status {status}"
    often = " (often the system's out-of-memory killer)" if status == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{often}"


def run_in_this_process(
    job: Job, words: Connection, lifeline: Connection, folder: Path, environment: Mapping[str, str]
) -> None:
    """Be the process of a job: lead a process group, do the work, send lines of progress and at last the outcome.

    Args:
        job: what to run.
        words: where to send.
        lifeline: reading end of a pipe; when its writing end closes, this process and all that it started are killed.
        folder: working folder of the process that started the job. The server that forks has that of its own start.
        environment: likewise.
    """
    os.setsid()
    supervisor.end_with(lifeline.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    prepare_streams()
    if job.log is not None:
        with kept_if_possible(job.log):
            _print_to(job.log)
    words.send(_outcome(job, words))


def _print_to(log: Path) -> None:
    """Append all output of this process to a file, in UTF-8 whatever the terminal is, and at once."""
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8", line_buffering=True, write_through=True)


def _outcome(job: Job, words: Connection) -> Outcome:
    failed = functools.partial(Outcome, job.name, "failed", None)
    try:
        with raised_on_signals(), heard_by(words.send):
            made = job.work()
    except KeyboardInterrupt as error:
        ended = Interrupted.of(error)
        return Outcome(job.name, "interrupted", None, str(ended), ended.number, ended.exit_status)
    except SystemExit as error:
        # As Python does: None is success, and what is not a number is a message.
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        return failed(exit_text(status), exit_code=status) if status else Outcome(job.name, "completed", exit_code=0)
    except Exception as error:
        line = refusal(error)
        if line is None:
            traceback.print_exc()
            return failed(f"{type(error).__name__}: {error}", exit_code=1)
        print(f"error: {visible(line)}", file=sys.stderr)
        return failed(line, exit_code=2)
    if made is None:
        return Outcome(job.name, "completed", exit_code=0)
    report, path = made
    return Outcome(job.name, report.status, path, report.error, exit_code=0)
