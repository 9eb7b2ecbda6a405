"""A moving average of a model's weights, which scoring and the checkpoint take in place of the last step's.

    a_0 = w_0        a_t = d_t a_(t-1) + (1 - d_t) w_t        d_t = min(decay, (1 + t) / (10 + t))

with w_t the weights after step t (Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J.
Control Optim. 30(4), 1992; as an exponential average with a shorter memory at the start in TensorFlow's
`ExponentialMovingAverage`). Training continues from w_t: its steps and its loss are those without
an average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError


class WeightAverage:
    """The average of all trained weights and of the floating-point buffers that a checkpoint has, as batch statistics.

    It takes as much memory as the weights, and a step reads and writes all of them, embedding tables included.

    Args:
        model: its weights are averaged from how they are now.
        decay: what the average keeps of itself in a step, between 0 and 1; about the last 1 / (1 - decay) steps count.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> average = WeightAverage(model, decay=0.5)
    >>> for value in (1.0, 2.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     average.update()
    >>> with average.in_place():
    ...     round(model.weight.item(), 4)  # 2/11 * 0 + 9/11 * 1 = 0.8182, then 3/12 * 0.8182 + 9/12 * 2
    1.7045
    >>> model.weight.item()
    2.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        # Weights that several layers share are one tensor under several names: by identity they are averaged once.
        named = {id(tensor): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
        self._weights = {
            name: tensor
            for name, tensor in named.values()
            if tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        }
        self._averages = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        self.steps += 1
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), 1 - kept)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages as its weights within the block; a model that keeps what it computed from its
        weights must forget it at `train()` and `eval()`."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def of(self, weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The averages of some of the tensors that are averaged."""
        asked = set(map(id, weights))
        return [self._averages[name] for name, weight in self._weights.items() if id(weight) in asked]

    def state_dict(self) -> dict[str, object]:
        """The averages by the names of the weights, and the steps so far."""
        return {"steps": self.steps, "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Resume from a state; `None` is that of a training without average.

        Raises:
            ConfigError: it has no averages, or those of other weights.
        """
        if state is None or state["averages"].keys() != self._averages.keys():
            raise ConfigError(
                "the state to resume has no average of these weights: it is of a run with another `weight_averaging` "
                "or model; run without --resume"
            )
        self.steps = state["steps"]
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            kept = weight.detach().clone()
            weight.copy_(self._averages[name])
            self._averages[name].copy_(kept)
