"""Progress of a long phase with its rate and remaining time: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

# A phase that ends within this shows nothing.
QUIET_SECONDS = 2.0
LINE_SECONDS = 30.0

Item = TypeVar("Item")
Listener = Callable[[str], None]
_listeners: list[Listener] = []
_lines_only = False


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Call `listener` with each line too; this is how a parent process follows its children."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def show_lines_only() -> None:
    """Show lines on a terminal too, in this process: runs that share a terminal would overwrite each other's bars."""
    global _lines_only
    _lines_only = True


class Line:
    """Progress of one phase, a context manager.

    Args:
        total: units of the phase.
        name: of the phase.
        unit: what is counted, in the singular.
        first: units that were done before.
        shown: False shows nothing.
        bar: whether a terminal gets a bar.
        leave: whether the bar stays when the phase has ended.
    """

    def __init__(
        self,
        total: int,
        name: str,
        *,
        unit: str,
        first: int = 0,
        shown: bool = True,
        bar: bool = True,
        leave: bool = True,
    ) -> None:
        self.total, self.name, self.unit, self.first, self.done = total, name, unit, first, first
        self._shown, self._note = shown, ""
        barred = shown and bar and not _lines_only and sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=first, desc=name, unit=unit, unit_scale=total >= 100_000, leave=leave,
            delay=QUIET_SECONDS, mininterval=0.5, disable=not barred,
        )  # fmt: skip
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count units as done; print a line when the last one is `LINE_SECONDS` old."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._shown and now - self._said >= LINE_SECONDS:
            self._said = now
            _say(self.text(now - self._started), printed=bool(self._bar.disable))

    def note(self, text: str) -> None:
        """Set the text beside the numbers, such as the loss."""
        self._note = text
        self._bar.set_postfix_str(text, refresh=False)

    def text(self, seconds: float) -> str:
        """The line after so many seconds.

        >>> line = Line(300, "pairs", unit="step", first=100, shown=False)
        >>> line.update(50)
        >>> line.text(25.0)
        'pairs: 150 of 300 steps, 2 steps/s, 1:15 left'
        """
        rate = (self.done - self.first) / max(seconds, 1e-9)
        left = duration(max(self.total - self.done, 0) / max(rate, 1e-9))
        speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        line = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}s, {speed} {self.unit}s/s, {left} left"
        return f"{line}, {self._note}" if self._note else line


def one(item: object) -> int:
    """The size of an item that is a unit itself."""
    return 1


def followed(
    items: Iterable[Item],
    *,
    total: int,
    what: str,
    unit: str = "row",
    size: Callable[[Item], int] = one,
    shown: bool = True,
    verbose: bool = True,
    leave: bool = True,
) -> Iterator[Item]:
    """Yield items, and show how far they are; an item counts as done when the next one is asked for.

    Args:
        items: of a phase.
        total: units of the phase.
        what: its name.
        unit: what is counted, in the singular.
        size: units of an item.
        shown: False shows nothing.
        verbose: whether a terminal gets a bar.
        leave: whether the bar stays when the phase has ended.
    """
    with Line(total, what, unit=unit, shown=shown, bar=verbose, leave=leave) as line:
        for item in items:
            yield item
            line.update(size(item))


@contextlib.contextmanager
def waiting(name: str, *, shown: bool = True) -> Iterator[None]:
    """Print from time to time how long work without known progress has run."""
    done, started = threading.Event(), time.monotonic()

    def say() -> None:
        while not done.wait(LINE_SECONDS):
            _say(f"{name}: {duration(time.monotonic() - started)} so far", printed=True)

    thread = threading.Thread(target=say, daemon=True)
    if shown:
        thread.start()
    try:
        yield
    finally:
        done.set()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(75), duration(3600)
    ('1:15', '1:00:00')
    """
    return tqdm.format_interval(seconds).removeprefix("0")


def _say(line: str, *, printed: bool) -> None:
    for listener in _listeners:
        listener(line)
    if not printed:
        return
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)
