"""Time, rates, waits and memory on a GPU, and the same calls on a CPU."""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # the first optimizer would import it, in the time of a check
from _gpu_runner import Options

from model_zoo.QIN.precision import Precision

SYNC_WARNING = "called a synchronizing CUDA operation"


def device_of(options: Options) -> torch.device:
    """The device that is checked."""
    return torch.device("cuda", options.gpu) if options.gpu >= 0 else torch.device("cpu")


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """The precisions that differ on a device, the fastest first."""
    return ("bf16", "tf32", "float32") if device.type == "cuda" else ("bf16", "float32")


def finish(device: torch.device) -> None:
    """Wait for everything that the device has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, call: Callable[[], object], *, repeats: int, warm_up: int = 1) -> float:
    """Median seconds of a call among calls that are queued without a wait, so that the host runs ahead as in use."""
    for _ in range(warm_up):
        call()
    finish(device)
    if device.type != "cuda":
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    finish(device)
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks)) / 1000


def product_rate(device: torch.device, precision: str, *, small: bool) -> float:
    """Measured operations per second of a square matrix product, in a precision of the model; the peak of figures."""
    width = 128 if small else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Random numbers: a product of zeros runs faster than any of data.
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    with Precision(precision, device).step():
        taken = seconds_of(device, lambda: torch.mm(left, right), repeats=10, warm_up=3)
    return 2 * width**3 / taken


def copy_rate(device: torch.device, *, small: bool) -> float:
    """Measured bytes per second of a copy within the memory of the device, read and written bytes counted."""
    source = torch.randint(0, 255, (1 << (20 if small else 31),), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(device, lambda: target.copy_(source), repeats=10, warm_up=2)


def host_waits(device: torch.device, call: Callable[[], object]) -> int | None:
    """How often the host waits for the GPU in a call, as PyTorch notices; None on the CPU. What waits is printed."""
    if device.type != "cuda":
        call()
        return None
    finish(device)
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in noticed if SYNC_WARNING in str(warning.message)]
    for warning in waits:
        print(f"the host waits: {warning.filename}:{warning.lineno}: {warning.message}")
    return len(waits)


def profiled(call: Callable[[], object], *, calls: int = 3) -> dict[str, Any]:
    """Milliseconds of kernels in a call, their number, and what the host waited for, by the profiler.

    The table of all of it is printed. The profiler itself synchronises the device once at its end.
    """
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profile:
        for _ in range(calls):
            call()
    averages = profile.key_averages()
    print(averages.table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=70))
    # Of what took time on the device, neither the calls of the host that began it nor the spans that only name it.
    kernels = [
        event
        for event in averages
        if event.self_device_time_total > 0
        and event.self_cpu_time_total == 0
        and not getattr(event, "is_user_annotation", False)
    ]
    waits = {event.key: event.count for event in averages if "Synchronize" in event.key or event.key == "cudaMemcpy"}
    return {
        "kernels_ms": sum(event.self_device_time_total for event in kernels) / 1000 / calls,
        "kernels": sum(event.count for event in kernels) / calls,
        f"waits_in_{calls}": waits,
    }


def peak_gib(device: torch.device) -> float | None:
    """The most memory that tensors have taken on the GPU; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def require_no_waits(where: str, waits: int | None) -> None:
    """Fail if the host waited."""
    if waits:
        raise AssertionError(f"{where}: the host waits {waits} times, which must be 0; the log says where")


def known(**figures: Any) -> dict[str, Any]:
    """The figures that there are: not those that are None."""
    return {name: value for name, value in figures.items() if value is not None}
