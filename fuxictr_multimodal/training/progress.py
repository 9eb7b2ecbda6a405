"""Progress of a training, in the form of reports and state files, and the scores of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.metrics import classification as metrics


@dataclass
class Evaluation:
    """One row of the learning curve; `seconds` is training time so far without evaluations."""

    epoch: int
    step: int
    train_loss: float
    learning_rate: float
    metrics: dict[str, float]
    monitor: float
    best: bool
    seconds: float


@dataclass
class Progress:
    """All that a killed run needs to resume, beside the tensors."""

    epoch: int = 0
    step: int = 0
    stopping_steps: int = 0
    best_value: float | None = None
    best_epoch: int | None = None
    finished: bool = False
    train_seconds: float = 0.0
    train_rows: int = 0
    curve: list[Evaluation] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """The progress of a state file."""
        return cls(**{**values, "curve": [Evaluation(**row) for row in values["curve"]]})


@dataclass(frozen=True)
class Predictions:
    """Scores, labels and groups of a split, in its order; `rows_per_s` counts loading and scoring."""

    scores: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    groups: NDArray | None
    rows_per_s: float

    def evaluate(self, names: list[str]) -> dict[str, float]:
        """Compute metrics by name; see `metrics.evaluate`."""
        assert self.labels is not None, "a split without labels has no metrics"
        return metrics.evaluate(self.labels, self.scores, names, self.groups)

    def undefined(self, names: list[str]) -> dict[str, str]:
        """Which of these metrics have no value on these samples, and why; see `metrics.undefined`."""
        assert self.labels is not None, "a split without labels has no metrics"
        return metrics.undefined(names, self.labels, self.groups)
