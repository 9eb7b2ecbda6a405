"""Exact points of a command at which its own process kills itself with SIGKILL: a call of a function, or a rename."""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEFORE, HALF, AFTER = "before", "half", "after"


@dataclass(frozen=True)
class Point:
    """Where a process dies.

    Attributes:
        kind: what is being done there, for the counts.
        target: `module:name` or `module:Class.name` of a function; or `*<end of a name>`: the rename that puts a file
            or folder of such a name in its place.
        when: before or after the call; `half` leaves the file that is renamed with half of its bytes, as a process
            does that dies while it writes.
        nth: at the so-manieth call, from 1.
        child: whether a process dies that the command started, instead of its own.
        both: whether the command dies with it, as in a power cut. A search counts a trial that dies alone as failed.
    """

    kind: str
    target: str
    when: str = BEFORE
    nth: int = 1
    child: bool = False
    both: bool = False

    def __str__(self) -> str:
        return f"{self.kind} ({self.when} call {self.nth} of {self.target}{' in a child' if self.child else ''})"


def install(point: Point, mark: Path) -> None:
    """Let this process, or one that it starts, die at the point: once, which the file `mark` says.

    Args:
        point: where.
        mark: does not exist yet.
    """
    own, calls = os.getpid(), 0

    def die(*paths: Any) -> None:
        if (os.getpid() == own) == point.child:
            return
        try:
            mark.open("x").close()
        except FileExistsError:
            return
        for path in paths:
            os.truncate(path, Path(path).stat().st_size // 2)
        if point.both:
            os.kill(own, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(function: Callable[..., Any], *, counts: Callable[..., bool]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if not counts(*arguments):
                return function(*arguments, **options)
            calls += 1
            if calls == point.nth and point.when != AFTER:
                die(*arguments[:1] if point.when == HALF else ())
            result = function(*arguments, **options)
            if calls == point.nth:
                die()
            return result

        return wrapped

    if point.target.startswith("*"):
        ending = point.target[1:]
        for name in ("rename", "replace"):
            ends = lambda source, target, **_: os.fspath(target).endswith(ending)  # noqa: E731
            setattr(os, name, wrap(getattr(os, name), counts=ends))
        return
    module, _, path = point.target.partition(":")
    *owner, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for part in owner:
        holder = getattr(holder, part)
    setattr(holder, name, wrap(getattr(holder, name), counts=lambda *_: True))
