"""A folder held while it is read: a build that takes its place moves it aside, and removes it once nobody reads it.

A reader opens the folder itself and takes a shared lock on it. Its files are opened later, by path, wherever the folder
lies by then. The lock and the open descriptor need no right to write. Where a system has neither, a folder is what its
path names at the moment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fuxictr_multimodal.errors import DataError

if sys.platform != "win32":
    import fcntl

Result = TypeVar("Result")
# A commit takes microseconds between its two renames; one that takes this long was killed there.
COMMIT_SECONDS = 2.0
_LOOKS = 3


def replaced_path(place: Path) -> Path:
    """Where a build puts the folder of this place for the instant until its own is there."""
    return place.with_name(f".{place.name}.replaced")


def aside_paths(place: Path) -> list[Path]:
    """Replaced folders of this place that are still there, in the order in which they were replaced."""
    # No longer than the other names beside a folder, whose length Staging checks.
    pattern = re.compile(rf"\.{re.escape(place.name)}\.aside-(\d+)")
    found = [(int(match[1]), path) for path in place.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def move_aside(place: Path) -> None:
    """Give the replaced folder of this place the next free name, under which its readers find it."""
    taken = aside_paths(place)
    number = 1 + int(taken[-1].name.rpartition("-")[2]) if taken else 1
    replaced_path(place).rename(place.with_name(f".{place.name}.aside-{number}"))


def remove_unread(folder: Path) -> bool:
    """Remove a folder unless somebody holds it; whether it could be removed."""
    descriptor = _open(folder)
    if descriptor is None:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    try:
        if not _lock(descriptor, alone=True):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def is_there(place: Path) -> bool:
    """Whether a folder is at this place; waits while a build is between its two renames."""
    beside, deadline, looks = _followed(place), time.monotonic() + COMMIT_SECONDS, 0
    while not place.is_dir():
        if replaced_path(beside).exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        elif (looks := looks + 1) == _LOOKS:
            return False
    return True


class HeldFolder:
    """The folder that is at `place` now, until this object goes.

    Args:
        place: its path.

    Attributes:
        place: the same, which may be that of a later folder by now.

    Raises:
        FileNotFoundError: there is no folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._beside = _followed(place)
        self._descriptor = _held(place)
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor).atexit = False

    def __repr__(self) -> str:
        return f"HeldFolder({str(self.place)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeldFolder) and self.place == other.place

    def __hash__(self) -> int:
        return hash(self.place)

    def __reduce__(self) -> str:
        raise TypeError(f"{self.place} is held by this process only: open it again in the other one")

    @property
    def path(self) -> Path:
        """Where the folder is at the moment: at its place, or aside.

        Raises:
            DataError: it was moved elsewhere, or removed.
        """
        if self._descriptor is None:
            return self.place
        for _ in range(_LOOKS):
            # In the order in which a build moves it, so that it cannot slip through.
            for path in (self.place, self._beside, replaced_path(self._beside)):
                if _is_at(self._descriptor, path):
                    return path
            for path in aside_paths(self._beside):
                if _is_at(self._descriptor, path):
                    return path
        raise DataError(f"{self.place} was moved or removed while it was being read: start again")

    def read(self, reading: Callable[[Path], Result]) -> Result:
        """What `reading` returns for the path of this folder; it is called again if the folder moved meanwhile.

        A folder that is at one path before and after was there all the time, since nothing moves back.

        Args:
            reading: opens files below the path that it gets. A result that it has to drop is closed.
        """
        while True:
            before = self.path
            try:
                result = reading(before)
            except Exception:
                if self.path == before:
                    raise
                continue
            if self.path == before:
                return result
            if hasattr(result, "close"):
                result.close()


def _held(place: Path) -> int | None:
    """A descriptor of the folder that is at a place, with a shared lock where the system has them."""
    deadline = time.monotonic() + COMMIT_SECONDS
    while is_there(place):
        try:
            descriptor = _open(place)
        except FileNotFoundError:
            continue
        if descriptor is None:
            return None
        # Only a build that is removing the folder refuses the lock: it is at its place no more. Anything else that
        # refuses it must not keep the reader for ever.
        if (_lock(descriptor, alone=False) or time.monotonic() > deadline) and _is_at(descriptor, place):
            return descriptor
        os.close(descriptor)
    raise FileNotFoundError(place)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _followed(place: Path) -> Path:
    """The folder itself where `place` is a link to it: what is replaced is beside the folder."""
    return place.resolve() if place.is_symlink() else place


def _open(folder: Path) -> int | None:
    """A descriptor of a folder, or None where there can be none."""
    if sys.platform == "win32":
        return None
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _lock(descriptor: int, *, alone: bool) -> bool:
    """Lock a folder without waiting; False if another has a lock that excludes this one."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # A file system without locks: a build does not wait for its readers there.
            return True
    return True
