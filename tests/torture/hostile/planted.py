"""Commands with a fault of each kind, by which the harness is tested; none of them is part of an attack."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from tests.torture.hostile.meeting import SECRET, Case, Place


def _refuse(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def _raise(place: Place) -> None:
    raise ZeroDivisionError


FAULTS: list[tuple[str, Callable[[Place], object]]] = [
    ("refused", lambda place: _refuse("error: the file is wrong")),
    ("accepted", lambda place: None),
    ("executed", lambda place: eval(place.code)),  # noqa: S307 - the fault itself
    ("escaped", lambda place: (place.outside / "new.txt").write_text("x", encoding="utf-8")),
    ("escaped", lambda place: (place.folder / "new.txt").write_text(SECRET, encoding="utf-8")),
    ("escaped", lambda place: print((place.outside / "secret.txt").read_text(encoding="utf-8"))),
    ("escaped", lambda place: (place.folder.parent / "beside.txt").touch()),
    ("hang", lambda place: time.sleep(60)),
    ("crash", lambda place: os.kill(os.getpid(), signal.SIGSEGV)),
    ("traceback", _raise),
    ("memory", lambda place: bytearray(8 << 30)),
    ("unnamed", lambda place: _refuse("error: something is wrong")),
    ("unnamed", lambda place: _refuse("error: the file \x1b[2J")),
]
OUTCOMES = [outcome for outcome, _ in FAULTS]
CASES = [
    Case(f"planted: {number} {outcome}", lambda place, fault=fault: lambda: fault(place), "file", world="empty")
    for number, (outcome, fault) in enumerate(FAULTS)
]
