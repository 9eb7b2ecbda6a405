"""Metrics on arrays: AUC, AUC within groups, log loss as FuxiCTR's without its loops, and calibration error.

Symbols: N rows, G groups. Ties count one half, as in the Mann-Whitney statistic:
AUC = (sum of the positives' average ranks - P (P + 1) / 2) / (P * (N - P)) with P positives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.config.known_values import METRICS, NDCG
from fuxictr_multimodal.errors import ConfigError, DataError, InputError, did_you_mean
from fuxictr_multimodal.metrics.ranking import mean_reciprocal_rank, ndcg


class UndefinedMetric(InputError):
    """A metric has no value on these rows, for example AUC where all labels are equal."""


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of `scores` (N,) for `labels` (N,) in {0, 1}.

    Raises:
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: if all labels are equal or a score is NaN.

    >>> auc([0, 1, 1], [0.2, 0.2, 0.9])
    0.75
    """
    y, s = _two_classes(*_checked(labels, scores))
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
    y, s = _two_classes(*_checked(labels, scores))
    g = np.asarray(groups).reshape(-1)
    _same_length(y, g, "groups")
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
    y, p = _some_rows(*_checked(labels, probabilities))
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
    y, p = _some_rows(*_checked(labels, probabilities))
    index = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(index, weights=y - p, minlength=bins)).sum() / len(y))


def evaluate(
    labels: ArrayLike, probabilities: ArrayLike, metrics: Sequence[str], groups: ArrayLike | None = None
) -> dict[str, float]:
    """Compute the named metrics, in the given order.

    Args:
        labels: (N,) in {0, 1}.
        probabilities: (N,) predictions.
        metrics: names out of `METRICS`, the `k` of NDCG at will.
        groups: (N,) group ids; needed by all but AUC, log loss and calibration error.

    Raises:
        ConfigError: if a name is unknown or a grouped metric has no groups.
        DataError: if a label is neither 0 nor 1.
        UndefinedMetric: see the single metrics.
    """
    _checked(labels, probabilities)
    values: dict[str, float] = {}
    for name in metrics:
        if name == "AUC":
            values[name] = auc(labels, probabilities)
        elif name in ("logloss", "binary_crossentropy"):
            values[name] = log_loss(labels, probabilities)
        elif name == "ECE":
            values[name] = expected_calibration_error(labels, probabilities)
        elif name not in METRICS and not NDCG.fullmatch(name):
            raise ConfigError(f"metrics: {name!r} is not known. {did_you_mean(name, METRICS)}")
        elif groups is None:
            raise ConfigError(f"metrics: {name} needs `group_id` to name a meta column of the dataset")
        elif found := NDCG.fullmatch(name):
            values[name] = ndcg(labels, probabilities, groups, k=int(found["k"]))
        elif name == "MRR":
            values[name] = mean_reciprocal_rank(labels, probabilities, groups)
        else:
            values[name] = grouped_auc(labels, probabilities, groups, weighted=name == "gAUC")
    return values


def undefined(metrics: Sequence[str], labels: ArrayLike, groups: ArrayLike | None = None) -> dict[str, str]:
    """Which of the named metrics no scores can have on these rows, and why; known before a model is trained.

    Args:
        metrics: names out of `METRICS`.
        labels: (N,) in {0, 1}.
        groups: (N,) group ids; needed by `gAUC` and `avgAUC`.

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


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as booleans and scores, one of each a row."""
    y = np.asarray(labels).reshape(-1)
    s = np.asarray(scores, dtype=np.float64).reshape(-1)
    _same_length(y, s, "scores")
    other = (y != 0) & (y != 1)
    if other.any():
        row = int(other.argmax())
        raise DataError(f"row {row} has label {y[row]}: labels are 0 or 1")
    if np.isnan(s).any():
        raise UndefinedMetric(f"row {int(np.isnan(s).argmax())} has the score NaN")
    return y.astype(bool), s


def _same_length(labels: NDArray, others: NDArray, name: str) -> None:
    if len(labels) != len(others):
        raise ValueError(f"{len(labels)} labels and {len(others)} {name}: the lengths must agree")


def _some_rows(y: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    if not len(y):
        raise UndefinedMetric("there are no samples to measure")
    return y, s


def _two_classes(y: NDArray[np.bool_], s: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    if y.all() or not y.any():
        label = int(y[0]) if len(y) else "none"
        raise UndefinedMetric(f"AUC is undefined: all {len(y)} samples have label {label}")
    return y, s


def _auc_by_group(
    y: NDArray[np.bool_], s: NDArray[np.float64], groups: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """AUC and row count of each group that holds both labels, in order of group id.

    Group, score and label of a row are packed into one integer, so that one sort of plain integers, which numpy does in
    vector instructions, orders all rows; all counts are integers, so that an AUC is rounded once.
    """
    score_codes, score_bits = _codes(s, most_bits=32)
    group_codes, _ = _codes(groups, most_bits=63 - score_bits)
    keys = group_codes << np.uint64(score_bits + 1)
    keys |= score_codes << np.uint64(1)
    keys |= y
    keys.sort()
    positives_before = np.concatenate([[0], np.cumsum(keys & np.uint64(1), dtype=np.int64)])
    run_start = _starts(keys >> np.uint64(1))  # runs of equal scores in one group
    group_start = _starts(keys >> np.uint64(score_bits + 1))
    run_positives, _ = _count(run_start, positives_before)
    # Twice the pairs of a positive and a negative before it; those of one run count half.
    run_negatives_before = np.append(run_start, len(keys)) - positives_before[np.append(run_start, len(keys))]
    twice_pairs = run_positives * (run_negatives_before[:-1] + run_negatives_before[1:])
    p, q = _count(group_start, positives_before)
    negatives_before = group_start - positives_before[group_start]  # of other groups, to be taken off
    twice = np.add.reduceat(twice_pairs, np.searchsorted(run_start, group_start)) - 2 * negatives_before * p
    both = (p > 0) & (q > 0)
    return twice[both] / (2 * p[both] * q[both]), (p + q)[both]


def _starts(values: NDArray) -> NDArray[np.int64]:
    """First positions of the runs of equal values."""
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def _count(starts: NDArray[np.int64], positives_before: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Positives and negatives of each run of rows, given where the runs start."""
    ends = np.append(starts, len(positives_before) - 1)
    positives = np.diff(positives_before[ends])
    return positives, np.diff(ends) - positives


def _codes(values: NDArray, *, most_bits: int) -> tuple[NDArray[np.uint64], int]:
    """Integers that compare as `values` do, and how many bits they take: at most `most_bits`.

    Integers of a narrow range and floats that float32 holds exactly, as scores of a model are, need no sort for it.
    """
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if (high - low).bit_length() <= most_bits and high < 2**63:
            return (values.astype(np.int64) - low).astype(np.uint64), (high - low).bit_length()
    if values.dtype.kind == "f" and most_bits >= 32:
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if np.array_equal(single, values):
            # Bits of a positive float compare as the float does, those of a negative one the other way round.
            bits = (single + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
            return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64), 32
    codes = np.unique(values, return_inverse=True)[1]
    return codes.astype(np.uint64), int(codes.max()).bit_length()
