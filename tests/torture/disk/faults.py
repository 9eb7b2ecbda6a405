"""Faults of the disk in a command: a preloaded C library fails its calls, or, without a compiler, Python does."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("faults.c")
TALLY_BYTES = 4096
TEXT_BYTES = 2000


@dataclass(frozen=True)
class Fault:
    """What fails, see `faults.c`.

    Attributes:
        ops: kinds of calls.
        error: the name of what they fail with.
        once: one call alone, or every call from then on.
        at: number of the first call that fails; 0 fails none and counts them.
    """

    ops: str
    error: str
    once: bool
    at: int = 0

    def __str__(self) -> str:
        return f"{self.error} of {'the' if self.once else 'all from the'} call {self.at} of {self.ops!r}"


# A full disk, a quota, a limit of file sizes, a disk that is remounted, a folder of another user, a bad block.
KINDS = (
    Fault("wt", "ENOSPC", once=False),
    Fault("ordt", "EROFS", once=False),
    Fault("w", "EDQUOT", once=True),
    Fault("r", "ENOSPC", once=True),
    Fault("s", "EIO", once=True),
    Fault("w", "EIO", once=True),
    Fault("od", "EACCES", once=True),
    Fault("w", "EFBIG", once=True),
)


def compiled(folder: Path) -> Path | None:
    """The library, or None where no compiler is there or the system knows no preloading."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        return None
    library = folder / "faults.so"
    built = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=False, capture_output=True
    )
    return library if built.returncode == 0 else None


class Tally:
    """Counts that a command leaves in a file: calls seen and failed, the first that failed and the one before it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Start at 0."""
        self.path.write_bytes(bytes(TALLY_BYTES))

    def read(self) -> tuple[int, int, str, str]:
        """Calls seen, calls failed, the first that failed, the one before it."""
        content = self.path.read_bytes()
        seen, failed = (int.from_bytes(content[8 * i : 8 * i + 8], "little") for i in range(2))
        first, preceding = (os.fsdecode(content[at : at + TEXT_BYTES].split(b"\0")[0]) for at in (16, 16 + TEXT_BYTES))
        return seen, failed, first, preceding


def armed(library: Path | None, tally: Tally, under: Path, fault: Fault) -> Callable[[], None]:
    """A function that lets the process fail in which it is called; it can be pickled."""
    values: dict[str, Any] = {"under": str(under), "tally": str(tally.path), **asdict(fault)}
    return functools.partial(_arm if library is not None else _arm_python, str(library), values)


def environment(library: Path, tally: Tally, under: Path, fault: Fault) -> dict[str, str]:
    """The variables for a process of its own."""
    return {
        "LD_PRELOAD": str(library),
        "FAULTS_UNDER": str(under),
        "FAULTS_OPS": fault.ops,
        "FAULTS_AT": str(fault.at),
        "FAULTS_ERRNO": str(getattr(errno, fault.error)),
        "FAULTS_ONCE": str(int(fault.once)),
        "FAULTS_TALLY": str(tally.path),
    }


def _arm(library: str, values: dict[str, Any]) -> None:
    ctypes.CDLL(library).faults_arm(
        os.fsencode(values["under"]),
        values["ops"].encode(),
        ctypes.c_long(values["at"]),
        ctypes.c_int(getattr(errno, values["error"])),
        ctypes.c_long(values["once"]),
        os.fsencode(values["tally"]),
    )


def _arm_python(_: str, values: dict[str, Any]) -> None:
    """Fail what Python calls itself: renames and fsync."""
    with Path(values["tally"]).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), TALLY_BYTES)
    number = getattr(errno, values["error"])

    def failing(kind: str, real: Callable[..., Any], path_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = path_of(*arguments)
            if kind in values["ops"] and path.startswith(values["under"]):
                seen = int.from_bytes(memory[:8], "little") + 1
                memory[:8] = seen.to_bytes(8, "little")
                if values["at"] and (seen == values["at"] or (seen > values["at"] and not values["once"])):
                    memory[8:16] = (int.from_bytes(memory[8:16], "little") + 1).to_bytes(8, "little")
                    raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        return call

    def target(_: Any, path: Any) -> str:
        return str(Path(os.fsdecode(path)).absolute())

    os.replace, os.rename = failing("r", os.replace, target), failing("r", os.rename, target)
    if Path("/proc/self/fd").is_dir():
        os.fsync = failing("s", os.fsync, lambda descriptor: str(Path(f"/proc/self/fd/{descriptor}").readlink()))
