"""How far a long phase is, with its rate and time left: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LINE_SECONDS = 60.0

Item = TypeVar("Item")
Listener = Callable[[str], None]
_listeners: list[Listener] = []


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Call `listener` with each line too; a parent process so hears of its children."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def followed(
    items: Iterable[Item],
    *,
    size: Callable[[Item], int],
    total: int,
    what: str,
    verbose: bool = True,
    leave: bool = True,
) -> Iterator[Item]:
    """Yield items, and show how far they are.

    Args:
        items: of a phase.
        size: rows of an item.
        total: rows of the phase.
        what: its name.
        verbose: whether a terminal gets a bar.
        leave: whether the bar stays when the phase has ended.
    """
    started = said = time.monotonic()
    done = 0
    with tqdm(
        total=total, desc=what, unit="row", unit_scale=True, leave=leave, mininterval=0.5,
        disable=None if verbose else True,
    ) as bar:  # fmt: skip
        for item in items:
            yield item
            done += size(item)
            bar.update(size(item))
            now = time.monotonic()
            if now - said >= LINE_SECONDS:
                said = now
                _say(progress_line(what, done, total, now - started), logged=bool(bar.disable))


def progress_line(what: str, done: int, total: int, seconds: float) -> str:
    """One line about a phase.

    >>> progress_line("epoch 2", 250_000, 1_000_000, 100.0)
    'epoch 2: 25 % of 1,000,000 rows, 2,500 rows/s, 5.0 min left'
    """
    rate = done / max(seconds, 1e-9)
    left = max(total - done, 0) / max(rate, 1e-9)
    return f"{what}: {100 * done / max(total, 1):.0f} % of {total:,} rows, {rate:,.0f} rows/s, {left / 60:.1f} min left"


def _say(line: str, *, logged: bool) -> None:
    for listener in _listeners:
        listener(line)
    if not logged:
        return
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)
