"""Write files atomically: a killed process or a power cut leaves the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.writing import unwritable, writing

# Clocks of machines that share a file system differ by less.
CLOCK_SECONDS = 60.0
# Of a file system that has no such call, or of a folder that may not be opened.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR})


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes its place, on failure it is removed.

    The bytes are on the disk before the name is, and the name before this returns: a power cut leaves the old file or
    the new one.

    Raises:
        Unwritable: the disk is full or the like.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path, temporary=temporary):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        # A disk that became read-only keeps it; the next process that holds the lock removes it.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; where a system has no such call, do nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            error.filename = str(path)
            raise


def sync_tree(folder: Path) -> None:
    """Wait until all files below a folder and their names are on the disk.

    Raises:
        Unwritable: the disk is full or fails.
    """
    for path in (*folder.rglob("*"), folder):
        with writing(path):
            sync(path)


@contextlib.contextmanager
def held_alone(lock: Path, taken: str) -> Iterator[None]:
    """Hold a lock file, or refuse at once; the system frees the lock of a killed process.

    Raises:
        ConfigError: another process holds it; `taken` is the text.
        DataError: it cannot be made or opened.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout=0))
        except filelock.Timeout:
            raise ConfigError(taken) from None
        yield


@contextlib.contextmanager
def locked(lock: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file; errors name it.

    Args:
        lock: the file.
        timeout: seconds to wait for another process; without end by default.

    Raises:
        filelock.Timeout: another process holds it.
        DataError: it cannot be made or opened.
    """
    held = filelock.FileLock(lock, timeout=timeout)
    try:
        held.acquire()
    except filelock.Timeout:
        raise
    except OSError as error:
        if lock.is_dir():
            raise DataError(f"{lock} is a folder, but a lock file belongs there: remove it") from None
        raise unwritable(lock, error.errno, error.strerror or str(error)) from None
    try:
        yield
    finally:
        held.release()


def remove_stale_temporaries(paths: Iterable[Path]) -> list[Path]:
    """Remove temporary files that killed processes left beside these files.

    Call it while holding the lock of whatever the files belong to: a process of another machine or container cannot be
    seen here, and only the lock says that it is not writing them. A file stays whose process is alive on this machine,
    unless that process started after the file was last written and only has the same number.

    Args:
        paths: the files themselves; temporary files of other names are left alone.

    Returns:
        What was removed.
    """
    removed = []
    for path in paths:
        name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
        for found in path.parent.iterdir() if path.parent.is_dir() else ():
            match = name.fullmatch(found.name)
            if match and not _may_be_writing(int(match[1]), found):
                found.unlink(missing_ok=True)
                removed.append(found)
    return removed


def _may_be_writing(pid: int, path: Path) -> bool:
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and process.create_time() < path.stat().st_mtime + CLOCK_SECONDS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True


@contextlib.contextmanager
def kept_if_possible(path: Path) -> Iterator[None]:
    """Write a file that is not the result itself: if that fails, a warning names it and the run continues."""
    try:
        yield
    except OSError as error:
        logging.warning("%s cannot be written (%s); the result is not affected", path, error.strerror or error)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: UTF-8, indented, keys in the given order; NaN is refused.

    A path whose bytes are not text in the system's encoding holds halves of surrogate pairs: JSON has escapes for them.

    Raises:
        Unwritable: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replace_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, in UTF-8.

    Raises:
        Unwritable: the file cannot be written.
    """
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Create a folder that the user named, and its parents; it may exist.

    Raises:
        DataError: a file is in the way, or the place cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be created ({error.strerror}): choose another one") from None
