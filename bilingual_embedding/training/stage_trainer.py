"""The loop of every stage: steps, learning rate, clipping, progress, and a state from which a killed run resumes.

A step is a pure function of its number, the weights and torch's random state, so a resumed run repeats the loss trace
of an uninterrupted one exactly (same machine, same number of threads).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bilingual_embedding.training.optimisation import OptimiserSettings, make_optimiser
from fuxictr_multimodal.errors import DataError, TrainingDiverged
from fuxictr_multimodal.system.interruption import raise_waiting, signal_waiting, signals_held
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.system.torch_files import all_finite, check_weights
from fuxictr_multimodal.training.optimizer_state import check_optimizer_state
from fuxictr_multimodal.training.state_file import (
    REMEDY,
    SaveTimes,
    StateFile,
    random_state,
    set_random_state,
)
from fuxictr_multimodal.training.state_owner import Owner

CURVE_POINTS = 20


@dataclass(frozen=True)
class Step:
    """What one step did: its loss, detached, and the texts and tokens it read. Gradients are in the model."""

    loss: Tensor
    texts: int
    tokens: int
    task: str


@dataclass
class StageProgress:
    """A stage so far; `losses` has one entry per step, `seconds` is training time over all starts."""

    step: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)

    def curve(self) -> list[dict[str, Any]]:
        """Mean loss of each task in up to 20 stretches of the stage."""
        rows = []
        stretch = max(1, math.ceil(len(self.losses) / CURVE_POINTS))
        for start in range(0, len(self.losses), stretch):
            part = list(zip(self.losses, self.tasks, strict=True))[start : start + stretch]
            means = {}
            for task in sorted({task for _, task in part}):
                values = [loss for loss, name in part if name == task]
                means[task] = sum(values) / len(values)
            rows.append({"step": start + len(part), "loss": means})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """What the report says of a stage that is trained."""
        seconds = max(self.seconds, 1e-9)
        return {
            "steps": self.step,
            "seconds": self.seconds,
            "texts": self.texts,
            "tokens": self.tokens,
            "texts_per_s": self.texts / seconds,
            "tokens_per_s": self.tokens / seconds,
            "curve": self.curve(),
        }


class StageTrainer:
    """Trains one stage.

    Args:
        name: of the stage, for the progress line and messages.
        model: all that is trained.
        take_step: given a step's number, adds gradients to the model and says what it did.
        steps: how many.
        settings: the optimiser's.
        state_file: where a resumable state is kept, and that before it beside it; None for none.
        owner: the run that states belong to: one of another run is not resumed.
        save_steps: steps between two states.
        save_minutes: minutes between two, None for none.
        progress: show it.
    """

    def __init__(
        self,
        *,
        name: str,
        model: nn.Module,
        take_step: Callable[[int], Step],
        steps: int,
        settings: OptimiserSettings,
        state_file: Path | None = None,
        owner: Owner | None = None,
        save_steps: int = 200,
        save_minutes: float | None = None,
        progress: bool = False,
    ) -> None:
        self.name, self.model, self.take_step, self.steps = name, model, take_step, steps
        self.settings, self.save_steps, self.show = settings, save_steps, progress
        self.owner = owner
        self.saving = SaveTimes(save_minutes, save_steps)
        self._states = StateFile(state_file)
        self.optimiser = make_optimiser(model, settings)
        self.progress = StageProgress()

    def resume(self) -> bool:
        """Load the last state of a killed run, or that before it where the last one is damaged; False if there is none.

        Raises:
            DataError: if the states are damaged, of another run or stage, or of more steps.
        """
        if not self._states.take_up(self._take_up):
            return False
        logging.info("stage %s resumes after step %d of %d", self.name, self.progress.step, self.steps)
        return True

    def _take_up(self, state: dict[str, Any], path: Path) -> None:
        name, steps = state["name"], state["steps"]
        if name != self.name or steps > self.steps:
            raise DataError(
                f"{path} is of stage {name!r} with {steps} steps, not {self.name!r} with "
                f"{self.steps}: steps may increase, not decrease; --overwrite trains from scratch"
            )
        if self.owner is not None:
            self.owner.refuse_another(state.get("run"), path)
        progress = StageProgress(**state["progress"])
        if not 0 <= progress.step == len(progress.losses) == len(progress.tasks) <= steps:
            raise ValueError(
                f"it is after step {progress.step} of {steps}, but has {len(progress.losses)} losses of "
                f"{len(progress.tasks)} steps"
            )
        self.model.load_state_dict(check_weights(state["model"], self.model, path, remedy=REMEDY))
        check_optimizer_state(state["optimiser"], self.optimiser)
        self.optimiser.load_state_dict(state["optimiser"])
        set_random_state(state["random"], state["random_cuda"])
        self.progress = progress

    def run(self) -> StageProgress:
        """Take the remaining steps.

        Raises:
            TrainingDiverged: if a loss is not finite.
        """
        progress = self.progress
        self.model.train()
        pending: list[Tensor] = []
        self.saving.saved()
        started = time.perf_counter()
        first = progress.step
        # A signal waits for the end of a step, and then a state is saved.
        with Line(self.steps, self.name, unit="step", first=first, shown=self.show) as line, signals_held():
            for number in range(first, self.steps):
                done = self._step(number)
                pending.append(done.loss)
                progress.tasks.append(done.task)
                progress.texts += done.texts
                progress.tokens += done.tokens
                progress.step = number + 1
                line.update()
                planned = progress.step % self.save_steps == 0 or progress.step == self.steps
                if not planned and not self.saving.due(progress.step) and not signal_waiting():
                    continue
                # Losses are read here, so that a GPU is not waited for at every step.
                progress.losses += self._read(pending)
                pending = []
                line.note(f"loss {progress.losses[-1]:.3f}")
                progress.seconds += time.perf_counter() - started
                self._save()
                raise_waiting()
                started = time.perf_counter()
        self.model.eval()
        return progress

    def discard_state(self) -> None:
        """Remove the resumable states, once the stage's weights are written and the report says so."""
        self._states.remove()

    def _step(self, number: int) -> Step:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate_at(number, self.steps)
        self.optimiser.zero_grad()
        done = self.take_step(number)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        self.optimiser.step()
        return done

    def _read(self, losses: list[Tensor]) -> list[float]:
        values = torch.stack(losses).tolist()
        if not all(map(math.isfinite, values)):
            raise TrainingDiverged(
                f"the loss of stage {self.name} is not finite before step {self.progress.step}: lower its learning_rate"
            )
        return values

    def _save(self) -> None:
        if not all_finite(self.model):
            raise TrainingDiverged(
                f"a weight of stage {self.name} is not finite after step {self.progress.step}: lower its learning_rate"
            )
        cpu, gpus = random_state()
        state = {
            "run": None if self.owner is None else self.owner.as_dict(),
            "name": self.name,
            "steps": self.steps,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": cpu,
            "random_cuda": gpus,
            "progress": vars(self.progress),
        }
        self._states.write(state)
        self.saving.saved()
