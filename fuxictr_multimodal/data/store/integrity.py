"""Files of a dataset compared with their checksums at each open; what was hashed before costs one stat a file.

`<data_root>/.<folder>.verified.json` records which files matched, and the size, times and inode that each had then. It
lies in the user's cache folder where the dataset's place is read-only. It is a cache: what it lacks is hashed again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, SPLITS, checksum_of
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import make_folder, sha256, write_json
from fuxictr_multimodal.system.machine import available_cores
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

logger = logging.getLogger(__name__)

Mode = Literal["auto", "full", "sizes"]
# (size, mtime_ns, ctime_ns, inode): a file that was written to since has another one.
Stat = tuple[int, int, int, int]
# A file that changed so shortly before it was hashed may change again without another time stamp.
SETTLED_NS = 2_000_000_000
SHOWN_FROM = 1 << 30


def check_files(directory: Path, files: Mapping[str, str], mode: Mode = "auto") -> None:
    """Compare the files of a dataset with its manifest, and record what matched.

    Args:
        directory: folder of the dataset.
        files: SHA-256 by name relative to the folder, of the manifest.
        mode: `auto` hashes files that changed since they last matched, or never did; `full` hashes all; `sizes` is
            `auto`, but takes a file of the same size as unchanged, for file systems whose times and inodes vary.

    Raises:
        DataError: a file is missing, damaged or of another build, or holds samples that the manifest does not name.
    """
    found = stats_of(directory, files)
    _refuse_others(directory, files)
    compared = slice(0, 1) if mode == "sizes" else slice(None)
    recorded: dict[str, Stat] = {}
    for name, entries in read_record(directory).items():
        for digest, at in entries:
            if files.get(name) == digest and at[compared] == found[name][compared]:
                recorded.setdefault(name, at)
    unknown = [name for name in files if mode == "full" or name not in recorded]
    if unknown:
        recorded |= {name: found[name] for name in _hash(directory, unknown, files, found)}
        write_record(directory, files, {name: recorded[name] for name in files if name in recorded})


def stats_of(directory: Path, names: Iterable[str]) -> dict[str, Stat]:
    """The stat of each file.

    Raises:
        DataError: a file is missing or cannot be reached.
    """
    found = {}
    for name in names:
        try:
            there = (directory / name).stat()
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise DataError(f"{directory / name} {problem}: {BUILD_AGAIN}") from None
        # Reading a device or a pipe may never end.
        if not stat.S_ISREG(there.st_mode):
            raise DataError(f"{directory / name} is not a file: {BUILD_AGAIN}")
        found[name] = (there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino)
    return found


def read_record(directory: Path) -> dict[str, list[tuple[str, Stat]]]:
    """The SHA-256 of each file, and its stat when that was computed; a damaged or edited record is not used."""
    found: dict[str, list[tuple[str, Stat]]] = {}
    for path in _record_paths(directory):
        try:
            stored = read_json_file(path)
            if stored.pop("checksum") != checksum_of(stored):
                continue
            for name, (digest, (size, mtime, ctime, inode)) in stored["files"].items():
                found.setdefault(name, []).append((digest, (size, mtime, ctime, inode)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.debug("%s is not used: %r", path, error)
    return found


def write_record(directory: Path, files: Mapping[str, str], hashed_at: Mapping[str, Stat]) -> None:
    """Record files that matched, beside the dataset or in the user's cache folder; without either, nowhere.

    Args:
        directory: folder of the dataset.
        files: SHA-256 by name.
        hashed_at: the stat of those that are recorded, as of when they were hashed.
    """
    content: dict[str, Any] = {"files": {name: [files[name], list(at)] for name, at in hashed_at.items()}}
    content["checksum"] = checksum_of(content)
    for path in _record_paths(directory):
        try:
            make_folder(path.parent)
            write_json(path, content)
        except (DataError, OSError) as error:
            logger.debug("%s is not written: %s", path, error)
        else:
            return


def _record_paths(directory: Path) -> list[Path]:
    """Where the record of a dataset may lie, best first; nowhere for a build that another one has moved aside."""
    place = directory.resolve()
    if place.name.startswith("."):
        return []
    paths = [place.with_name(f".{place.name}.verified.json")]
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        caches = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return paths  # a user without a home
    folder = caches / "fuxictr-multimodal" / "verified"
    return [*paths, folder / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"]


def _refuse_others(directory: Path, files: Mapping[str, str]) -> None:
    """A file of samples beside those of the manifest would be read in place of them."""
    parts = [path for split in SPLITS for path in sorted((directory / split).glob("part-*.h5"))]
    for path in (*(directory / f"{split}.h5" for split in SPLITS), *parts):
        if path.relative_to(directory).as_posix() not in files and path.exists():
            raise DataError(f"{path} is not among the files of {MANIFEST_NAME}: move it away, or {BUILD_AGAIN}")


def _hash(directory: Path, names: list[str], files: Mapping[str, str], found: Mapping[str, Stat]) -> set[str]:
    """Hash and compare files in threads, largest first; return those that cannot have changed meanwhile unseen."""
    started, total = time.time_ns(), sum(found[name][0] for name in names)
    settled = set()
    with (
        tqdm(
            total=total,
            desc=f"checksums of {directory.name}",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=total < SHOWN_FROM,
        ) as bar,
        ThreadPoolExecutor(max(1, min(len(names), available_cores(), 8))) as threads,
    ):
        ordered = sorted(names, key=lambda name: -found[name][0])
        digests = {name: threads.submit(_digest, directory / name) for name in ordered}
        try:
            wrong = []
            for name in ordered:
                if digests[name].result() != files[name]:
                    wrong.append(name)
                bar.update(found[name][0])
                if found[name][2] < started - SETTLED_NS and stats_of(directory, [name])[name] == found[name]:
                    settled.add(name)
            if wrong:
                first, *others = sorted(wrong)
                also = f" (nor does {', nor '.join(others)})" if others else ""
                raise DataError(
                    f"{directory / first} does not match its checksum in {MANIFEST_NAME}{also}: the file is damaged, "
                    f"or belongs to another build; {BUILD_AGAIN}"
                )
        finally:
            for digest in digests.values():
                digest.cancel()
    return settled


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {BUILD_AGAIN}") from None
