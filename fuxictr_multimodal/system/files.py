"""Write files atomically: a killed process leaves the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
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

# Clocks of machines that share a file system differ by less.
CLOCK_SECONDS = 60.0


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes its place, on failure it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def held_alone(lock: Path, taken: str) -> Iterator[None]:
    """Hold a lock file, or refuse at once; the system frees the lock of a killed process.

    Raises:
        ConfigError: another process holds it; `taken` is the text.
    """
    held = filelock.FileLock(lock, timeout=0)
    try:
        held.acquire()
    except filelock.Timeout:
        raise ConfigError(taken) from None
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
        DataError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with replace_atomically(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None


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
