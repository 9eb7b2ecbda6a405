"""The exported model against the trained one on the valid split: largest difference of scores, and AUC.

Shape legend: B samples, each a request with one candidate; T history slots, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.models import BaseModel
from numpy.typing import NDArray

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.metrics.classification import UndefinedMetric, auc
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.zoo.layouts import pad
from fuxictr_multimodal.zoo.servable import Servable, candidate, context, event, history, mask

# Samples on which every export is compared, and on which an AUC that storage or quantisation may change is measured.
SAMPLES, SAMPLES_OF_LOSSY = 10_000, 200_000
# Requests of one call: their histories are padded to the longest of them.
REQUESTS = 256
# The order of float32 sums differs between engines; a wrong graph differs by more.
LARGEST_FLOAT32_DIFFERENCE = 1e-4

Graph = Callable[[Mapping[str, NDArray]], NDArray]
Rows = Callable[[str, NDArray], NDArray]


@dataclass(frozen=True)
class Checks:
    """Scores of the exported model beside those of the trained one.

    Attributes:
        samples: of the valid split that were compared, from its start.
        largest_difference: of two scores of a sample.
        mean_difference: the mean magnitude of the differences.
        auc_trained: AUC of the trained model, None where it is not defined.
        auc_exported: AUC of the exported model.
    """

    samples: int
    largest_difference: float
    mean_difference: float
    auc_trained: float | None
    auc_exported: float | None

    @property
    def auc_difference(self) -> float | None:
        """What the export changes of the AUC."""
        if self.auc_trained is None or self.auc_exported is None:
            return None
        return self.auc_exported - self.auc_trained

    def as_dict(self) -> dict[str, Any]:
        """For `model.json`."""
        return {"split": "valid", **asdict(self), "auc_difference": self.auc_difference}

    def __str__(self) -> str:
        text = f"{self.samples:,} valid samples: scores differ by at most {self.largest_difference:.2g}"
        if self.auc_trained is None or self.auc_exported is None:
            return f"{text}; the AUC is not defined"
        change = self.auc_exported - self.auc_trained
        return f"{text}; AUC {self.auc_trained:.6f} trained, {self.auc_exported:.6f} exported, change {change:+.1e}"


def compare(
    model: BaseModel,
    to_inputs: Callable[[Batch], Any],
    loader: MultimodalDataLoader,
    servable: Servable,
    graph: Graph,
    rows: Rows,
    *,
    samples: int,
) -> Checks:
    """Score the same samples with both models.

    Args:
        model: the trained model, as it was trained.
        to_inputs: turns a `Batch` into what its `forward` reads.
        loader: of the valid split, in its order.
        servable: names what the graph reads.
        graph: the exported graph, tensors by name to scores (B, 1).
        rows: rows of an exported array of the catalogue, decoded: name and ids (any shape) to (..., d).
        samples: at most so many.
    """
    model.eval()
    label = model.feature_map.labels[0]
    trained: list[NDArray] = []
    exported: list[NDArray] = []
    labels: list[NDArray] = []
    wanted = min(samples, loader.num_samples)
    done = 0
    with torch.no_grad(), Line(wanted, "verifying", unit="sample") as line:
        for whole in loader:
            for start in range(0, len(whole), REQUESTS):
                batch = whole.take(range(start, min(start + REQUESTS, len(whole), start + wanted - done)))
                # An exported model knows no folds of users.
                batch = replace(batch, fold=None)
                trained.append(model.forward(to_inputs(batch))["y_pred"].reshape(-1).cpu().numpy())
                exported.append(graph(requests_of(batch, servable, rows)).reshape(-1))
                if label in batch.features:
                    labels.append(batch.features[label].cpu().numpy())
                done += len(batch)
                line.update(len(batch))
                if done == wanted:
                    break
            if done == wanted:
                break
    return _checks(np.concatenate(trained), np.concatenate(exported), np.concatenate(labels) if labels else None)


def requests_of(batch: Batch, servable: Servable, rows: Rows) -> dict[str, NDArray]:
    """Every sample as a request of one candidate: what the graph reads, by name."""
    histories = {
        name: batch.history if number == 0 else batch.behaviours[name]
        for number, name in enumerate(servable.behaviours)
    }
    ids = {name: _slots(jagged, jagged.values, servable) for name, jagged in histories.items()}
    makers: dict[str, Callable[[], NDArray]] = {
        context(name): column.cpu().numpy for name, column in batch.features.items()
    }
    for array in servable.items:
        makers[candidate(array)] = partial(rows, array, batch.target.cpu().numpy()[:, None])
    for name, jagged in histories.items():
        makers[mask(name)] = partial(np.greater, ids[name], 0)
        for array in servable.items:
            makers[history(name, array)] = partial(_of_history, rows, array, ids[name])
        for column, values in jagged.events.items():
            makers[event(name, column)] = partial(_slots, jagged, values, servable)
    found = {}
    for given in servable.inputs:
        if given.name in makers:
            found[given.name] = makers[given.name]().astype(given.dtype, copy=False)
            continue
        of_events = [name for name in histories if given.name.startswith(event(name, ""))]
        if not of_events:
            raise InputError(f"the exported graph reads {given.name!r}, which the samples of the dataset do not have")
        # A kind of history that lacks this feature of events.
        found[given.name] = np.zeros_like(ids[of_events[0]])
    return found


def _of_history(rows: Rows, array: str, ids: NDArray) -> NDArray:
    """Rows of an array at the items of a history, (B, T, ...), zeros on padding."""
    values = rows(array, ids)
    values[ids == 0] = 0
    return values


def check_limits(checks: Checks, *, lossy: str | None, auc_limit: float) -> None:
    """Refuse an export that scores otherwise than the trained model.

    Args:
        checks: as measured.
        lossy: the options that cost accuracy, as typed, or None.
        auc_limit: what they may change of the AUC.

    Raises:
        InputError: the limit is passed, or a float32 export differs.
    """
    if not np.isfinite(checks.largest_difference):
        raise InputError("the exported or the trained model gives a score that is not finite: train it again")
    if lossy is None:
        if checks.largest_difference > LARGEST_FLOAT32_DIFFERENCE:
            raise InputError(
                f"the exported model is not the trained one: scores of {checks.samples:,} valid samples differ by up "
                f"to {checks.largest_difference:.2g}, and float32 explains {LARGEST_FLOAT32_DIFFERENCE:g}; nothing was "
                "written, please report this fault with the model's settings"
            )
        return
    change = checks.auc_difference
    if change is None:
        raise InputError(
            f"{lossy} is limited by the change of the AUC on valid, which is not defined there (one class, or no "
            "classification): export without it"
        )
    if abs(change) > auc_limit:
        raise InputError(
            f"{lossy} changes the AUC on {checks.samples:,} valid samples from {checks.auc_trained:.6f} to "
            f"{checks.auc_exported:.6f}, by {change:+.2e}, more than --auc-limit {auc_limit:g}: nothing was written; "
            "export without it, or raise the limit"
        )


def _slots(jagged: Jagged, values: torch.Tensor, servable: Servable) -> NDArray:
    """Values of a history in the slots of its longest row, or of `fixed_slots`, (B, T)."""
    longest = int(jagged.lengths.max()) if len(jagged) else 0
    slots = servable.fixed_slots or max(longest, 1)
    padded = pad(Jagged(values, jagged.offsets), slots, servable.padding)
    return padded.cpu().numpy().astype(np.int64)


def _checks(trained: NDArray, exported: NDArray, labels: NDArray | None) -> Checks:
    difference = np.abs(trained.astype(np.float64) - exported)
    return Checks(
        samples=len(trained),
        largest_difference=float(difference.max(initial=0.0)),
        mean_difference=float(difference.mean()) if len(difference) else 0.0,
        auc_trained=_auc(labels, trained),
        auc_exported=_auc(labels, exported),
    )


def _auc(labels: NDArray | None, scores: Sequence[float] | NDArray) -> float | None:
    if labels is None or not np.isin(labels, (0, 1)).all():
        return None
    try:
        return auc(labels, scores)
    except UndefinedMetric:
        return None
