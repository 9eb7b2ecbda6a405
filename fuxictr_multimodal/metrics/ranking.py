"""Ranking metrics within groups, such as NDCG@k and the hit rate: all groups at once, from one sort.

Symbols: N rows, G groups, P positives of a group. Rows of a group are ranked from 0 by falling score; of equal scores
the negatives come first. So a value does not depend on the order of the rows, and a model that scores all rows alike
gains nothing.

MRR and NDCG have FuxiCTR's values where no scores are equal: every group counts, one without positives as 0. The
others are means over the groups that hold both labels, as gAUC is, since no order of the rows changes the rest.

NOTE[DIFF] Of equal scores FuxiCTR takes the later row first, so that there its values depend on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.metrics.rows import Ordered, UndefinedMetric, checked, same_length, some_rows

EPSILON = 1e-12  # FuxiCTR's: a group without positives counts as 0


class Ranking:
    """Rows ranked within their groups; the metrics are its methods.

    Args:
        labels: (N,) in {0, 1}.
        scores: (N,), larger is better.
        groups: (N,) ids of any type.

    Raises:
        DataError: a label is neither 0 nor 1.
        UndefinedMetric: there is no row, or a score is NaN.

    >>> ranking = Ranking([1, 0, 0, 0, 1], [0.2, 0.9, 0.1, 0.3, 0.8], [7, 7, 7, 8, 8])
    >>> ranking.hit_rate(k=1), ranking.mean_average_precision()
    (0.5, 0.75)
    """

    def __init__(self, labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> None:
        y, s = checked(labels, scores)
        g = np.asarray(groups).reshape(-1)
        same_length(y, g, "groups")
        ordered = Ordered.of(*some_rows(y, s), g, best_first=True)
        self._starts_G = ordered.group_starts
        self._sizes_G = np.diff(np.append(self._starts_G, len(y)))
        self._y_N = ordered.labels.astype(np.float64)
        self._rank_N = np.arange(len(y)) - np.repeat(self._starts_G, self._sizes_G)
        self._positives_G = self._sums(self._y_N)
        self._both_G = (self._positives_G > 0) & (self._positives_G < self._sizes_G)

    def mean_reciprocal_rank(self) -> float:
        """Mean over groups of the mean of 1 / (rank + 1) of their positives."""
        return float(np.mean(self._sums(self._y_N / (self._rank_N + 1)) / (self._positives_G + EPSILON)))

    def ndcg(self, *, k: int) -> float:
        """Mean over groups of the discounted gain of their first `k` rows, as a fraction of the best possible one.

        gain = sum of y / log2(rank + 2) over ranks below k (Järvelin and Kekäläinen 2002).
        """
        discounts = 1 / np.log2(np.arange(min(k, int(self._sizes_G.max()))) + 2)
        gain_G = self._sums(self._first(k, self._y_N / np.log2(self._rank_N + 2)))
        # The best order has the positives first: the discounts of the ranks 0 to P - 1.
        best_G = np.append(0, np.cumsum(discounts))[np.minimum(self._positives_G, len(discounts)).astype(np.int64)]
        return float(np.mean(gain_G / (best_G + EPSILON)))

    def hit_rate(self, *, k: int) -> float:
        """Fraction of groups that have a positive among their first `k` rows."""
        return self._mean(self._hits_G(k) > 0, "HR")

    def precision(self, *, k: int) -> float:
        """Mean over groups of the positives among the first `k` rows, divided by k."""
        return self._mean(self._hits_G(k) / k, "Precision")

    def recall(self, *, k: int) -> float:
        """Mean over groups of the fraction of their positives that is among the first `k` rows."""
        return self._mean(self._hits_G(k) / np.maximum(self._positives_G, 1), "Recall")

    def mean_average_precision(self, *, k: int | None = None) -> float:
        """Mean over groups of the average precision: the mean over positives of the precision at their rank.

        With `k`, of the positives among the first `k` rows, divided by min(P, k).
        """
        up_to = len(self._y_N) if k is None else k
        terms_N = self._first(up_to, self._y_N * self._positives_so_far_N / (self._rank_N + 1))
        return self._mean(self._sums(terms_N) / np.clip(self._positives_G, 1, up_to), "MAP")

    @cached_property
    def _positives_so_far_N(self) -> NDArray[np.float64]:
        """Positives of the group up to and with each row."""
        sums_N = np.cumsum(self._y_N)
        return sums_N - np.repeat(sums_N[self._starts_G] - self._y_N[self._starts_G], self._sizes_G)

    def _hits_G(self, k: int) -> NDArray[np.float64]:
        return self._sums(self._first(k, self._y_N))

    def _first(self, k: int, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values of the first k rows of each group, 0 for the others."""
        return np.where(self._rank_N < k, values_N, 0.0)

    def _sums(self, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(values_N, self._starts_G)

    def _mean(self, values_G: NDArray, name: str) -> float:
        """Mean over the groups that hold both labels."""
        if not self._both_G.any():
            raise UndefinedMetric(f"{name} is undefined: no group has both a positive and a negative sample")
        return float(np.mean(values_G[self._both_G]))


# Names of the configuration; those with a k are written NDCG(k=5).
PLAIN: dict[str, Callable[[Ranking], float]] = {
    "MRR": Ranking.mean_reciprocal_rank,
    "MAP": Ranking.mean_average_precision,
}
AT_K: dict[str, Callable[..., float]] = {
    "NDCG": Ranking.ndcg,
    "HR": Ranking.hit_rate,
    "MAP": Ranking.mean_average_precision,
    "Precision": Ranking.precision,
    "Recall": Ranking.recall,
}
