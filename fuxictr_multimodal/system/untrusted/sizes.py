"""One rule for what a file may declare: what fits into the free memory, and what a file of its size can hold."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable
from pathlib import Path

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.machine import free_memory

# Any file may unfold to this many bytes.
ROOM_BYTES = 1 << 30
# Above that, to this many times its own size: text shrinks to a tenth, columns with few values to a hundredth.
MOST_RATIO = 200


def most_bytes(stored: int) -> int:
    """What a file of `stored` bytes may unfold to, however much memory there is; more is made to fill it.

    >>> most_bytes(1000) == ROOM_BYTES, most_bytes(ROOM_BYTES) == MOST_RATIO * ROOM_BYTES
    (True, True)
    """
    return max(ROOM_BYTES, MOST_RATIO * stored)


def check_size(what: str, declared: int, stored: int) -> None:
    """Refuse what unfolds to far more than files of its size do, or to more than the free memory holds.

    Args:
        what: the file, and the part of it, for the error.
        declared: bytes that reading it would take.
        stored: bytes of the file.

    Raises:
        DataError: naming both numbers.

    >>> check_size("a.npz: array 'key'", 4_000, 900)
    """
    if declared > most_bytes(stored):
        raise DataError(
            f"{what} declares {declared:,} bytes in a file of {stored:,}: it is damaged, or made to fill the memory"
        )
    if declared > (free := free_memory()):
        raise DataError(
            f"{what} declares {declared:,} bytes, but {free:,} are free: free more memory, or read it on a larger "
            "machine"
        )


def bytes_of(shape: Iterable[int], itemsize: int) -> int:
    """Bytes of an array, exact for any shape."""
    return math.prod(map(int, shape)) * itemsize


def check_regular(path: Path) -> int:
    """The size of a file in bytes.

    Raises:
        DataError: it is a pipe, a socket or a device, which may never end.
        OSError: it is not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is no regular file: copy its content into one")
    return status.st_size
