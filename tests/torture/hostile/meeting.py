"""One hostile input and the command that meets it, in a process of its own: what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.typed_command import context

SECONDS = 30.0
# Memory beside what the imports hold.
MEMORY_BYTES = 3 << 30
# In each file that no command has a reason to read.
SECRET = "SECRET-9d1f6e"
TRACEBACK_STATUS, MEMORY_STATUS = 70, 71
OUTCOMES = ("refused", "accepted", "executed", "escaped", "hang", "crash", "traceback", "memory", "unnamed")


@dataclass(frozen=True)
class Place:
    """Folders of one case.

    Attributes:
        folder: the working folder of the command; it may write here and nowhere else.
        outside: a folder that it must not read or change, with `secret.txt`.
        canary: a file that the payload makes if it runs.
    """

    folder: Path
    outside: Path
    canary: Path

    @property
    def code(self) -> str:
        """Python text that makes the canary, for `eval`."""
        return f"__import__('pathlib').Path({str(self.canary)!r}).touch()"


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        name: `<module>: <what>`.
        write: writes the input into the place; returns the arguments of `fxmm`, or a function to call.
        names: pattern that the error must hold: the file, key or value.
        accepted: why the input is harmless and its command succeeds; "" where it must be refused.
        world: the prepared folder that the case begins with.
    """

    name: str
    write: Callable[[Place], Sequence[str] | Callable[[], None]]
    names: str
    accepted: str = ""
    world: str = "shop"


@dataclass(frozen=True)
class Met:
    """What came of a case."""

    outcome: str
    detail: str


def meet(module: str, index: int, case: Case, *, worlds: Path, work: Path) -> Met:
    """Run a case in a process of its own and classify what it did.

    Args:
        module: that holds the case in its `CASES`.
        index: of the case there.
        case: the case.
        worlds: folder of the prepared folders.
        work: an empty folder.
    """
    place = Place(work / "case", work / "outside", work / "canary")
    place.outside.mkdir(parents=True)
    (place.outside / "secret.txt").write_text(SECRET + "\n", encoding="utf-8")
    shutil.copytree(worlds / case.world, place.folder, symlinks=True)
    for name in ("home", "tmp", "plugins"):
        (work / name).mkdir()
    before = _tree(work)
    process = context().Process(target=_run, args=(module, index, place))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        for child in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.join()
        return Met("hang", f"no end after {SECONDS:.0f} s")
    return _classify(case, place, work, before, process.exitcode)


def _classify(case: Case, place: Place, work: Path, before: dict[str, str], status: int) -> Met:
    errors = _text(work / "errors")
    last = ([line for line in errors.splitlines() if line.strip()] or [""])[-1]
    if place.canary.exists():
        return Met("executed", last)
    changed = {path for path, what in _tree(work).items() if before.get(path) != what} | (before.keys() - _tree(work))
    loose = sorted(path for path in changed if path.split("/")[0] not in ("case", "home", "tmp", "out", "errors"))
    if loose:
        return Met("escaped", f"changed {loose[0]}")
    if (leak := _leak(work)) is not None:
        return Met("escaped", f"{leak} holds the secret")
    if status < 0:
        return Met("crash", f"{signal.Signals(-status).name}: {last}")
    if status == MEMORY_STATUS or "MemoryError" in errors or "bad_alloc" in errors:
        return Met("memory", last)
    if status == TRACEBACK_STATUS or "Traceback (most recent call last)" in errors:
        return Met("traceback", last)
    if status == 0:
        return Met("accepted", "")
    if status != 2 or not last.startswith("error: ") or not re.search(case.names, last):
        return Met("unnamed", f"status {status}: {last}")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", errors):
        return Met("unnamed", f"control characters in {last!r}")
    return Met("refused", last)


def verdict(case: Case, met: Met) -> str | None:
    """What is wrong with an outcome; None where nothing is."""
    expected = "accepted" if case.accepted else "refused"
    return None if met.outcome == expected else f"{case.name}: {met.outcome}, not {expected}: {met.detail[:300]}"


def _run(module: str, index: int, place: Place) -> None:
    work = place.folder.parent
    for descriptor, name in enumerate(("out", "errors"), start=1):
        file = os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    faulthandler.disable()
    os.chdir(place.folder)
    os.environ.update(
        HOME=str(work / "home"), TMPDIR=str(work / "tmp"), HDF5_PLUGIN_PATH=str(work / "plugins"), COLUMNS="160"
    )
    os.environ.pop("FUXICTR_ZOO_ROOT", None)
    case = importlib.import_module(module).CASES[index]
    asked = case.write(place)
    # The input itself is no trace of the command.
    (work / "tmp" / "written.json").write_text(json.dumps(sorted(_files(place.folder))), encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if callable(asked):
            asked()
        else:
            from fuxictr_multimodal.cli.main import main

            main(list(asked))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except MemoryError:
        traceback.print_exc()
        status = MEMORY_STATUS
    except BaseException:
        traceback.print_exc()
        status = TRACEBACK_STATUS
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of libraries are not waited for.
    os._exit(status)


def _tree(work: Path) -> dict[str, str]:
    """Files outside of what the command may change, with size and time."""
    found = {}
    for path in (work, *sorted(work.iterdir()), *sorted((work / "outside").rglob("*"))):
        status = path.lstat()
        if path != work:
            found[str(path.relative_to(work))] = f"{status.st_size} {status.st_mtime_ns}"
    return {name: what for name, what in found.items() if name not in ("case", "home", "tmp", "out", "errors")}


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()]


def _leak(work: Path) -> str | None:
    """An output that holds the secret: what was printed, or a file that the command wrote."""
    written = work / "tmp" / "written.json"
    known = set(json.loads(written.read_text(encoding="utf-8"))) if written.is_file() else set()
    outputs = [work / "out", work / "errors"]
    outputs += [work / "case" / name for name in _files(work / "case") if name not in known]
    for path in outputs:
        if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes():
            return path.name
    return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def with_name(module: str, cases: Sequence[Case]) -> list[Case]:
    """The cases, each with the name of its module before its own; names are distinct."""
    named = [dataclasses.replace(case, name=f"{module}: {case.name}") for case in cases]
    assert len({case.name for case in named}) == len(named), module
    return named


def started() -> float:
    """Start the server of processes, which imports what commands do; seconds that it took."""
    begin = time.perf_counter()
    process = context().Process(target=_nothing)
    process.start()
    process.join()
    return time.perf_counter() - begin


def _nothing() -> None:
    pass
