"""The report file of a run of any kind: written, read, and updated while the run lasts."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self, get_type_hints

from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from fuxictr_multimodal.errors import DataError, InputError, Unwritable
from fuxictr_multimodal.system.files import make_folder, write_json
from fuxictr_multimodal.system.interruption import Interrupted, interruption_kept
from fuxictr_multimodal.system.terminal import plain_console
from fuxictr_multimodal.system.untrusted.json_files import read_json_file
from fuxictr_multimodal.system.writing import RUN_AGAIN
from fuxictr_multimodal.training.environment import git_commit, peak_memory_mib, versions


class RunReport:
    """What every report has; its dataclasses declare these fields, in the order of their file.

    Attributes:
        status: `running`, `completed`, `failed` or `interrupted`; of the last two `error` says more.
        seconds: of all processes that worked on the run.
        peak_memory_mib: of the `host` and, with CUDA, of the `device`.
    """

    expid: str
    seed: int
    status: str
    error: str | None
    seconds: float
    peak_memory_mib: dict[str, float | None]
    parameters: dict[str, int]
    versions: dict[str, str]
    commit: str | None

    def write(self, path: Path) -> None:
        """Write the report atomically; a number that is not finite is written as null, since JSON has no NaN.

        Raises:
            DataError: the file cannot be written.
        """
        make_folder(path.parent)
        write_json(path, _finite(vars(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a report.

        Raises:
            DataError: if the file is not a report of this version of the project.
        """
        kind: Any = cls
        name = ""
        try:
            stored = read_json_file(path)
            if not isinstance(stored, dict):
                raise TypeError("it is not one JSON object")
            # Before it is built: what a report derives from its fields relies on their types.
            for name, form in _forms(kind).items():
                if name in stored:
                    form.validate_python(stored[name], strict=True)
            report = cls(**stored)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            reason = ": ".join([name, *map(str, wrong["loc"]), wrong["msg"]])
            raise DataError(f"{path} is not a report of this version: {reason}; move it away and run again") from None
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is not a report of this version: {error}; move it away and run again") from None
        return report

    def headline(self) -> str:
        """What follows the expid in the first line of the summary."""
        raise NotImplementedError

    def scores(self) -> Table | None:
        """The table of the summary, None if there are no scores."""
        raise NotImplementedError

    def details(self) -> Iterable[str]:
        """The lines below the table."""
        raise NotImplementedError


@functools.cache
def _forms(kind: Any) -> dict[str, TypeAdapter[Any]]:
    """What checks each field of a report."""
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(kind).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(report: RunReport, path: Path) -> None:
    """Print the scores, what they cost, and where the report lies."""
    console = plain_console()
    console.print(Text.assemble((report.expid, "bold"), f" {report.headline()}, seed {report.seed}: {report.status}"))
    if (table := report.scores()) is not None:
        console.print(table)
    for line in (*report.details(), f"report: {path}"):
        console.print(f"  {line}", soft_wrap=True)


class Recorder:
    """Keeps the report file of a run up to date.

    Args:
        report: of the run; its `seconds` are those of earlier processes.
        path: where it is written.
    """

    def __init__(self, report: RunReport, path: Path) -> None:
        self.report, self.path = report, path
        self._started = time.perf_counter() - report.seconds

    def write(self) -> None:
        """Write the report as it is now, with time and memory so far."""
        self.report.seconds = round(time.perf_counter() - self._started, 3)
        self.report.peak_memory_mib = peak_memory_mib()
        self.report.write(self.path)

    @contextlib.contextmanager
    def recording(
        self, left: Callable[[], str], ending: Callable[[], tuple[str, str | None]] = lambda: ("completed", None)
    ) -> Iterator[None]:
        """The report says `running` within the block, and afterwards how the block ended.

        Args:
            left: what is left of an interrupted run to resume, for the user.
            ending: status and error of a run whose block came to its end.

        Raises:
            Interrupted: in place of a `KeyboardInterrupt`, with what is left.
        """
        report = self.report
        report.versions, report.commit = versions(), git_commit()
        report.status, report.error = "running", None
        try:
            self.write()
            with interruption_kept():
                yield
        except KeyboardInterrupt as error:
            interrupted = Interrupted.of(error, left())
            reason = f"interrupted by {interrupted.number.name}"
            logging.warning("%s", reason[0].upper() + reason[1:])
            self._end("interrupted", reason)
            raise interrupted from None
        except BaseException as error:
            if isinstance(error, InputError):
                logging.error("%s", error)
            self._end("failed", f"{type(error).__name__}: {error}")
            if isinstance(error, Unwritable):
                raise _resumable(error, left()) from None
            raise
        report.status, report.error = ending()
        try:
            self.write()
        except Unwritable as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise _resumable(error, left()) from None

    def _end(self, status: str, error: str) -> None:
        """The reason itself matters more than that it cannot be written; on a full disk the status at least is."""
        self.report.status, self.report.error = status, error
        try:
            self.write()
        except InputError:
            with contextlib.suppress(OSError):
                _end_in_place(self.path, status)


def _resumable(error: Unwritable, left: str) -> Unwritable:
    """The error with what is left of the run, whose command says how to run it again."""
    text = str(error).removesuffix(RUN_AGAIN) if left else str(error)
    return Unwritable("; ".join(filter(None, [text, left])))


def _end_in_place(path: Path, status: str) -> None:
    """Replace `running` in a report by a status that is no longer, in its own bytes: that needs no space."""
    before, after = b'"status": "running"', f'"status": "{status}"'.encode()
    with path.open("r+b", buffering=0) as file:
        place = file.read().find(before)
        if place >= 0 and len(after) <= len(before):
            file.seek(place)
            file.write(after.ljust(len(before)))
            os.fsync(file.fileno())
