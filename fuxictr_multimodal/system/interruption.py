"""SIGTERM, SIGHUP and Ctrl-C: one exception inside a run."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# Windows has no SIGHUP.
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
# One request often arrives twice: from the terminal or the batch system, and from the parent process.
REPEAT_SECONDS = 5.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end; code that catches it completes its files and raises it again.

    Args:
        number: of the signal.
        left: what can be resumed and how, for the user.

    >>> str(Interrupted(signal.SIGTERM, "run.state is kept: --resume"))
    'interrupted by SIGTERM: run.state is kept: --resume'
    """

    def __init__(self, number: int = signal.SIGINT, left: str = "") -> None:
        self.number = signal.Signals(number)
        self.left = left
        super().__init__(f"interrupted by {self.number.name}" + (f": {left}" if left else ""))

    @classmethod
    def of(cls, error: KeyboardInterrupt, left: str = "") -> Interrupted:
        """The same interruption, with what can be resumed, if any; a bare `KeyboardInterrupt` is Ctrl-C."""
        known = error if isinstance(error, Interrupted) else cls()
        return cls(known.number, left or known.left)

    @property
    def exit_status(self) -> int:
        """What a shell shows for a process that this signal ended."""
        return exit_status(self.number)


def exit_status(number: int) -> int:
    """The exit status of a command that this signal ended.

    >>> [exit_status(signal.Signals[name]) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    [130, 143, 129]
    """
    return 128 + number


# The signal that the innermost `raised_on_signals` raised, if it did.
_raised: int | None = None
# Whether signals change nothing any more, since the process ends already.
_ignored = False
# Whether a signal waits for the next `raise_waiting`, and the one that does.
_held = False
_waiting: int | None = None


@contextlib.contextmanager
def signals_held(held: bool = True) -> Iterator[None]:
    """Within the block a signal waits for `raise_waiting` or the end of the block, so that work is not cut in two.

    One that is repeated after `REPEAT_SECONDS` is raised at once: the user does not want to wait.

    Args:
        held: False lets signals through in a part of such a block.
    """
    global _held
    before = _held
    if not held:
        raise_waiting()
    _held = held
    try:
        yield
    finally:
        _held = before
    if not _held:
        raise_waiting()


def ignore_signals() -> None:
    """The process ends for another reason: from here on a signal does not cut its last words."""
    global _ignored
    _ignored = True


def signal_waiting() -> bool:
    """Whether a signal came since `signals_held`."""
    return _waiting is not None


def waiting_signal() -> int | None:
    """The number of the signal that waits."""
    return _waiting


def raise_waiting() -> None:
    """Raise the signal that waits, if there is one."""
    global _raised, _waiting
    if _waiting is not None:
        number, _waiting = _waiting, None
        _raised = number
        raise Interrupted(number)


@contextlib.contextmanager
def interruption_kept() -> Iterator[None]:
    """Raise `Interrupted` again after other code turned it into its own error, as `except:` in FuxiCTR does.

    While Ray waits for an answer, it makes a bare `KeyboardInterrupt` of it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _raised is None or isinstance(error, Interrupted):
            raise
        raise Interrupted(_raised) from error


@contextlib.contextmanager
def raised_on_signals() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on SIGTERM, SIGHUP and SIGINT; restore the handlers afterwards.

    A signal that the process was started to ignore stays ignored: `nohup` does that with SIGHUP. A repetition within
    `REPEAT_SECONDS` is the same request and does not disturb the files that are being written. Only the main thread may
    handle signals: in any other, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -REPEAT_SECONDS

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _raised, _waiting
        nonlocal last
        now = time.monotonic()
        if now - last < REPEAT_SECONDS or _ignored:
            return
        last = now
        if _held and _waiting is None:
            _waiting = number
            return
        _raised, _waiting = number, None
        raise Interrupted(number)

    # None is a handler that was not installed from Python: it could not be restored.
    handled = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, interrupt) for number in handled}
    global _raised, _waiting, _ignored
    earlier, _raised = _raised, None
    try:
        with interruption_kept():
            yield
    finally:
        _raised, _waiting, _ignored = earlier, None, False
        for number, handler in before.items():
            signal.signal(number, handler)
