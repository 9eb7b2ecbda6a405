"""The processor as the system describes it: vendor, vector instructions, and the size of its caches."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

# Kinds of vector and matrix instructions of x86 and Arm, as /proc/cpuinfo spells them.
VECTORS = ("avx", "fma", "amx", "asimd", "sve")
DEFAULT_L2_BYTES = 512 << 10
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Processor:
    """What decides how fast products are.

    Attributes:
        vendor: such as `GenuineIntel` or `AuthenticAMD`; empty where the system does not say.
        flags: its vector and matrix instructions, in order.
        l2_bytes: level-2 cache of the first core.
        l3_bytes: level-3 cache that the first core shares with others, 0 if there is none.
    """

    vendor: str
    flags: tuple[str, ...]
    l2_bytes: int
    l3_bytes: int


@functools.cache
def processor(root: Path = Path("/")) -> Processor:
    """Read what Linux says; other systems have an unknown processor with a level-2 cache of `DEFAULT_L2_BYTES`."""
    fields: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    sizes = {2: 0, 3: 0}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level = _text(folder / "level")
        if level in ("2", "3"):
            sizes[int(level)] = _bytes(_text(folder / "size"))
    return Processor(
        vendor=fields.get("vendor_id", ""),
        flags=tuple(sorted(flag for flag in flags if flag.startswith(VECTORS))),
        l2_bytes=sizes[2] or DEFAULT_L2_BYTES,
        l3_bytes=sizes[3],
    )


def _bytes(text: str) -> int:
    """The number of bytes of `1024K`; 0 of anything else."""
    number, unit = text[:-1], text[-1:]
    return int(number) * _UNITS[unit] if number.isdecimal() and unit in _UNITS else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
