"""AdamW as the embedding stages use it: settings, the learning rate of a step, groups with and without decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """AdamW, warm-up and linear decay to zero at the stage's last step.

    Attributes:
        learning_rate: the highest, reached after the warm-up.
        warmup_steps: steps of linear rise from zero.
        weight_decay, beta1, beta2, epsilon: AdamW's; defaults are those published for masked language modelling.
        max_gradient_norm: gradients are clipped to this L2 norm.
    """

    learning_rate: float
    warmup_steps: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 100:
            raise ConfigError(f"learning_rate must be a positive number, found {self.learning_rate!r}")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must not be negative, found {self.warmup_steps!r}")

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`.

        >>> settings = OptimiserSettings(learning_rate=1.0, warmup_steps=2)
        >>> [settings.rate_at(step, 6) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        return self.learning_rate * (steps - step) / max(steps - self.warmup_steps, 1)


def make_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW over all parameters; biases and norms (one-dimensional ones) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, fused=True
    )
