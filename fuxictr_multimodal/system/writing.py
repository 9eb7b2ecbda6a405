"""What the system refuses to write, as one error that names the file and says what to do, whichever library wrote."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fuxictr_multimodal.errors import InputError, Unwritable

# A run that can be resumed says another way.
RUN_AGAIN = ", then run the command again"
# What the machine refuses, whatever the program does, and what its user can do about it.
ADVICE = {
    errno.ENOSPC: f"free space on this disk{RUN_AGAIN}",
    errno.EDQUOT: f"free space or ask for a larger quota{RUN_AGAIN}",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or name a place that takes larger files",
    errno.EROFS: "make this disk writable, or name another place",
    errno.EACCES: "make this place writable, or name another one",
    errno.EPERM: "make this place writable, or name another one",
    errno.EIO: "the disk has a fault: check it, or name another place",
}
# Libraries in C++ and Rust say in words what the system said; torch does not even that.
_IN_WORDS = {os.strerror(number).lower(): number for number in ADVICE} | {"disk is full": errno.ENOSPC}
_OF_TORCH = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")


def refused_write(error: BaseException) -> int | None:
    """Which of `ADVICE` an error says, in its number, in its words, or in those of the error that it came from.

    >>> refused_write(RuntimeError("unable to flush: errno = 28, error message = 'No space left on device'")) == 28
    True
    >>> refused_write(ValueError("no such column")) is None
    True
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in ADVICE:
            return link.errno
        words = str(link).lower()
        for text, number in _IN_WORDS.items():
            if text in words:
                return number
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None


def unwritable(path: Path | str, number: int | None, reason: str = "") -> Unwritable:
    """The error of a file that cannot be written.

    >>> print(unwritable("scores.csv", errno.ENOSPC))
    scores.csv cannot be written: No space left on device: free space on this disk, then run the command again

    Args:
        path: of the file.
        number: of the system's error, where it is known.
        reason: instead of the system's words.
    """
    reason = reason or (os.strerror(number) if number else "the system refused it")
    error = Unwritable(f"{path} cannot be written: {': '.join(filter(None, [reason, ADVICE.get(number or 0)]))}")
    error.errno, error.strerror = number, reason
    return error


@contextlib.contextmanager
def writing(path: Path, *, temporary: Path | None = None) -> Iterator[None]:
    """Turn what a writer raises of a place that cannot be written into the error that names its file.

    Errors of other files, which the block may read, and faults of the program pass through.

    Args:
        path: of the file as the user knows it.
        temporary: what is written in its place, until it is complete.

    Raises:
        Unwritable: the disk is full or the like.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = refused_write(error)
        if isinstance(error, OSError):
            if _is_of(error, path, temporary or path):
                reason = "" if number else error.strerror or str(error).splitlines()[0]
                raise unwritable(path, number or error.errno, reason) from None
            if error.filename is not None:
                raise
        if number is not None:
            raise unwritable(path, number) from None
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_TORCH):
            number, reason = _tried(temporary or path)
            raise unwritable(path, number, reason or str(error).splitlines()[0]) from None
        raise


def _is_of(error: OSError, *own: Path) -> bool:
    """Whether an error names a file that is written, one below it, or one of the folders that it is in."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return any(str(path) in str(error) for path in own)
    named = Path(os.fsdecode(error.filename)).absolute()
    ours = [path.absolute() for path in own]
    return any(named == path or named in path.parents or path in named.parents for path in ours)


def _tried(path: Path) -> tuple[int | None, str]:
    """Why the system refuses to write a file, asked by writing more of it."""
    try:
        with path.open("ab", buffering=0) as file:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno, error.strerror or ""
    return None, ""
