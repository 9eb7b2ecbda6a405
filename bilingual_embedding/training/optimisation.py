"""AdamW as the embedding stages use it: settings, the learning rate of a step, groups with and without decay."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fuxictr_multimodal.config.binder import Settings


class OptimiserSettings(Settings):
    """AdamW with a warm-up and a linear decay to zero at the last step of the stage.

    Defaults are those published for masked language modelling.
    """

    learning_rate: Annotated[float, Field(gt=0, lt=100)] = Field(
        description="The highest learning rate, reached after the warm-up.", examples=["1.e-3"]
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=0, description="Steps of linear rise from zero.")
    weight_decay: float = Field(default=0.01, description="Decay of weights; biases and norms have none.")
    beta1: float = Field(default=0.9, description="Decay of the running mean of gradients.")
    beta2: float = Field(default=0.98, description="Decay of the running mean of squared gradients.")
    epsilon: float = Field(default=1e-6, description="Added to the denominator of a step.")
    max_gradient_norm: float = Field(default=1.0, description="Gradients are clipped to this L2 norm.")

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
