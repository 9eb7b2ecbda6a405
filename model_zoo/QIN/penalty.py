"""FuxiCTR's weight penalties with the same value and a cheaper gradient.

(lambda / p) * sum |w|^p over a list of parameters. FuxiCTR writes it as `torch.norm(w, p) ** p`, whose derivative
takes several passes over tables of millions of weights; it is lambda * w for p = 2 and lambda * sign(w) for p = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fuxictr_multimodal.errors import ConfigError


def as_regularizer(name: str, value: float | str | None) -> float | str | None:
    """Check a regulariser and write it as FuxiCTR reads it: an integer becomes a float, 0 becomes None.

    Raises:
        ConfigError: neither a number, nor `l1(x)`, `l2(x)` or `l1_l2(x,y)`.

    >>> as_regularizer("net_regularizer", 1), as_regularizer("net_regularizer", 0)
    (1.0, None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) or None
    try:
        if value is None or (isinstance(value, str) and get_regularizer(value)):
            return value
    except NotImplementedError:
        pass
    raise ConfigError(f"{name}={value!r} is neither a number (write 1.e-4, not 1e-4) nor l1(x), l2(x) or l1_l2(x,y)")


def penalty(parameters: Sequence[Tensor], *, order: int, weight: float) -> Tensor:
    """(weight / order) * sum |w|^order over all parameters, a scalar; `order` is 1 or 2.

    >>> float(penalty([torch.tensor([3.0, -4.0])], order=2, weight=0.5))
    6.25
    """
    if order not in (1, 2):
        raise ConfigError(f"regularisers are of order 1 or 2, got l{order}")
    return _Penalty.apply(order, weight, *parameters)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters of a model's embedding layers, as FuxiCTR tells them from others, and all others."""
    layers = [module for module in model.modules() if type(module) is FeatureEmbeddingDict]
    embedding = {id(p): p for layer in layers for p in layer.parameters() if p.requires_grad}
    return list(embedding.values()), [p for p in model.parameters() if p.requires_grad and id(p) not in embedding]


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx, order, weight, *parameters):
        ctx.order, ctx.weight = order, weight
        ctx.save_for_backward(*parameters)
        flat = [p.reshape(-1) for p in parameters]
        sums = [torch.dot(p, p) if order == 2 else torch.linalg.vector_norm(p, 1) for p in flat]
        return torch.stack(sums).sum() * (weight / order)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        scale = grad * ctx.weight
        parameters = ctx.saved_tensors
        return None, None, *((p if ctx.order == 2 else p.sign()) * scale for p in parameters)
