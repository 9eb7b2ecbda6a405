"""Ranking metrics on arrays: AUC, AUC within groups, log loss; the toolkit's values without its loops.

Symbols: N rows, G groups. Ties count one half, as in the Mann-Whitney statistic:
AUC = (sum of the positives' average ranks - P (P + 1) / 2) / (P * (N - P)) with P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.errors import ConfigError, did_you_mean

GROUPED = ("gAUC", "avgAUC")
METRICS = ("AUC", "logloss", "binary_crossentropy", *GROUPED)


class UndefinedMetric(ValueError):
    """A metric has no value on these rows, for example AUC where all labels are equal."""


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of `scores` (N,) for `labels` (N,) in {0, 1}.

    Raises:
        UndefinedMetric: if all labels are equal or a score is NaN.

    >>> auc([0, 1, 1], [0.2, 0.2, 0.9])
    0.75
    """
    y, s = _checked(labels, scores)
    return float(_auc_by_group(y, s, np.zeros(len(y), dtype=np.int64))[0][0])


def grouped_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, weighted: bool = True) -> float:
    """Mean AUC over groups that hold both labels, weighted by their rows (Zhou et al. 2018, DIN, eq. 6).

    With `weighted=False` every group counts once (the toolkit's `avgAUC`). One sort serves all groups, so the cost is
    O(N log N) however many groups there are.

    Raises:
        UndefinedMetric: if no group holds both labels or a score is NaN.

    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.9, 0.8, 0.3, 0.5], [7, 7, 8, 8, 8])
    0.4
    """
    y, s = _checked(labels, scores)
    values, counts = _auc_by_group(y, s, np.asarray(groups).reshape(-1))
    if not len(values):
        raise UndefinedMetric("gAUC is undefined: no group holds both a positive and a negative row")
    return float(np.average(values, weights=counts if weighted else None))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, probabilities clipped away from 0 and 1 by one float64 epsilon.

    >>> round(log_loss([1, 0], [0.5, 0.5]), 6)
    0.693147
    """
    y = np.asarray(labels, dtype=np.float64).reshape(-1)
    eps = np.finfo(np.float64).eps
    p = np.clip(np.asarray(probabilities, dtype=np.float64).reshape(-1), eps, 1 - eps)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def evaluate(
    labels: ArrayLike, probabilities: ArrayLike, metrics: Sequence[str], groups: ArrayLike | None = None
) -> dict[str, float]:
    """Compute the named metrics, in the given order.

    Args:
        labels: (N,) in {0, 1}.
        probabilities: (N,) predictions.
        metrics: names out of `METRICS`.
        groups: (N,) group ids; needed by `gAUC` and `avgAUC`.

    Raises:
        ConfigError: if a name is unknown or a grouped metric has no groups.
        UndefinedMetric: see the single metrics.
    """
    values: dict[str, float] = {}
    for name in metrics:
        if name == "AUC":
            values[name] = auc(labels, probabilities)
        elif name in ("logloss", "binary_crossentropy"):
            values[name] = log_loss(labels, probabilities)
        elif name in GROUPED:
            if groups is None:
                raise ConfigError(f"metrics: {name} needs `group_id` to name a meta column of the dataset")
            values[name] = grouped_auc(labels, probabilities, groups, weighted=name == "gAUC")
        else:
            raise ConfigError(f"metrics: {name!r} is not known. {did_you_mean(name, METRICS)}")
    return values


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    y = np.asarray(labels).reshape(-1) > 0.5
    s = np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(y) != len(s):
        raise ValueError(f"{len(y)} labels and {len(s)} scores: the lengths must agree")
    if np.isnan(s).any():
        raise UndefinedMetric(f"row {int(np.isnan(s).argmax())} was scored NaN")
    if y.all() or not y.any():
        label = int(y[0]) if len(y) else "none"
        raise UndefinedMetric(f"AUC is undefined: all {len(y)} rows have label {label}")
    return y, s


def _auc_by_group(
    y: NDArray[np.bool_], s: NDArray[np.float64], groups: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """AUC and row count of each group that holds both labels, in order of group id."""
    order = np.lexsort((s, groups))
    y, s, g = y[order], s[order], groups[order]
    n = len(s)
    new_group = np.r_[True, g[1:] != g[:-1]]
    new_score = new_group | np.r_[True, s[1:] != s[:-1]]
    # Average rank over the whole array of each run of equal scores, then made relative to its group's start.
    run = np.cumsum(new_score) - 1
    run_start = np.flatnonzero(new_score)
    run_end = np.r_[run_start[1:], n]
    rank = ((run_start + run_end + 1) / 2)[run]
    group_start = np.flatnonzero(new_group)
    group_rows = np.diff(np.r_[group_start, n])
    positives = np.add.reduceat(y.astype(np.int64), group_start)
    rank_sum = np.add.reduceat(np.where(y, rank, 0.0), group_start) - positives * group_start
    negatives = group_rows - positives
    both = (positives > 0) & (negatives > 0)
    p, q = positives[both], negatives[both]
    return (rank_sum[both] - p * (p + 1) / 2) / (p * q), group_rows[both]
