"""All that the rest of a training depends on, as a state file holds it: at an evaluation or within an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.system.ranks import all_of, current, sum_over_ranks
from fuxictr_multimodal.system.torch_files import check_weights
from fuxictr_multimodal.training.data_parallel import seed_rank
from fuxictr_multimodal.training.gradient_exchange import sparse_weights, sum_rows
from fuxictr_multimodal.training.optimizer_state import check_optimizer_state
from fuxictr_multimodal.training.progress import Progress
from fuxictr_multimodal.training.state_file import (
    REMEDY,
    host_random_state,
    random_state,
    set_host_random_state,
    set_random_state,
)
from fuxictr_multimodal.training.state_owner import Owner
from fuxictr_multimodal.training.weight_average import WeightAverage


class Spread(Protocol):
    """What a model whose weights are spread over ranks adds to a state; all ranks call both."""

    def gathered(self) -> dict[str, Any]:
        """All of it on rank 0, in a form that any number of ranks can take up; elsewhere it is not read."""
        ...

    def take_up(self, state: Mapping[str, Any] | None) -> None:
        """Give this rank its part; None is the state of a model without spread weights."""
        ...


@dataclass
class TrainingState:
    """A state without what model, optimizer and random generators hold themselves.

    Attributes:
        progress: of the run.
        loader: the position of the training loader.
        epoch_steps: steps of an epoch, or None: states of earlier versions do not say.
        loss_sum: of the steps since the last evaluation, float64 scalar, or None right after one.
        loss_steps: their number.
        gradients: by the name of a weight, those that wait for the end of an accumulation window.

    Where several processes train, all of them make a state and take it up, and it holds what one process would have:
    sums are those over the ranks. Beside it are the random states of the other ranks. Resumed by as many processes,
    each continues its stream; by another number, rank 0 does and the others begin anew, see `seed_rank`. A model whose
    weights are spread over ranks has an attribute `spread` (`Spread`), which adds its part.
    """

    progress: Progress
    loader: dict[str, int]
    epoch_steps: int | None
    loss_sum: torch.Tensor | None = None
    loss_steps: int = 0
    gradients: Mapping[str, torch.Tensor] | None = None

    def as_dict(self, model: BaseModel, average: WeightAverage | None, owner: Owner | None) -> dict[str, Any]:
        """The content of the file, on rank 0; all ranks call this."""
        cpu, gpus = random_state()
        others = all_of({"rng": cpu, "rng_cuda": gpus, "rng_host": host_random_state()}) if current().several else []
        spread = getattr(model, "spread", None)
        return {
            "run": None if owner is None else owner.as_dict(),
            "model": model.state_dict(),
            "optimizer": model.optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "rng": cpu,
            "rng_cuda": gpus,
            "rng_host": host_random_state(),
            "loader": self.loader,
            "epoch_steps": self.epoch_steps,
            "progress": asdict(self.progress),
            "loss_sum": None if self.loss_sum is None else sum_over_ranks(self.loss_sum),
            "loss_steps": self.loss_steps,
            "gradients": _waiting_gradients(model),
            "rng_of_ranks": others[1:],
            "spread": None if spread is None else spread.gathered(),
        }

    @classmethod
    def load(
        cls,
        state: Mapping[str, Any],
        path: Path,
        model: BaseModel,
        average: WeightAverage | None,
        owner: Owner | None,
    ) -> TrainingState:
        """Give model, optimizer, average and random generators what they had.

        Args:
            state: the content of the file. One of an earlier version lacks what only states within an epoch need.
            path: of the file.
            model: as it was built.
            average: fresh, or None.
            owner: the run that is resumed, or None where it is not known.

        Raises:
            DataError: the state is of another run; weights do not fit the model, or are not finite.
            ConfigError: the state is of an earlier version, of a run with another weight average.
            ValueError: it contradicts itself.
        """
        if owner is not None:
            owner.refuse_another(state.get("run"), path)
        found = cls(
            progress=Progress.from_dict(state["progress"]),
            loader=state["loader"],
            epoch_steps=state.get("epoch_steps"),
            loss_sum=state.get("loss_sum"),
            loss_steps=state.get("loss_steps", 0),
            gradients=state.get("gradients"),
        )
        if found.epoch_steps is not None:
            found.check_position(found.epoch_steps)
        if found.loss_sum is not None and not bool(torch.isfinite(found.loss_sum)):
            raise ValueError("its sum of losses is not finite")
        model.load_state_dict(check_weights(state["model"], model, path, remedy=REMEDY))
        check_optimizer_state(state["optimizer"], model.optimizer)
        model.optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state.get("average"))
        if (spread := getattr(model, "spread", None)) is not None:
            spread.take_up(state.get("spread"))
        _take_up_random(state, step=found.progress.step)
        return found

    def check_position(self, epoch_steps: int) -> None:
        """Refuse a state whose parts are of different steps: the rest of the training would be another.

        Args:
            epoch_steps: steps of an epoch.

        Raises:
            ValueError: naming both positions.
        """
        step, at_loader = self.progress.step, self.loader["epoch"] * epoch_steps + self.loader["batch"]
        if step != at_loader:
            raise ValueError(f"it is after step {step}, but its training loader after step {at_loader}")
        # After the last step of an epoch the loader is in the next one already, the progress still in this one.
        if self.progress.epoch != (step - 1) // epoch_steps:
            raise ValueError(
                f"step {step} is not in its epoch {self.progress.epoch + 1}: an epoch has {epoch_steps} steps"
            )

    def begin_inside(self, loss_sum: torch.Tensor, model: BaseModel) -> int:
        """Continue an epoch: put the gradients and the sum of losses where they were, and return the number of steps.

        Of several processes rank 0 has them: later they are summed over the ranks.

        Args:
            loss_sum: zero; it is changed.
            model: without gradients.
        """
        if (tables := getattr(model, "sharded_tables", None)) is not None:
            tables.resume_window()
        if not current().first:
            return self.loss_steps
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
    waiting = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    ranks = current()
    if not ranks.several:
        return waiting
    # In one order: what a rank has no gradient of yet, it adds nothing to.
    found = set().union(*all_of(list(waiting)))
    sparse = sparse_weights(model)
    return {
        name: sum_rows(weight, ranks)[0]
        if id(weight) in sparse
        else sum_over_ranks(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        for name, weight in model.named_parameters()
        if name in found
    }


def _take_up_random(state: Mapping[str, Any], *, step: int) -> None:
    """The random state that this rank had; see `TrainingState`."""
    ranks = current()
    of_ranks = [state, *state.get("rng_of_ranks", ())]
    if not ranks.first and len(of_ranks) != ranks.world_size:
        seed_rank(torch.initial_seed(), step=step)
        return
    own = of_ranks[ranks.rank]
    set_random_state(own["rng"], own["rng_cuda"])
    set_host_random_state(own.get("rng_host"))
