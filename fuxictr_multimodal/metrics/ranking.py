"""Ranking metrics within groups: MRR and NDCG@k with FuxiCTR's values, without its process for each group.

Symbols: N rows, G groups. Rows of a group are ranked by falling score; of equal scores the later row comes first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-12  # FuxiCTR's: a group without positives counts as 0


def mean_reciprocal_rank(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float:
    """Mean over groups of the mean reciprocal rank of their positives.

    >>> round(mean_reciprocal_rank([0, 1, 1], [0.9, 0.8, 0.3], [7, 7, 8]), 6)
    0.75
    """
    y_N, rank_N, group_N = _ranked(labels, scores, groups)
    positives_G = np.bincount(group_N, weights=y_N)
    return float(np.mean(np.bincount(group_N, weights=y_N / (rank_N + 1)) / (positives_G + EPSILON)))


def ndcg(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, *, k: int) -> float:
    """Mean over groups of the discounted gain of their first `k` rows, as a fraction of the best possible one.

    >>> round(ndcg([0, 1, 1], [0.9, 0.8, 0.3], [7, 7, 8], k=1), 6)
    0.5
    """
    y_N, rank_N, group_N = _ranked(labels, scores, groups)
    discount_N = np.where(rank_N < k, 1 / np.log2(rank_N + 2), 0.0)
    gain_G = np.bincount(group_N, weights=y_N * discount_N)
    # The best order has the positives first: the discounts of the ranks 0 to P - 1.
    positives_N = np.bincount(group_N, weights=y_N)[group_N]
    best_G = np.bincount(group_N, weights=discount_N * (rank_N < positives_N))
    return float(np.mean(gain_G / (best_G + EPSILON)))


def _ranked(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Labels, ranks from 0 and group numbers of all rows, ordered by group and rank."""
    y, s, g = (np.asarray(values).reshape(-1) for values in (labels, scores, groups))
    if not len(y) == len(s) == len(g):
        raise ValueError(f"{len(y)} labels, {len(s)} scores and {len(g)} groups: the lengths must agree")
    _, numbers = np.unique(g, return_inverse=True)
    order = np.lexsort((-np.arange(len(s)), -s.astype(np.float64), numbers))
    group_N = numbers[order]
    start_G = np.concatenate([[0], np.cumsum(np.bincount(group_N))[:-1]])
    return y[order].astype(np.float64), np.arange(len(y)) - start_G[group_N], group_N
