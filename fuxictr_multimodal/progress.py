"""How far long work is: a bar on a terminal, a logged line now and then elsewhere, nothing for short work."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

Item = TypeVar("Item")
# Work that ends within this shows nothing.
QUIET_SECONDS = 2.0
LINE_SECONDS = 30.0
_lines_only = False


class Line:
    """Progress of one piece of work, a context manager.

    Args:
        total: units of the work.
        name: of the work.
        unit: what is counted, in the singular.
        first: units that were done before.
        shown: False shows nothing.
    """

    def __init__(self, total: int, name: str, *, unit: str, first: int = 0, shown: bool = True) -> None:
        self.total, self.name, self.unit, self.first, self.done = total, name, unit, first, first
        bar = shown and not _lines_only and sys.stderr.isatty()
        self._lines, self._note = shown and not bar, ""
        self._bar = tqdm(
            total=total, initial=first, desc=name, unit=unit, delay=QUIET_SECONDS, mininterval=1, disable=not bar
        )
        self._redirected = logging_redirect_tqdm() if bar else None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Line:
        if self._redirected:
            self._redirected.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._redirected:
            self._redirected.__exit__(kind, error, trace)

    def update(self, count: int = 1) -> None:
        """Count units as done; log a line when the last one is `LINE_SECONDS` old."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._last >= LINE_SECONDS:
            self._last = now
            logging.info("%s", self.text(now - self._started))

    def note(self, text: str) -> None:
        """What is shown beside the numbers from now on, such as the loss."""
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
        left = (self.total - self.done) / rate if rate else 0.0
        parts = [f"{self.name}: {self.done:,} of {self.total:,} {self.unit}s", f"{rate:,.3g} {self.unit}s/s"]
        return ", ".join([*parts, f"{duration(left)} left", *filter(None, [self._note])])


def over(items: Iterable[Item], total: int, name: str, *, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, with a `Line` in which each counts as done when the next one is asked for."""
    with Line(total, name, unit=unit, shown=shown) as line:
        for item in items:
            yield item
            line.update()


@contextlib.contextmanager
def waiting(name: str, *, shown: bool = True) -> Iterator[None]:
    """Log now and then for how long work has run that does not say how far it is."""
    done = threading.Event()
    started = time.monotonic()

    def log() -> None:
        while not done.wait(LINE_SECONDS):
            logging.info("%s: %s so far", name, duration(time.monotonic() - started))

    thread = threading.Thread(target=log, daemon=True)
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


def log_lines_only() -> None:
    """Log lines on a terminal too, in this process: runs that share a terminal would overwrite each other's bars."""
    global _lines_only
    _lines_only = True
