"""Scores encoded requests: calls of the graph, each of several like requests or of a block of one's candidates.

Shape legend: R requests of one call; C candidates of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .calls import blocks, groups
from .engines import Engine
from .errors import FolderError
from .feeds import Encoded, Feeds, Slots
from .folder import Model
from .items import Version


class Scorer:
    """The graph with what feeds it.

    Args:
        model: that is run.
        graph: of the model.
        feeds: that make the graph's tensors.
    """

    def __init__(self, model: Model, graph: Engine, feeds: Feeds) -> None:
        self._model, self._graph, self._feeds = model, graph, feeds

    def scores(self, requests: Sequence[Encoded], version: Version) -> list[NDArray[np.float64]]:
        """Scores of each request as the model gives them, before any calibration, (C,); `fault` is for infinite ones.

        Raises:
            FolderError: the graph fails.
        """
        found: list[NDArray[np.float64]] = [np.zeros(0)] * len(requests)
        repeats = {i: np.unique(one.rows, return_inverse=True) for i, one in enumerate(requests) if _repeats(one.rows)}
        # An engine's last digit depends on the place, and a candidate that comes twice is to have one score.
        requests = [replace(one, rows=repeats[i][0]) if i in repeats else one for i, one in enumerate(requests)]
        asked = [i for i, one in enumerate(requests) if len(one.rows)]
        for group in groups([(len(requests[i].rows), requests[i].slots) for i in asked]):
            members = [asked[i] for i in group]
            together = [requests[i] for i in members]
            users = self._feeds.of_users(together, version)
            if len(members) == 1:
                found[members[0]] = self._of_one(users, together[0].rows, version)
                continue
            rows = np.zeros((len(members), max(len(one.rows) for one in together)), np.int64)
            for row, one in zip(rows, together, strict=True):
                row[: len(one.rows)] = one.rows
            for i, scores in zip(members, self._run(users, rows, version), strict=True):
                found[i] = scores[: len(requests[i].rows)]
        for i, (_, places) in repeats.items():
            found[i] = found[i][places]
        return found

    def fault(self, request: Encoded, scores: NDArray[np.float64], version: Version) -> int | None:
        """What is too large in a request of which a score is not finite.

        Returns:
            The place of a candidate; None for the context or the history.

        Raises:
            FolderError: the padding item without context and history has no finite score either: it is the model.
        """
        finite = np.isfinite(scores)
        place = int(finite.argmin())
        none = np.zeros(0, np.int64)
        context = {name: np.zeros_like(values) for name, values in request.context.items()}
        histories = {name: Slots(none, dict.fromkeys(one.events, none)) for name, one in request.histories.items()}
        # The padding item first; it is also what an unknown candidate is scored as, and a sample without items.
        rows = np.unique([0, request.rows[place]])
        alone = np.isfinite(self.scores([Encoded(context, histories, rows)], version)[0])
        if not alone[0]:
            raise self._error("scores that are not finite")
        return place if finite.any() or not alone[-1] else None

    def calibrated(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores after the calibration that the model has, if any."""
        return scores if self._model.calibration is None else self._model.calibration(scores)

    def _of_one(self, users: Mapping[str, NDArray], rows: NDArray[np.int64], version: Version) -> NDArray[np.float64]:
        """Scores of one request, block by block, (C,)."""
        parts = [self._run(users, rows[None, block], version)[0] for block in blocks(len(rows))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, users: Mapping[str, NDArray], rows: NDArray[np.int64], version: Version) -> NDArray[np.float64]:
        """Scores of one call, (R, C), of candidates whose rows are given."""
        scores = self._graph.run({**users, **self._feeds.of_candidates(rows, version)})[0]
        if scores.shape != rows.shape:
            raise self._error(f"scores of shape {scores.shape} in place of {rows.shape}")
        return scores.astype(np.float64)

    def _error(self, fault: str) -> FolderError:
        return FolderError(f"{self._model.path}: model {self._model.name} gave {fault}: export the model again")


def _repeats(rows: NDArray[np.int64]) -> bool:
    ordered = np.sort(rows)
    return bool((ordered[1:] == ordered[:-1]).any())


def best(scores: NDArray[np.float64], k: int | None) -> NDArray[np.intp]:
    """Places of the k largest scores, best first; equal ones in their order.

    >>> best(np.array([0.1, 0.9, 0.5, 0.9]), 3).tolist()
    [1, 3, 2]
    """
    # A partition pays where k is much smaller than the number of scores.
    if k is None or 4 * k > len(scores):
        return np.argsort(-scores, kind="stable")[:k]
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    above = above[np.argsort(-scores[above], kind="stable")]
    return np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]])
