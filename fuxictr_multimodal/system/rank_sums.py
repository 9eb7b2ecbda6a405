"""A sum over the ranks within a model: gradients flow back through it to the rank that each summand came from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuxictr_multimodal.system.ranks import current, layer_group, sum_over_ranks


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values.detach(), group=layer_group())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Each rank's loss depends on the sum, so each summand has the gradients of all of them.
        return sum_over_ranks(grad, group=layer_group())


def summed(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, differentiable; every rank calls it, in the same order, with one shape."""
    return _Sum.apply(values) if current().several else values


def stacked(rows_RD: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks below each other (sum of R, D), differentiable, and where the own ones begin.

    Each rank has its own number of rows, which may be 0.
    """
    ranks = current()
    counts = torch.zeros(ranks.world_size, dtype=torch.long)
    counts[ranks.rank] = len(rows_RD)
    if ranks.several:
        counts = sum_over_ranks(counts, group=layer_group())
    before = int(counts[: ranks.rank].sum())
    after = int(counts.sum()) - before - len(rows_RD)
    return summed(torch.nn.functional.pad(rows_RD, (0, 0, before, after))), before
