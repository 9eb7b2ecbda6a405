"""Means over seeds, intervals over seeds, and the paired bootstrap of AUC over samples.

Symbols: N samples, M runs, B replicates, G groups of samples (users) that are drawn together.

A bootstrap replicate draws N samples with replacement, so sample i occurs w_i times (multinomial). Its AUC is

    AUC(w) = sum over positives i of w_i (2 below_i + tied_i) / (2 * sum of w over positives * sum of w over negatives)

where below and tied are the weights of the negatives scored lower than i and equal to i. The order of the samples does
not depend on w: each run is sorted once, O(M N log N), and a replicate is a cumulative sum and two look-ups, O(N). All
of it is integer arithmetic, so the result is the same on every machine. Measured on one core: 0.6 ms a replicate and
run of 100,000 samples, 25 s for 1,000 replicates of 45 such runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from fuxictr_multimodal.metrics.classification import UndefinedMetric

LEVEL = 0.95
# Of a metric: the square of a larger one is no number.
LARGEST = 1e150


@dataclass(frozen=True)
class Spread:
    """A quantity over the seeds of one experiment, values in the order of its seeds.

    Raises:
        ValueError: a value is too large for a standard deviation.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(abs(value) > LARGEST for value in self.values):
            raise ValueError("a number is too large")

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds with n - 1; None for one seed.

        >>> Spread((1.0, 2.0, 3.0)).std
        1.0
        """
        if len(self.values) < 2:
            return None
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside.

        >>> Interval(0.1, 0.2).excludes_zero, Interval(-0.1, 0.2).excludes_zero
        (True, False)
        """
        return self.low > 0 or self.high < 0


def paired_t_interval(differences: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """Student's t interval of the mean of paired differences, one per seed; None for fewer than two.

    >>> interval = paired_t_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 3), round(interval.high, 3)
    (-0.484, 4.484)
    """
    spread = Spread(tuple(differences))
    if spread.std is None:
        return None
    n = len(differences)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * spread.std / math.sqrt(n)
    return Interval(spread.mean - half, spread.mean + half)


def percentile_interval(samples: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Percentile interval of bootstrap replicates (B,); replicates without a value (NaN) are left out."""
    low, high = np.nanquantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap_aucs(
    labels: ArrayLike,
    scores: Sequence[ArrayLike],
    *,
    replicates: int,
    seed: int,
    groups: ArrayLike | None = None,
    on_replicate: Callable[[], object] | None = None,
) -> NDArray[np.float64]:
    """AUC of every run on the same resampled samples, so that differences between runs are paired.

    Args:
        labels: (N,) in {0, 1}.
        scores: M runs, each (N,).
        replicates: B.
        seed: of the resampling; the same samples are drawn whatever the runs are.
        groups: (N,) group ids; when given, whole groups are drawn instead of single samples.
        on_replicate: called after each replicate, for a progress bar.

    Returns:
        (M, B) AUCs; NaN where a replicate drew one class only.

    Raises:
        UndefinedMetric: if all labels are equal.

    >>> bootstrap_aucs([0, 1, 0, 1], [[0.1, 0.9, 0.2, 0.8]], replicates=3, seed=1).tolist()
    [[1.0, 1.0, 1.0]]
    """
    y = np.asarray(labels).reshape(-1) > 0.5
    if y.all() or not y.any():
        raise UndefinedMetric(f"AUC is undefined: all {len(y)} samples have one label")
    runs = [_Ranking.of(y, np.asarray(run).reshape(-1)) for run in scores]
    code = None if groups is None else np.unique(np.asarray(groups).reshape(-1), return_inverse=True)[1]
    units = len(y) if code is None else int(code.max()) + 1
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    aucs = np.empty((len(runs), replicates))
    for replicate in range(replicates):
        drawn = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.int32)
        weights = drawn if code is None else drawn[code]
        positives = int(weights[y].sum(dtype=np.int64))
        pairs = positives * (int(weights.sum(dtype=np.int64)) - positives)
        for index, run in enumerate(runs):
            aucs[index, replicate] = run.twice_wins(weights) / (2 * pairs) if pairs else np.nan
        if on_replicate is not None:
            on_replicate()
    return aucs


@dataclass(frozen=True)
class _Ranking:
    """One run, sorted once: samples by score, and for each positive how many negatives lie below and up to it."""

    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    below: NDArray[np.intp]
    up_to: NDArray[np.intp]

    @classmethod
    def of(cls, y: NDArray[np.bool_], scores: NDArray) -> _Ranking:
        assert len(y) == len(scores), f"{len(y)} labels and {len(scores)} scores"
        assert not np.isnan(scores).any(), "a score is NaN"
        order = np.argsort(scores, kind="stable")
        positives, negatives = order[y[order]], order[~y[order]]
        below = np.searchsorted(scores[negatives], scores[positives], side="left")
        up_to = np.searchsorted(scores[negatives], scores[positives], side="right")
        return cls(positives, negatives, below, up_to)

    def twice_wins(self, weights: NDArray[np.int32]) -> int:
        """Twice the weighted number of (positive, negative) pairs in the right order; ties count once."""
        cumulative = np.zeros(len(self.negatives) + 1, dtype=np.int64)
        np.cumsum(weights[self.negatives], out=cumulative[1:])
        wins = cumulative[self.below]
        wins += cumulative[self.up_to]
        return int(weights[self.positives].astype(np.int64) @ wins)
