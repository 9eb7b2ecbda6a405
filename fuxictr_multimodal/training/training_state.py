"""All that the rest of a training depends on, as a state file holds it: at an evaluation or within an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.system.torch_files import check_weights
from fuxictr_multimodal.training.progress import Progress
from fuxictr_multimodal.training.state_file import (
    REMEDY,
    check_optimizer_state,
    host_random_state,
    random_state,
    set_host_random_state,
    set_random_state,
)
from fuxictr_multimodal.training.weight_average import WeightAverage


@dataclass
class TrainingState:
    """A state without what model, optimizer and random generators hold themselves.

    Attributes:
        progress: of the run.
        loader: the position of the training loader.
        loss_sum: of the steps since the last evaluation, float64 scalar, or None right after one.
        loss_steps: their number.
        gradients: by the name of a weight, those that wait for the end of an accumulation window.
    """

    progress: Progress
    loader: dict[str, int]
    loss_sum: torch.Tensor | None = None
    loss_steps: int = 0
    gradients: Mapping[str, torch.Tensor] | None = None

    def as_dict(self, model: BaseModel, average: WeightAverage | None) -> dict[str, Any]:
        """The content of the file."""
        cpu, gpus = random_state()
        return {
            "model": model.state_dict(),
            "optimizer": model.optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "rng": cpu,
            "rng_cuda": gpus,
            "rng_host": host_random_state(),
            "loader": self.loader,
            "progress": asdict(self.progress),
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
            "gradients": _waiting_gradients(model),
        }

    @classmethod
    def load(
        cls, state: Mapping[str, Any], path: Path, model: BaseModel, average: WeightAverage | None
    ) -> TrainingState:
        """Give model, optimizer, average and random generators what they had.

        Args:
            state: the content of the file. One of an earlier version lacks what only states within an epoch need.
            path: of the file.
            model: as it was built.
            average: fresh, or None.

        Raises:
            DataError: weights do not fit the model, or are not finite.
            ConfigError: the state is of a run with another weight average.
        """
        found = cls(
            progress=Progress.from_dict(state["progress"]),
            loader=state["loader"],
            loss_sum=state.get("loss_sum"),
            loss_steps=state.get("loss_steps", 0),
            gradients=state.get("gradients"),
        )
        model.load_state_dict(check_weights(state["model"], model, path, remedy=REMEDY))
        check_optimizer_state(state["optimizer"], model.optimizer)
        model.optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state.get("average"))
        set_random_state(state["rng"], state["rng_cuda"])
        set_host_random_state(state.get("rng_host"))
        return found

    def begin_inside(self, loss_sum: torch.Tensor, model: BaseModel) -> int:
        """Continue an epoch: put the gradients and the sum of losses where they were, and return the number of steps.

        Args:
            loss_sum: zero; it is changed.
            model: without gradients.
        """
        if self.loss_sum is not None:
            loss_sum.copy_(self.loss_sum)
        for name, parameter in model.named_parameters():
            if self.gradients is not None and name in self.gradients:
                parameter.grad = self.gradients[name].to(parameter.device)
        return self.loss_steps


def _waiting_gradients(model: BaseModel) -> dict[str, torch.Tensor] | None:
    """Gradients that the next step adds to; None where each step begins with none, as FuxiCTR's own does.

    A weight without one is left out: optimizers treat none and zero differently.
    """
    if type(model).train_step is BaseModel.train_step or getattr(model, "accumulation_steps", None) == 1:
        return None
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
