"""The machine of `gpu_check.py`: versions, the GPU and its memory and clocks, and the rates that it reaches."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

import torch
from _common import machine
from _gpu_runner import Options, Report
from _gpu_timing import copy_rate, device_of, precisions_of, product_rate

SMI = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def device(options: Options, report: Report) -> None:
    """Report what the figures of the other checks depend on."""
    here = machine()
    report(
        cpu=here["cpu"],
        cores=here["cores"],
        memory_gib=here["memory_gib"],
        python=platform.python_version(),
        **{f"{name}_version": _version(name) for name in ("torch", "triton", "numpy", "h5py", "polars", "fuxictr")},
        cuda=torch.version.cuda or "none",
    )
    place, smi_id = device_of(options), ""
    if place.type == "cuda":
        properties = torch.cuda.get_device_properties(place)
        smi_id = _id(properties, options.gpu)
        free, total = torch.cuda.mem_get_info(place)
        report(
            gpu=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            processors=properties.multi_processor_count,
            gpu_memory_gib=total / 2**30,
            gpu_free_gib=free / 2**30,
            cudnn=torch.backends.cudnn.version(),
            bf16=torch.cuda.is_bf16_supported(including_emulation=False),
            **_smi(smi_id, "idle"),
        )
    report(copy_gb_per_s=copy_rate(place, small=options.small) / 1e9)
    for precision in precisions_of(place):
        report(**{f"{precision}_tflops": product_rate(place, precision, small=options.small) / 1e12})
    if place.type == "cuda":
        report(**_smi(smi_id, "after"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _id(properties: object, gpu: int) -> str:
    """The GPU as `nvidia-smi` knows it: its numbers are not torch's where CUDA_VISIBLE_DEVICES is set."""
    unique = str(getattr(properties, "uuid", ""))
    return f"GPU-{unique.removeprefix('GPU-')}" if unique else str(gpu)


def _smi(gpu: str, when: str) -> dict[str, str]:
    """What `nvidia-smi` says, if it is there; it only reads."""
    command = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={SMI}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {f"smi_{when}": f"none: {type(error).__name__}"}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return {f"smi_{when}": ", ".join(f"{name} {value}" for name, value in zip(SMI.split(","), values, strict=False))}
