"""The frame of every command: tolerant streams, one line on stderr in place of a traceback, and an exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
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
def command() -> Iterator[None]:
    """Run the body of a command; also a decorator: `@command()`.

    An `InputError`, or a place that cannot be written, ends it with exit status 2; SIGINT, SIGTERM and SIGHUP with 130,
    143 and 129. Any other error is a fault of the program and keeps its traceback.

    >>> with command():
    ...     print("trained")
    trained
    """
    prepare_streams()
    try:
        with raised_on_signals():
            yield
    except (InputError, OSError) as error:
        line = refusal(error)
        if line is None:
            raise
        print(f"error: {visible(line)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        interrupted = Interrupted.of(error)
        print(interrupted, file=sys.stderr)
        raise SystemExit(interrupted.exit_status) from None
