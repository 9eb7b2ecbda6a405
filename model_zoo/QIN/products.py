"""Exact float32 products of matrices on the CPU: by MKL, or by oneDNN where MKL leaves vectors of the processor unused.

PyTorch multiplies float32 matrices by MKL, which is built for Intel's processors: on others it uses AVX2 at most.
PyTorch contains oneDNN too, for reduced precision and for compiled models. On one core of an AMD Zen 5, oneDNN computes
225 GFLOP/s with AVX-512 and MKL 106; where both are limited to AVX2, 119 and 107.

Which library computes a product is a function of the processor and of the widths alone, so a run repeats bit for bit.
Products of narrow maps stay with MKL: they are a small part of the time of their models. A row of a product is the same
in a block of any size.

Shape legend: B rows, I and O width of inputs and outputs.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fuxictr_multimodal.system.processor import processor

WIDE = 320  # the least width, of inputs and of outputs, of maps that oneDNN computes
_ROWS = 1024  # of a gradient at a time: oneDNN reads it transposed, which is a copy that should fit the cache


def linear(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear` for rows."""
    if not _by_onednn(x_BI, weight_OI):
        return F.linear(x_BI, weight_OI, bias_O)
    if torch.is_grad_enabled():
        return _Linear.apply(x_BI, weight_OI, bias_O)
    return _onednn(x_BI, weight_OI, bias_O)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, added up in the type of `total`; without gradients."""
    if _by_onednn(left, right):
        total += _onednn(left, right.t())
    elif left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BI, weight_OI, bias_O):
        ctx.save_for_backward(x_BI, weight_OI)
        return _onednn(x_BI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BO):
        x_BI, weight_OI = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dweight_OI = torch.zeros_like(weight_OI) if of_weight else None
        if dweight_OI is not None:
            for grad_bO, x_bI in zip(grad_BO.split(_ROWS), x_BI.split(_ROWS), strict=True):
                add_product(dweight_OI, grad_bO.t(), x_bI)
        dx_BI = _onednn(grad_BO, weight_OI.t()) if of_x else None
        return dx_BI, dweight_OI, grad_BO.sum(dim=0) if of_bias else None


def _onednn(x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_BI, weight_OI, bias_O, "none", [], "")


def _by_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        min(right.shape) >= WIDE
        and left.dtype == right.dtype == torch.float32
        and left.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and bool(torch.backends.mkldnn.enabled)
        and onednn_is_faster()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """Whether MKL leaves vectors of this processor unused, and PyTorch has oneDNN."""
    return (
        processor().vendor == "AuthenticAMD"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
