"""In which precision the matrix products of a model run: float32, TF32 or bfloat16. Everything else stays float32.

| `precision` | |
|---|---|
| `float32` | as PyTorch is set, which is exact unless a script says otherwise; the default |
| `tf32` | products read 10 bits of mantissa instead of 23; NVIDIA GPUs from capability 8.0 on, no change elsewhere |
| `bf16` | products of the attention and the quadratic layers read copies of 7 bits, by autocast; on a GPU or a CPU |
| `auto` | `bf16` where the device computes it faster than `float32`, else `float32` (`reduced_precision.choose`) |

Weights and gradients, the optimizer, item vectors, norms, sums over histories, logits and losses are float32 always.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fuxictr_multimodal.system.reduced_precision import choose

PRECISIONS = ("float32", "tf32", "bf16", "auto")


class Precision:
    """The precision of one model on one device.

    Args:
        name: one of `PRECISIONS`.
        device: of the model.

    Attributes:
        choice: what was asked for, what is used and why.

    >>> with Precision("bf16", torch.device("cpu")).layers():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.bfloat16
    """

    def __init__(self, name: str, device: torch.device) -> None:
        assert name in PRECISIONS, name
        self.choice = choose(name, device, bfloat16="bf16")
        self.device_type = device.type
        if name == "tf32" and device.type != "cuda":
            logging.warning("precision: tf32 is for NVIDIA GPUs: products on the %s stay exact float32", device.type)

    @property
    def name(self) -> str:
        """The precision that is used; never `auto`."""
        return self.choice.used

    def keep(self, used: str) -> None:
        """Use what a resumed run was started with, whatever `auto` would choose now."""
        self.choice = replace(self.choice, used=used, why="as the run was started")

    def step(self) -> AbstractContextManager:
        """Around a training step, backward included, or around scoring.

        TF32 is a switch of the process: it is turned on here and put back at the end, so that no other model of the
        process is changed. A backward pass outside of it is exact.
        """
        return _tf32() if self.name == "tf32" and self.device_type == "cuda" else contextlib.nullcontext()

    def layers(self) -> AbstractContextManager:
        """Around the forward pass of the attention and of the interaction."""
        if self.name == "bf16":
            return torch.autocast(self.device_type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


def in_precision(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of a model inside `self.precision.step()`."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.precision.step():
            return method(self, *args, **kwargs)

    return run


def product_type(x: Tensor) -> torch.dtype:
    """The type in which products with x are computed: its own, or that of an autocast around."""
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def own_types(x: Tensor) -> AbstractContextManager:
    """Compute with tensors as they are, whatever autocast there is around."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):  # before PyTorch 2.9
        before = matmul.allow_tf32
        matmul.allow_tf32 = True
        try:
            yield
        finally:
            matmul.allow_tf32 = before
        return
    before = matmul.fp32_precision
    if before == "tf32":
        yield
        return
    # The older switch sets the newer one too; the other way round, asking the older one is an error.
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = before
