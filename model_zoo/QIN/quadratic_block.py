"""One quadratic layer with its norm, activation, dropout and residual, computed a block of rows at a time.

Written out by hand, forward and backward, because the composed form spends more time on memory than on its products:
here the only full-size tensors are x, z, the result and the byte masks; the rest lives in blocks that fit a cache.

Shape legend: B rows, F width, R maps, b rows of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model_zoo.QIN.precision import own_types, product_type
from model_zoo.QIN.products import add_product, linear
from model_zoo.QIN.quadratic_compiled import compiled_folded, compiled_layer

BLOCK_ROWS = 1024  # on the CPU; other devices take all rows at once


class OverRanks(Protocol):
    """Statistics of a batch of which each of several processes has a part.

    Attributes:
        all_rows: of the batch.
        stand_ins: whether the rows of this process count for nothing.
    """

    all_rows: int
    stand_ins: bool

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all parts."""
        ...


def quadratic_block(
    x_BF: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: nn.BatchNorm1d | None,
    slope: Tensor | None,
    keep_rows: Tensor | None,
    keep_out: Tensor | None,
    scale: float,
    compiled: bool = False,
) -> Tensor:
    """x + drop_out(PReLU(BatchNorm(x * z))) with z = sum_r drop_r(W_r x + b_r).

    Args:
        x_BF: input.
        weight: (R F, F), the maps stacked.
        bias: (R F,).
        norm: in training mode by batch statistics (the running ones are updated), else by running statistics. Where
            several processes train one batch, it has `over_ranks` (`OverRanks`).
        slope: PReLU slope (1,), or None for ReLU.
        keep_rows: uint8 mask (B, R F), or None.
        keep_out: uint8 mask (B, F), or None.
        scale: what dropout multiplies kept elements with.
        compiled: compute it by `quadratic_compiled.py`.

    Under autocast the products are of its type; everything else, and the gradients of the parameters, are of that of x.

    Returns:
        (B, F), differentiable in x, weight, bias, slope and the affine parameters of the norm.
    """
    rest = slope, keep_rows, keep_out, scale, product_type(x_BF)
    layer: Callable[..., Any] = compiled_layer if compiled else _block
    if norm is None:
        with own_types(x_BF):
            return layer(x_BF, weight, bias, None, None, None, None, 0.0, *rest)[0]
    batch = len(x_BF)
    over_ranks: OverRanks | None = getattr(norm, "over_ranks", None)
    if norm.training and over_ranks is not None:
        batch = over_ranks.all_rows
        # What is compiled knows one process.
        layer = functools.partial(_block, over_ranks=over_ranks)
    elif norm.training and batch < 2:
        raise ValueError("batch norm needs at least 2 rows in training: choose a batch_size that leaves no last row")
    statistics = (None, None) if norm.training else _running(norm)
    with own_types(x_BF):
        out, mean, var = layer(x_BF, weight, bias, norm.weight, norm.bias, *statistics, norm.eps, *rest)
    if norm.training:
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        with torch.no_grad():
            for running, now in zip(_running(norm), (mean, var * (batch / (batch - 1))), strict=True):
                running.lerp_(now, norm.momentum)
    return out


def _block(*tensors: Any, over_ranks: OverRanks | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return _Block.apply(*tensors, over_ranks)


def _own(sums: Tensor) -> Tensor:
    return sums


class _Block(torch.autograd.Function):
    """See `quadratic_block`. `mean` and `var` are None where the batch's own are to be used; they are returned.

    With `over_ranks` they are those of the batch that the rows are a part of.
    """

    @staticmethod
    def forward(
        ctx,
        x,
        weight,
        bias,
        gamma,
        beta,
        mean,
        var,
        eps,
        slope,
        keep_rows,
        keep_out,
        scale,
        products,
        over_ranks,
    ):
        x = x.contiguous()
        weight, bias = weight.to(products), bias.to(products)
        width = x.shape[1]
        batch, summed = (len(x), _own) if over_ranks is None else (over_ranks.all_rows, over_ranks.summed)
        maps = len(weight) // width
        z = torch.empty_like(x)
        batch_stats = gamma is not None and mean is None
        total = x.new_zeros(width)
        for rows in row_blocks(x):
            _sum_of_maps(x[rows], weight, bias, None if keep_rows is None else keep_rows[rows], scale, out=z[rows])
            if batch_stats:
                total += (x[rows] * z[rows]).sum(dim=0)
        if batch_stats:
            mean = summed(total) / batch
            var = torch.zeros_like(total)
            for rows in row_blocks(x):
                var += (x[rows] * z[rows]).sub_(mean).square_().sum(dim=0)
            var = summed(var) / batch
        factor, shift = (None, None) if gamma is None else _affine(gamma, beta, mean, var, eps)
        out = torch.empty_like(x)
        for rows in row_blocks(x):
            v = _activate(_normalise(x[rows] * z[rows], factor, shift), slope)
            if keep_out is None:
                torch.add(x[rows], v, out=out[rows])
            else:
                torch.addcmul(x[rows], v, keep_out[rows].to(v.dtype), value=scale, out=out[rows])
        ctx.save_for_backward(x, z, weight, gamma, beta, mean, var, slope, keep_rows, keep_out)
        ctx.eps, ctx.scale, ctx.maps, ctx.batch_stats = eps, scale, maps, batch_stats
        ctx.batch, ctx.summed = batch, summed
        ctx.stand_ins = over_ranks is not None and over_ranks.stand_ins
        if not batch_stats:
            mean = var = None
        else:
            ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _mean, _var):
        with own_types(grad):  # autocast may be on around the backward pass
            return _Block._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        x, z, weight, gamma, beta, mean, var, slope, keep_rows, keep_out = ctx.saved_tensors
        batch, width = ctx.batch, x.shape[1]
        grad = grad.contiguous()
        factor, shift = (None, None) if gamma is None else _affine(gamma, beta, mean, var, ctx.eps)
        # First sweep: the gradient at the norm's output, kept where the gradient of x will be, and its column sums.
        dx = torch.empty_like(x)
        dslope = None if slope is None else torch.zeros_like(slope)
        dbeta, dgamma = x.new_zeros(width), x.new_zeros(width)
        inverse_std = None if gamma is None else (var + ctx.eps).rsqrt()
        for rows in row_blocks(x):
            y = x[rows] * z[rows]
            u = _normalise(y, factor, shift)
            if inverse_std is not None:
                y.sub_(mean).mul_(inverse_std)
            dv = grad[rows]
            if keep_out is not None:
                dv = keep_out[rows].to(dv.dtype).mul_(ctx.scale).mul_(dv)
            if dslope is not None:
                dslope += torch.dot(dv.reshape(-1), u.clamp(max=0).view(-1))
            # 1 where u > 0, else the slope: comparing in place keeps the type, which is faster than `where`.
            derivative = u.gt_(0)
            if slope is not None:
                derivative = derivative.mul_(1 - slope).add_(slope)
            du = torch.mul(dv, derivative, out=dx[rows])
            if gamma is not None:
                dbeta += du.sum(dim=0)
                dgamma += y.mul_(du).sum(dim=0)
        # Statistics are of all rows, so their gradients are too; those of the norm's parameters are of these rows.
        dgamma_all, dbeta_all = ctx.summed(torch.stack((dgamma, dbeta))) if ctx.batch_stats else (dgamma, dbeta)
        # Second sweep: through the norm and the product to x and the maps.
        dweight, dbias = torch.zeros_like(weight, dtype=x.dtype), x.new_zeros(len(weight))
        for rows in row_blocks(x):
            dy = dx[rows].clone()
            if factor is not None and inverse_std is not None:
                dy.mul_(factor)
                if ctx.batch_stats and not ctx.stand_ins:
                    y = (x[rows] * z[rows]).sub_(mean).mul_(factor * inverse_std * dgamma_all / -batch)
                    dy.add_(y).sub_(factor * dbeta_all / batch)
            dx_rows = torch.addcmul(grad[rows], dy, z[rows], out=dx[rows])
            dz = dy.mul_(x[rows])
            if keep_rows is not None:
                dz.mul_(ctx.scale)
            right = x[rows].to(weight.dtype)
            for r in range(ctx.maps):
                columns = slice(r * width, (r + 1) * width)
                dt = dz if keep_rows is None else keep_rows[rows, columns].to(dz.dtype).mul_(dz)
                dbias[columns] += dt.sum(dim=0)
                add_product(dweight[columns], dt.to(weight.dtype).t(), right)
                add_product(dx_rows, dt.to(weight.dtype), weight[columns])
        dnorm = (None, None) if gamma is None else (dgamma, dbeta)
        return dx, dweight, dbias, *dnorm, None, None, None, dslope, *[None] * 5


@dataclass(frozen=True)
class FoldedBlock:
    """A layer for scoring: x + PReLU(x * (weight x + bias) + shift), running statistics folded into all three."""

    weight: Tensor
    bias: Tensor
    shift: Tensor | None
    slope: Tensor | None

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor, norm: nn.Module, activation: nn.Module, *, products: torch.dtype
    ) -> FoldedBlock:
        """Fold the norm: its scale goes into the map, because y_j = x_j (W x + b)_j. The map is kept as `products`."""
        shift = None
        if isinstance(norm, nn.BatchNorm1d):
            factor, shift = running_affine(norm)
            weight, bias = weight * factor[:, None], bias * factor
        slope = activation.weight if isinstance(activation, nn.PReLU) else None
        return cls(weight.to(products), bias.to(products), shift, slope)

    def behind(self, z: Tensor, x: Tensor) -> Tensor:
        """The layer with the result z of its map of x; z is written over."""
        y = z.mul_(x) if self.shift is None else torch.addcmul(self.shift, x, z, out=z)
        return _activate(y, self.slope).add_(x)

    @staticmethod
    def run(blocks: list[FoldedBlock], x_BF: Tensor, *, compiled: bool = False) -> Tensor:
        """Apply all layers to a block of rows before the next one, so that rows stay in the cache."""
        if compiled:
            for block in blocks:
                x_BF = compiled_folded(x_BF, block.weight, block.bias, block.shift, block.slope)
            return x_BF
        out = torch.empty_like(x_BF)
        for rows in row_blocks(x_BF):
            x = x_BF[rows]
            for block in blocks:
                x = block.behind(linear(x.to(block.weight.dtype), block.weight, block.bias).to(x.dtype), x)
            out[rows] = x
        return out


def row_blocks(x_BF: Tensor) -> Iterator[slice]:
    """Rows that stay in the cache of a CPU; all of them on other devices."""
    step = BLOCK_ROWS if x_BF.device.type == "cpu" else max(len(x_BF), 1)
    for start in range(0, len(x_BF), step):
        yield slice(start, start + step)


def _sum_of_maps(x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, scale: float, *, out: Tensor) -> None:
    """out = sum_r keep_r (W_r x + b_r) scale; without a mask there is one map."""
    width = x.shape[1]
    x = x.to(weight.dtype)
    if keep is None:
        out.copy_(linear(x, weight, bias))
        return
    for r in range(len(weight) // width):
        columns = slice(r * width, (r + 1) * width)
        row = linear(x, weight[columns], bias[columns]).to(out.dtype)
        mask = keep[:, columns].to(row.dtype)
        if r == 0:
            torch.mul(row, mask, out=out)
        else:
            out.addcmul_(row, mask)
    out.mul_(scale)


def _affine(gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm as y * factor + shift."""
    factor = gamma * (var + eps).rsqrt()
    return factor, beta - mean * factor


def running_affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """A norm of running statistics as y * factor + shift, each (F,)."""
    return _affine(norm.weight, norm.bias, *_running(norm), norm.eps)


def _running(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _normalise(y: Tensor, factor: Tensor | None, shift: Tensor | None) -> Tensor:
    return y if factor is None or shift is None else torch.addcmul(shift, y, factor)


def _activate(u: Tensor, slope: Tensor | None) -> Tensor:
    return u.relu_() if slope is None else F.prelu(u, slope)
