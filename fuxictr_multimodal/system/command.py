"""The frame of every command: tolerant streams, one line on stderr in place of a traceback, and an exit status."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.system.rank_board import LOST
from fuxictr_multimodal.system.ranks import launched, own_board
from fuxictr_multimodal.system.terminal import prepare_streams
from fuxictr_multimodal.system.writing import ADVICE
from fuxictr_multimodal.text.escape import visible


def refusal(error: Exception) -> str | None:
    """What to print in place of a traceback: wrong input, or a place that cannot be written; None for other errors.

    >>> refusal(OSError(13, "Permission denied", "a.html")), refusal(ZeroDivisionError())
    ('a.html cannot be written: Permission denied', None)
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in ADVICE:
        return f"{error.filename} cannot be written: {error.strerror}" if error.filename else error.strerror
    return None


@contextlib.contextmanager
def command(*, several: bool = False) -> Iterator[None]:
    """Run the body of a command; also a decorator: `@command()`.

    Args:
        several: whether several processes may run it as one, as torchrun starts them. Then one of them prints.

    An `InputError`, or a place that cannot be written, ends it with exit status 2; SIGINT, SIGTERM and SIGHUP with 130,
    143 and 129. Any other error is a fault of the program and keeps its traceback.

    >>> with command():
    ...     print("trained")
    trained
    """
    prepare_streams()
    try:
        with raised_on_signals():
            if not several:
                _refuse_launcher()
            yield
    except (InputError, OSError) as error:
        line = refusal(error)
        if line is None:
            raise
        with printed_once(line) as own:
            if own:
                print(f"error: {visible(line)}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        interrupted = Interrupted.of(error)
        if _rank() == 0:
            print(interrupted, file=sys.stderr)
        raise SystemExit(interrupted.exit_status) from None


@contextlib.contextmanager
def printed_once(line: str) -> Iterator[bool]:
    """Yield whether this process prints a line on which it ends: of several, rank 0 does, for all that end on it.

    Another one prints its own where rank 0 prints nothing, or another error than the loss of a process.
    """
    try:
        own = own_board()
    except InputError:
        # It is the board that cannot be reached.
        own = None
    if own is None:
        yield True
        return
    _tell_launcher(line)
    if own.rank == 0:
        yield True
        own.printed(line)
        return
    own.fail(InputError(line))
    said = own.printed_line()
    yield said is None or not (line in said or said in line or LOST in line)


@contextlib.contextmanager
def usage_printed_once() -> Iterator[None]:
    """Parse arguments within the block: of several processes, rank 0 prints what argparse does."""
    if _rank() == 0:
        try:
            yield
        except SystemExit:
            if (own := own_board()) is not None:
                own.printed("usage")
            raise
        return
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    except SystemExit:
        # torchrun ends all processes as soon as one has ended.
        if (own := own_board()) is not None:
            own.printed_line()
        raise


def _refuse_launcher() -> None:
    if launched().several:
        raise ConfigError("this command runs in one process: start it without torchrun")


def _rank() -> int:
    try:
        return launched().rank
    except ConfigError:
        return 0


def _tell_launcher(line: str) -> None:
    """Write why this process ends where torchrun looks for it, so that its own last lines repeat it."""
    path = Path(os.environ.get("TORCHELASTIC_ERROR_FILE") or os.devnull)
    with contextlib.suppress(OSError):
        if not path.exists():
            shown = {"py_callstack": visible(line), "timestamp": str(int(time.time()))}
            error = {"message": {"message": visible(line), "extraInfo": shown}}
            path.write_text(json.dumps(error), encoding="utf-8")
