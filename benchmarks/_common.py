"""What the benchmarks share: the machine and its peak rates, timing, and the JSON object that ends their output."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from fuxictr_multimodal.system.machine import available_cores
from fuxictr_multimodal.system.processor import processor

# Variables that limit the vector instructions of PyTorch's own code, of MKL and of oneDNN.
ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, GPU if there is one, and versions of what matters."""
    packages = ("fuxictr", "h5py", "numpy", "torch")
    cpu = processor()
    return {
        "cpu": _cpu_model(),
        "cpu_flags": " ".join(cpu.flags),
        "cpu_vendor": cpu.vendor,
        "l2_kib": cpu.l2_bytes // 1024,
        "l3_kib": cpu.l3_bytes // 1024,
        "vectors_of_torch": torch.backends.cpu.get_cpu_capability(),
        "isa_limits": {name: os.environ[name] for name in ISA_LIMITS if name in os.environ},
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def copy_bytes_per_s(size: int = 1 << 28, repeats: int = 5) -> float:
    """Bytes copied per second from one large buffer to another, on all threads of torch; the best of some copies."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    return size / min(seconds(lambda: target.copy_(source), repeats=repeats, warm_up=1))


def product_flops_per_s(
    width: int = 2048,
    repeats: int = 5,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.mm,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Floating-point operations per second of a float32 matrix product on the CPU; the best of some products.

    With `time.process_time` as the clock it is the rate of a second of one core, which other work on the machine
    changes less.
    """
    left, right = torch.randn(width, width), torch.randn(width, width)
    return 2 * width**3 / min(seconds(lambda: product(left, right), repeats=repeats, warm_up=1, clock=clock))


def read_bytes_per_s(path: Path) -> float:
    """Bytes read per second from a file, the second time: from the page cache if it fits there."""

    def read() -> None:
        buffer = bytearray(1 << 22)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return path.stat().st_size / min(seconds(read, repeats=2, warm_up=1))


def copy_bytes(sources: Sequence[Path], written: Sequence[Path], folder: Path) -> None:
    """Read the sources, and write as many bytes as the dataset has, in as many files, to the device."""
    folder.mkdir(exist_ok=True)
    for path in sources:
        for _ in pieces(path):
            pass
    for index, path in enumerate(written):
        target = folder / str(index)
        with target.open("wb") as file:
            for piece in pieces(path):
                file.write(piece)
        sync(target)


def pieces(path: Path, size: int = 1 << 22) -> Iterator[memoryview]:
    """The bytes of a file, in large pieces."""
    buffer = bytearray(size)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield memoryview(buffer)[:count]


def sync(path: Path) -> None:
    """Bring a file's bytes to the device."""
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def peak_rss_mib() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count what the parent held when it started us
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_its_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def seconds(
    function: Callable[[], object],
    *,
    repeats: int,
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each of `repeats` calls, after `warm_up` calls that are not timed."""
    for _ in range(warm_up):
        function()
    taken = []
    for _ in range(repeats):
        start = clock()
        function()
        taken.append(clock() - start)
    return taken


def median_seconds(function: Callable[[], object], *, repeats: int, warm_up: int = 1) -> float:
    """The median of `seconds`."""
    return statistics.median(seconds(function, repeats=repeats, warm_up=warm_up))


def emit(
    *,
    name: str,
    shapes: Mapping[str, Any],
    rows_per_s: float,
    ceiling: float,
    ceiling_is: str,
    ratio_to_plain: float | None,
    plain_is: str,
    check: str,
    **more: Any,
) -> None:
    """Print the result as the last line: one JSON object.

    Args:
        name: name of the benchmark.
        shapes: the sizes measured.
        rows_per_s: the measured rate.
        ceiling: peak of the hardware in rows per second, and how it is computed (`ceiling_is`).
        ratio_to_plain: speed relative to the reference implementation (`plain_is`), measured in the same run;
            None where it was left out.
        check: which results were compared, and how they differ.
        more: further figures.
    """
    result = {
        "name": name,
        "machine": machine(),
        "shapes": dict(shapes),
        "rows_per_s": rows_per_s,
        "ceiling": ceiling,
        "ceiling_is": ceiling_is,
        "ceiling_fraction": rows_per_s / ceiling,
        "ratio_to_plain": ratio_to_plain,
        "plain_is": plain_is,
        "check": check,
        **more,
    }
    print(json.dumps(rounded(result), allow_nan=False), flush=True)


def rounded(value: Any) -> Any:
    """Four significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
