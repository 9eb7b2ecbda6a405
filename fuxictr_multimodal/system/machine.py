"""Cores and memory of a process."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD_BYTES = 64 << 20
LARGEST_INT = 2**31 - 1
# Limit and use of a container's memory, of both versions of control groups.
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute with this many threads; `OMP_NUM_THREADS` has the last word, and None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if count is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Let malloc keep what PyTorch frees on the CPU instead of giving it back to the system; once a process.

    By default glibc maps each large block afresh and returns it when it is freed, so every step faults all pages of its
    activations in again. FuxiCTR's DIN trains 2 times, its TransAct 1.6 times as fast without that. The memory that
    the process holds is then the most that it needed at once, which is what its peak is anyway.

    Returns:
        Whether the C library knows the three settings; where it does not (macOS, musl, Windows), nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST_INT, M_TOP_PAD: TOP_PAD_BYTES}
    return all(mallopt(setting, value) == 1 for setting, value in settings.items())


def free_memory() -> int:
    """Bytes that this process may still take: what the machine, its container and the limits of the process leave."""
    import psutil

    free = [psutil.virtual_memory().available]
    for limit, used in _CGROUP_FILES:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        # No such file, or the text "max".
        except (OSError, ValueError):
            continue
    if resource is not None:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free.append(most - psutil.Process().memory_info().vms)
    return max(0, min(free))
