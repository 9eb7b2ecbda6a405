"""One quadratic layer in whole tensors, for `torch.compile`, which fuses the steps between its products.

On a GPU the code of `quadratic_block.py` reads and writes (B, F) tensors in every step, which outlasts products
of reduced precision. The first call with new shapes compiles: that takes seconds to minutes, and Triton on a GPU or a
C++ compiler on a CPU.

Shape legend: B rows, F width, R maps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BACKEND = "inductor"


def compiled_layer(
    x_BF: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    slope: Tensor | None,
    keep_rows: Tensor | None,
    keep_out: Tensor | None,
    scale: float,
    products: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x + drop_out(PReLU(BatchNorm(x * z))) with z = sum_r drop_r(W_r x + b_r): see `quadratic_block.quadratic_block`.

    `mean` and `var` are None where the batch's own are to be used; they are returned beside the result.
    """
    return _compiled(_layer, BACKEND)(
        x_BF, weight, bias, gamma, beta, mean, var, eps, slope, keep_rows, keep_out, scale, products
    )


def compiled_folded(x_BF: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, slope: Tensor | None) -> Tensor:
    """x + PReLU(x * (weight x + bias) + shift): a `FoldedBlock`, for scoring."""
    return _compiled(_folded, BACKEND)(x_BF, weight, bias, shift, slope)


@functools.cache
def _compiled(function: Callable, backend: str) -> Callable:
    return torch.compile(function, fullgraph=True, backend=backend)


def _layer(x, weight, bias, gamma, beta, mean, var, eps, slope, keep_rows, keep_out, scale, products):
    z = F.linear(x.to(products), weight.to(products), bias.to(products)).to(x.dtype)
    if keep_rows is not None:
        z = (z * keep_rows).view(len(x), -1, x.shape[1]).sum(dim=1) * scale
    u = x * z
    batch_mean = batch_var = None
    if gamma is not None:
        if mean is None:
            mean = u.mean(dim=0)
            var = (u - mean).square().mean(dim=0)
            batch_mean, batch_var = mean.detach(), var.detach()
        u = (u - mean) * ((var + eps).rsqrt() * gamma) + beta
    v = _activate(u, slope)
    return x + (v if keep_out is None else v * keep_out * scale), batch_mean, batch_var


def _folded(x, weight, bias, shift, slope):
    y = F.linear(x.to(weight.dtype), weight, bias).to(x.dtype) * x
    return x + _activate(y if shift is None else y + shift, slope)


def _activate(u: Tensor, slope: Tensor | None) -> Tensor:
    return u.relu() if slope is None else torch.where(u > 0, u, u * slope)
