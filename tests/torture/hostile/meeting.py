"""One hostile input and the command that meets it, in a process of its own: what came of it."""

from __future__ import annotations

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
import traceback
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.torture.hostile.server import Server

SECONDS = 45.0
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


def meet(server: Server, module: str, index: int, case: Case, *, worlds: Path, work: Path) -> Met:
    """Run a case in a process of its own and classify what it did.

    Args:
        server: that starts the process.
        module: that holds the case in its `CASES`.
        index: of the case there.
        case: the case.
        worlds: folder of the prepared folders.
        work: an empty folder.
    """
    place = _place(work)
    place.outside.mkdir(parents=True)
    (place.outside / "secret.txt").write_text(SECRET + "\n", encoding="utf-8")
    shutil.copytree(worlds / case.world, place.folder, symlinks=True)
    for name in ("home", "tmp", "plugins"):
        (work / name).mkdir()
    status = server.call(f"{__name__}:run_case", module, index, str(work), seconds=SECONDS)
    if status is None:
        return Met("hang", f"no end after {SECONDS:.0f} s")
    return _classify(case, place, work, status)


def _classify(case: Case, place: Place, work: Path, status: int) -> Met:
    errors = _text(work / "errors")
    last = ([line for line in errors.splitlines() if line.strip()] or [""])[-1]
    if place.canary.exists():
        return Met("executed", last)
    written = work / "written.json"
    known = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else None
    if known is None:
        return Met("unnamed", f"the input was not written: {last}")
    now = _tree(work)
    if changed := sorted(path for path in known["outside"].keys() | now if known["outside"].get(path) != now.get(path)):
        return Met("escaped", f"changed {changed[0]}")
    if (leak := _leak(work, set(known["inside"]))) is not None:
        return Met("escaped", f"{leak} holds the secret")
    if status < 0:
        return Met("crash", f"{signal.Signals(-status).name}: {last}")
    if status == MEMORY_STATUS or "MemoryError" in errors or "bad_alloc" in errors:
        return Met("memory", last)
    if status == TRACEBACK_STATUS or "Traceback (most recent call last)" in errors:
        return Met("traceback", last)
    if status == 0:
        return Met("accepted", "")
    # A comparison or search whose run is refused ends with 1.
    if status not in (1, 2) or not last.startswith("error: ") or not re.search(case.names, last):
        return Met("unnamed", f"status {status}: {last}")
    # Libraries colour their own lines.
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", re.sub(r"\x1b\[[0-9;]*m", "", errors)):
        return Met("unnamed", f"control characters in {last!r}")
    return Met("refused", last)


def verdict(case: Case, met: Met) -> str | None:
    """What is wrong with an outcome; None where nothing is."""
    expected = "accepted" if case.accepted else "refused"
    return None if met.outcome == expected else f"{case.name}: {met.outcome}, not {expected}: {met.detail[:300]}"


def _place(work: Path) -> Place:
    return Place(work / "case", work / "outside", work / "canary")


def run_case(module: str, index: int, folder: str) -> None:
    """Write the input of a case and meet it; the process ends with it."""
    place, work = _place(Path(folder)), Path(folder)
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
    try:
        asked = case.write(place)
    except BaseException:
        traceback.print_exc()
        raise
    # The input itself is no trace of the command.
    (work / "written.json").touch()
    known = {"inside": _files(place.folder), "outside": _tree(work)}
    (work / "written.json").write_text(json.dumps(known), encoding="utf-8")
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
    found = {path.name: "" for path in work.iterdir()}
    for path in (work / "outside").rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(work))] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()]


def _leak(work: Path, known: Container[str]) -> str | None:
    """An output that holds the secret: what was printed, or a file that the command wrote."""
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
