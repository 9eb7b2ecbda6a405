"""Checks of the moments in a state: torch takes those of another optimizer or weight, and fails in the next step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# How a step is computed, and what torch adds to groups of its earlier versions: not what another optimizer lacks.
HOW = frozenset("foreach fused capturable differentiable maximize decoupled_weight_decay initial_lr".split())


def check_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse moments that are not of this optimizer and its weights.

    Raises:
        ValueError: naming the weight by its number, or what the state lacks or has besides.
    """
    for stored, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        differing = sorted((stored.keys() ^ group.keys()) - HOW)
        if differing:
            raise ValueError(f"its optimizer is not {type(optimizer).__name__}: they differ in {', '.join(differing)}")
    weights = [(weight, group) for group in optimizer.param_groups for weight in group["params"]]
    kinds: dict[tuple[int, int], dict[str, bool]] = {}
    for number, values in state["state"].items():
        weight, group = weights[number]
        kind = (id(group), weight.dim())
        if kind not in kinds:
            kinds[kind] = _moments(optimizer, group, weight.dim())
        # Weights without a gradient so far have none.
        lacking = sorted(kinds[kind].keys() - values.keys()) if values else []
        if lacking:
            raise ValueError(f"weight {number} lacks {', '.join(lacking)}")
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape == weight.shape:
                continue
            # What torch does not know, such as `last_step` of a row-wise Adam, has as many axes only if it is a moment.
            if kinds[kind].get(name, value.dim() == weight.dim()):
                raise ValueError(
                    f"{name} of weight {number} has shape {tuple(value.shape)}, its weight {tuple(weight.shape)}"
                )


def _moments(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], dimensions: int) -> dict[str, bool]:
    """What the optimizer of torch keeps of a weight after a step, and whether that has the shape of the weight."""
    kind: Any = next((cls for cls in type(optimizer).__mro__ if f"{cls.__module__}.".startswith("torch.optim.")), None)
    if kind is None or kind in (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam):
        return {}
    weight = nn.Parameter(torch.zeros((2,) * dimensions))
    weight.grad = torch.zeros_like(weight)
    known = inspect.signature(kind).parameters.keys() - {"params", "foreach", "fused", "capturable"}
    probe = kind([weight], **{name: value for name, value in group.items() if name in known})
    probe.step()
    return {
        name: value.shape == weight.shape and dimensions > 0
        for name, value in probe.state[weight].items()
        if isinstance(value, Tensor)
    }
