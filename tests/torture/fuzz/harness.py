"""Calls a target with mutated inputs, one after the other, and keeps each undocumented exception, unique by place."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving.runtime import FolderError, RequestError
from fuxictr_multimodal.system.command import refusal

ROOT = Path(__file__).resolve().parents[3]
# Code whose frames are ours, by folder of the repository.
OURS = ("fuxictr_multimodal", "bilingual_embedding", "model_zoo", "datasets", "benchmarks")
# Seconds and bytes of one input.
LONGEST, LARGEST = 5.0, 1 << 30
DOCUMENTED = (InputError, RequestError, FolderError)
# Attempts at a smaller input that still fails.
SHRINKS = 120


class TimeLimit(BaseException):
    """An input took longer than `LONGEST`."""


class MemoryLimit(BaseException):
    """An input took more memory than `LARGEST`."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        name: of the target.
        inputs: that a whole attack has.
        prepare: makes, in a folder of its own, what calls need, and returns `make` and `call`. `make` is given a random
            generator and returns an input; `call` is given the input.
        shrink: smaller inputs than one, the smallest first.
        documented: further exceptions that its documentation names.
    """

    name: str
    inputs: int
    prepare: Callable[[Path], tuple[Callable[[Any], Any], Callable[[Any], Any]]]
    shrink: Callable[[Any], Iterator[Any]] | None = None
    documented: tuple[type[BaseException], ...] = ()


@dataclass
class Fault:
    """An undocumented exception.

    Attributes:
        place: file and line of the innermost frame of ours.
        kind: type of the exception.
        message: its first line.
        target: that it was seen in.
        number: of the first input that brought it.
        given: a small input that brings it, as text.
        count: how many inputs brought it.
    """

    place: str
    kind: str
    message: str
    target: str
    number: int
    given: str = ""
    count: int = 1


@dataclass
class Found:
    """What calls of a target brought.

    Attributes:
        inputs: how many there were.
        accepted: of them, how many were read without an error.
        refused: how many ended in a documented error.
        faults: undocumented exceptions by place and type.
        undrawn: inputs that polars itself could not make or write, beside `inputs`.
    """

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    undrawn: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Count a fault with the others of its place."""
        known = self.faults.setdefault(f"{fault.kind} at {fault.place}", fault)
        if known is not fault:
            known.count += fault.count

    def join(self, other: Found) -> None:
        """Add what another process counted."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.refused += other.refused
        self.undrawn += other.undrawn
        for fault in other.faults.values():
            self.add(fault)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Found:
        """From JSON."""
        plain = json.loads(text)
        return cls(**{**plain, "faults": {key: Fault(**value) for key, value in plain["faults"].items()}})


class Numbers(random.Random):
    """The generator of one input, which also knows its number."""

    seed_text: str
    number: int


def random_of(target: str, seed: int, number: int) -> Numbers:
    """The generator of one input: a fault is repeated without the inputs before it."""
    rng = Numbers(f"{target}/{seed}/{number}")
    rng.seed_text, rng.number = f"{target}/{seed}", number
    return rng


def fuzz(
    target: Target, work: Path, *, seed: int, start: int, stop: int, at: Callable[[int], None] = lambda number: None
) -> Found:
    """Call a target with its inputs `start` to `stop`, in this process.

    Args:
        target: what is attacked.
        work: a folder.
        seed: of the inputs.
        start: number of the first.
        stop: the number after the last.
        at: told the number of each input before its call, so that another process knows which one ended this one.
    """
    found = Found()
    with _silent(), contextlib.chdir(work):
        make, call = target.prepare(work)
        for number in range(start, stop):
            at(number)
            try:
                given = make(random_of(target.name, seed, number))
            except (pl.exceptions.PanicException, pl.exceptions.PolarsError):
                found.undrawn += 1
                continue
            error = attempt(target, call, given)
            found.inputs += 1
            found.accepted += error is None
            found.refused += error == ""
            if error:
                kind, place, message = error
                new = Fault(place, kind, message, target.name, number)
                if f"{kind} at {place}" not in found.faults:
                    new.given = shown(_smallest(target, call, given, error[:2]))
                found.add(new)
    return found


def attempt(target: Target, call: Callable[[Any], Any], given: Any) -> Any:
    """None where the input was read, "" where it was refused, else type, place and message of what came."""
    _reset_peak()
    before = _peak()
    try:
        with _limited(LONGEST):
            call(given)
        if _peak() - before > LARGEST:
            raise MemoryLimit(f"{(_peak() - before) >> 20} MiB")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, DOCUMENTED + target.documented):
            return ""
        if isinstance(error, OSError) and refusal(error) is not None and error.filename:
            return ""
        message = next(iter(str(error).splitlines()), "")[:200]
        return type(error).__name__, place_of(error), message
    return None


def place_of(error: BaseException) -> str:
    """File and line of the innermost frame of ours."""
    place = "outside"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in OURS:
            place = f"{file.relative_to(ROOT)}:{line}"
    return place


def shown(given: Any) -> str:
    """An input as text, for a report."""
    text = repr(given)
    return text if len(text) <= 2000 else f"{text[:2000]}... ({len(text)} characters)"


def _smallest(target: Target, call: Callable[[Any], Any], given: Any, wanted: Any) -> Any:
    """A smaller input with the same fault."""
    if target.shrink is None or wanted[0] in ("TimeLimit", "MemoryLimit"):
        return given
    left = SHRINKS
    while left > 0:
        for smaller in target.shrink(given):
            left -= 1
            error = attempt(target, call, smaller)
            if error and error[:2] == wanted:
                given = smaller
                break
            if left <= 0:
                return given
        else:
            return given
    return given


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise TimeLimit(f"longer than {seconds:g} s")

    # Of the processor: a busy machine makes no fault.
    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What commands print is not read here; warnings are no exceptions for a user."""
    with (
        Path(os.devnull).open("w", encoding="utf-8", errors="backslashreplace") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reset_peak() -> None:
    with contextlib.suppress(OSError), Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")


def _peak() -> int:
    """The most memory that this process has held since the last reset, bytes; 0 where Linux does not say it."""
    try:
        with Path("/proc/self/status").open("rb") as file:
            return next((int(line.split()[1]) << 10 for line in file if line.startswith(b"VmHWM")), 0)
    except OSError:
        return 0
