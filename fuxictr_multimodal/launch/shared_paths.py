"""Whether the machines of a cluster see the same files at the same paths."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# By absolute path: the digest of a file, or None for a folder.
Seen = Mapping[Path, str | None]


def seen_here(files: Iterable[Path], folders: Iterable[Path] = ()) -> Seen:
    """What this machine sees; files that are not there are left out."""
    digests = {path.resolve(): _digest(path) for path in files}
    return {path: digest for path, digest in digests.items() if digest} | {path.resolve(): None for path in folders}


@contextlib.contextmanager
def marked(folders: Iterable[Path]) -> Iterator[Seen]:
    """Put a file into each folder while this lasts: another folder at the same path does not have it."""
    name = f".seen-{uuid.uuid4().hex}"
    marks = [folder.resolve() / name for folder in dict.fromkeys(folders)]
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(name)
        yield seen_here(marks)
    finally:
        for mark in marks:
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)


def differences(seen: Seen, *, written: bool = False) -> list[str]:
    """What this machine does not see as `seen` has it, in words.

    Args:
        seen: by another machine.
        written: whether the folders of these files must be writable.
    """
    found = []
    for path, digest in seen.items():
        place = path if digest is None else path.parent
        if not place.is_dir():
            found.append(f"{place} is not there")
        elif digest is not None and _digest(path) != digest:
            found.append(f"{place} is another folder there" if written else f"{path} is missing or another file there")
        elif written and not os.access(place, os.W_OK):
            found.append(f"{place} cannot be written there")
    return list(dict.fromkeys(found))


def _digest(path: Path) -> str:
    """SHA-256 of a file; nothing where it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
