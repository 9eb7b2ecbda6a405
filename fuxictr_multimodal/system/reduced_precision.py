"""Whether bfloat16 is faster than float32 on a device: measured on a CPU, looked up by compute capability on a GPU."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

# A processor without bfloat16 instructions converts every number: 3 to 16 times slower than float32.
WIDTH = 512
MEASURED_FLOPS = 2**28
REPEATS = 5
# Below this gain the lost digits are not worth it, and noise of the measurement could turn the choice.
WORTHWHILE = 1.2


@dataclass(frozen=True)
class Choice:
    """The precision of matrix products, and its reason.

    Attributes:
        asked: the configured precision.
        used: the precision that runs; never `auto`.
        why: one sentence.
    """

    asked: str
    used: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """For a report."""
        return asdict(self)


def choose(asked: str, device: torch.device, *, bfloat16: str) -> Choice:
    """Resolve `auto` to bfloat16 where that is faster, else to float32, and log it; take every other name as it is.

    A configuration that asks for bfloat16 by name gets it, with a warning where it is slower than float32.

    Args:
        asked: a precision, or `auto`.
        device: where products run.
        bfloat16: how the configuration calls bfloat16.
    """
    if asked not in ("auto", bfloat16):
        return Choice(asked, asked, "as configured")
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        gain = "has" if supported else "has no"
        why = f"{torch.cuda.get_device_name(device)} {gain} bfloat16 instructions"
        faster = slower = supported
    else:
        ratio = cpu_speedup()
        faster, slower = ratio >= WORTHWHILE, ratio >= 1
        times = f"{ratio:.1f} times as fast as" if ratio >= 1 else f"{1 / ratio:.1f} times slower than"
        why = f"a linear layer in bfloat16 was measured {times} in float32 on this processor"
    choice = Choice(asked, bfloat16 if asked == bfloat16 or faster else "float32", why)
    if asked == "auto":
        logging.info("precision: %s was chosen: %s", choice.used, why)
    elif not slower:
        logging.warning("precision: %s is configured, but %s; precision: auto chooses the faster one", asked, why)
    return choice


@functools.cache
def cpu_speedup() -> float:
    """Seconds of a linear layer in float32 over those in bfloat16 by autocast; measured once a process.

    The fastest of some calls that take turns: other work on the machine can slow a call down, never speed it up.
    """
    # Numbers of its own: the random state decides the trace of a training.
    own = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, WIDTH, generator=own) for n in (MEASURED_FLOPS // (2 * WIDTH * WIDTH), WIDTH))

    def seconds(enabled: bool) -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            started = time.perf_counter()
            F.linear(x, weight)
            return time.perf_counter() - started

    # The first pair loads the kernels.
    pairs = [(seconds(False), seconds(True)) for _ in range(1 + REPEATS)][1:]
    exact, rounded = (min(column) for column in zip(*pairs, strict=True))
    return exact / max(rounded, 1e-9)
