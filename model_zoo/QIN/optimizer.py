"""QIN's optimizer: FuxiCTR's by name, Adam fused or row by row, some parameters at their own rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN.rowwise import RowwiseAdam


def own_optimizer(
    optimizer: torch.optim.Optimizer, *, fused: bool, rowwise: bool, apart: Mapping[float, Sequence[nn.Parameter]]
) -> torch.optim.Optimizer:
    """Turn the optimizer that FuxiCTR made, with one group of parameters, into the one that trains QIN.

    Args:
        optimizer: fresh.
        fused: Adam in one pass over the weights.
        rowwise: `RowwiseAdam` instead of Adam.
        apart: parameters with another learning rate, by that rate.

    Raises:
        ConfigError: row-wise updates with another optimizer than Adam.
    """
    (group,) = optimizer.param_groups
    adam = type(optimizer) is torch.optim.Adam
    if rowwise and not adam:
        raise ConfigError(f"embedding_update=rowwise needs optimizer=adam, got {type(optimizer).__name__!r}")
    if rowwise or (adam and fused):
        cls = RowwiseAdam if rowwise else torch.optim.Adam
        optimizer = cls(group["params"], lr=group["lr"], fused=fused)
        (group,) = optimizer.param_groups
    for rate, parameters in apart.items():
        group["params"] = without(group["params"], parameters)
        optimizer.add_param_group({"params": list(parameters), "lr": rate})
    return optimizer


def without(parameters: Iterable[nn.Parameter], others: Iterable[torch.Tensor]) -> list[nn.Parameter]:
    """The parameters that are not among the others, in their order."""
    left_out = set(map(id, others))
    return [parameter for parameter in parameters if id(parameter) not in left_out]
