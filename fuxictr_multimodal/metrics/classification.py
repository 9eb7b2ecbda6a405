"""Metrics by name, and those of classification: AUC, AUC within groups, log loss and calibration error.

Symbols: N rows, G groups. Ties count one half, as in the Mann-Whitney statistic:
AUC = (sum of the positives' average ranks - P (P + 1) / 2) / (P * (N - P)) with P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.config.known_values import METRIC_AT_K, METRICS
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.metrics import ranking
from fuxictr_multimodal.metrics.rows import Ordered, UndefinedMetric, checked, same_length, some_rows

__all__ = [
    "UndefinedMetric",
    "auc",
    "evaluate",
    "expected_calibration_error",
    "grouped_auc",
    "log_loss",
    "undefined",
]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of `scores` (N,) for `labels` (N,) in {0, 1}.

    Raises:
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: if all labels are equal or a score is NaN.

    >>> auc([0, 1, 1], [0.2, 0.2, 0.9])
    0.75
    """
    y, s = _two_classes(*checked(labels, scores))
    return float(_auc_by_group(y, s, np.zeros(len(y), dtype=np.int64))[0][0])


def grouped_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, weighted: bool = True) -> float:
    """Mean AUC over groups that hold both labels, weighted by their rows (Zhou et al. 2018, DIN, eq. 6).

    With `weighted=False` every group counts once (FuxiCTR's `avgAUC`). One sort serves all groups, so the cost is
    O(N log N) however many groups there are.

    Raises:
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: if no group holds both labels or a score is NaN.

    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.9, 0.8, 0.3, 0.5], [7, 7, 8, 8, 8])
    0.4
    """
    y, s = _two_classes(*checked(labels, scores))
    g = np.asarray(groups).reshape(-1)
    same_length(y, g, "groups")
    values, counts = _auc_by_group(y, s, g)
    if not len(values):
        raise UndefinedMetric("gAUC is undefined: no group has both a positive and a negative sample")
    return float(np.average(values, weights=counts if weighted else None))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, probabilities clipped away from 0 and 1 by one float64 epsilon.

    Raises:
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: if there is no row or a probability is NaN.

    >>> round(log_loss([1, 0], [0.5, 0.5]), 6)
    0.693147
    """
    y, p = some_rows(*checked(labels, probabilities))
    eps = np.finfo(np.float64).eps
    p = np.clip(p, eps, 1 - eps)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15) -> float:
    """How far predicted probabilities are from observed rates (Guo et al. 2017, eq. 5).

    The rows fall into `bins` intervals of equal width, closed on the right; the mean over rows of
    |rate of positives - mean probability| of their interval.

    Raises:
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: if there is no row or a probability is NaN.

    >>> round(expected_calibration_error([0, 1, 1, 1], [0.5, 0.5, 0.9, 0.9]), 6)
    0.05
    """
    y, p = some_rows(*checked(labels, probabilities))
    index = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(index, weights=y - p, minlength=bins)).sum() / len(y))


def evaluate(
    labels: ArrayLike, probabilities: ArrayLike, metrics: Sequence[str], groups: ArrayLike | None = None
) -> dict[str, float]:
    """Compute the named metrics, in the given order.

    Args:
        labels: (N,) in {0, 1}.
        probabilities: (N,) predictions.
        metrics: names out of `METRICS`, each `k` at will.
        groups: (N,) group ids; needed by all but AUC, log loss and calibration error.

    Raises:
        ConfigError: if a name is unknown or a grouped metric has no groups.
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: see the single metrics.
    """
    checked(labels, probabilities)
    values: dict[str, float] = {}
    ranked: ranking.Ranking | None = None
    for name in metrics:
        at_k = METRIC_AT_K.fullmatch(name)
        if name == "AUC":
            values[name] = auc(labels, probabilities)
        elif name in ("logloss", "binary_crossentropy"):
            values[name] = log_loss(labels, probabilities)
        elif name == "ECE":
            values[name] = expected_calibration_error(labels, probabilities)
        elif name not in METRICS and not at_k:
            raise ConfigError(f"metrics: {name!r} is not known. {did_you_mean(name, METRICS)}")
        elif groups is None:
            raise ConfigError(f"metrics: {name} needs `group_id` to name a meta column of the dataset")
        elif at_k or name in ranking.PLAIN:
            # One sort serves all of them.
            ranked = ranked or ranking.Ranking(labels, probabilities, groups)
            values[name] = ranking.AT_K[at_k["name"]](ranked, k=int(at_k["k"])) if at_k else ranking.PLAIN[name](ranked)
        else:
            values[name] = grouped_auc(labels, probabilities, groups, weighted=name == "gAUC")
    return values


def undefined(metrics: Sequence[str], labels: ArrayLike, groups: ArrayLike | None = None) -> dict[str, str]:
    """Which of the named metrics no scores can have on these rows, and why; known before a model is trained.

    Args:
        metrics: names out of `METRICS`.
        labels: (N,) in {0, 1}.
        groups: (N,) group ids; needed by all but AUC, log loss and calibration error.

    Raises:
        ConfigError: if a name is unknown or a grouped metric has no groups.
        DataError: if a label is neither 0 nor 1.

    >>> undefined(["AUC", "gAUC", "logloss"], [0, 1, 1], groups=[7, 8, 8])
    {'gAUC': 'gAUC is undefined: no group has both a positive and a negative sample'}
    """
    # Whether a metric has a value depends on labels and groups alone.
    constant = np.zeros(np.asarray(labels).size)
    reasons = {}
    for name in metrics:
        try:
            evaluate(labels, constant, [name], groups)
        except UndefinedMetric as error:
            reasons[name] = str(error)
    return reasons


def _two_classes(y: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    if y.all() or not y.any():
        label = int(y[0]) if len(y) else "none"
        raise UndefinedMetric(f"AUC is undefined: all {len(y)} samples have label {label}")
    return y, s


def _auc_by_group(
    y: NDArray[np.bool_], s: NDArray[np.float64], groups: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """AUC and row count of each group that holds both labels, in order of group id.

    All counts are integers, so that an AUC is rounded once.
    """
    ordered = Ordered.of(y, s, groups)
    run_start, group_start, rows = ordered.score_starts, ordered.group_starts, len(ordered.labels)
    positives_before = np.concatenate([[0], np.cumsum(ordered.labels, dtype=np.int64)])
    run_positives, _ = _count(run_start, positives_before)
    # Twice the pairs of a positive and a negative before it; those of one run count half.
    run_negatives_before = np.append(run_start, rows) - positives_before[np.append(run_start, rows)]
    twice_pairs = run_positives * (run_negatives_before[:-1] + run_negatives_before[1:])
    p, q = _count(group_start, positives_before)
    negatives_before = group_start - positives_before[group_start]  # of other groups, to be taken off
    twice = np.add.reduceat(twice_pairs, np.searchsorted(run_start, group_start)) - 2 * negatives_before * p
    both = (p > 0) & (q > 0)
    return twice[both] / (2 * p[both] * q[both]), (p + q)[both]


def _count(starts: NDArray[np.int64], positives_before: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Positives and negatives of each run of rows, given where the runs start."""
    ends = np.append(starts, len(positives_before) - 1)
    positives = np.diff(positives_before[ends])
    return positives, np.diff(ends) - positives
