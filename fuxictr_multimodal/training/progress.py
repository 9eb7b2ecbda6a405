"""Progress of a training, in the form of reports and state files, and the scores of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from fuxictr_multimodal.metrics import classification as metrics
from fuxictr_multimodal.system.ranks import Ranks, all_of


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
    """Scores, labels and groups of a split, in its order; `rows_per_s` counts loading and scoring.

    Of several processes rank 0 has those of all, the others their own.
    """

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


def gathered(values: NDArray | None, ranks: Ranks) -> NDArray | None:
    """The values of all ranks end to end on rank 0; elsewhere the own ones. None where no rank has any.

    Every rank calls it; those without rows pass None.
    """
    if not ranks.several:
        return values
    forms = all_of(None if values is None else (values.dtype, values.shape))
    there = [form for form in forms if form is not None]
    if not there:
        return None
    dtype, shape = there[0]
    own = np.empty((0, *shape[1:]), dtype) if values is None else np.ascontiguousarray(values)
    counts = [0 if form is None else form[1][0] for form in forms]
    # As bytes, since gloo does not know every type, and as long as the longest.
    width = own[:0].itemsize * int(np.prod(shape[1:], dtype=np.int64))
    sent = torch.zeros(max(counts) * width, dtype=torch.uint8)
    sent[: own.nbytes] = torch.from_numpy(own.reshape(-1).view(np.uint8))
    parts = [torch.empty_like(sent) for _ in counts] if ranks.first else None
    distributed.gather(sent, parts, dst=0)
    if parts is None:
        return own
    found = [
        part[: count * width].numpy().view(dtype).reshape(-1, *shape[1:])
        for part, count in zip(parts, counts, strict=True)
    ]
    return np.concatenate(found)


def to_numpy(parts: list[torch.Tensor]) -> NDArray | None:
    """The parts end to end, on the host; None where there are none."""
    return torch.cat(parts).cpu().numpy() if parts else None


def scores_of(values: NDArray | None) -> NDArray[np.float32]:
    """The values; none are no rows."""
    return np.empty(0, dtype=np.float32) if values is None else values
