"""The known rule of synthetic data: who clicks with which probability, and how well anybody could predict it.

Shape legend: B rows, N history items of all rows together, C latent content width.
"""

from __future__ import annotations

import numpy as np

from fuxictr_multimodal.data.jagged import row_numbers
from fuxictr_multimodal.data.synthetic.world import CLUSTER_SPREAD, CONTENT_WIDTH, LEVELS, World

MATCH_THRESHOLD = 0.6
# A history item of the target's own cluster counts about one.
MATCH_UNIT = 1.0 / (1.0 + CLUSTER_SPREAD**2) - MATCH_THRESHOLD
LEVEL_CODES = 8
BIAS = -2.9
MATCH_WEIGHT = 3.5
GATE_WEIGHT = 1.0
CROSS_WEIGHT = 2.0


def match_strength(world: World, target: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How well a history shares the target's interest, (B,) in [0, 1).

    With s = content . content, m = 1 - exp(-sum over the history of ReLU(s - threshold) / unit): only the few items
    of the target's own interest count, and a second one counts less than the first.
    """
    rows = row_numbers(np.diff(offsets))
    similarity = np.einsum("nc,nc->n", world.content[values], world.content[target[rows]])
    strength = np.maximum(similarity.astype(np.float64) - MATCH_THRESHOLD, 0.0) / MATCH_UNIT
    return 1.0 - np.exp(-np.bincount(rows, weights=strength, minlength=len(target)))


def level_codes(level: np.ndarray) -> np.ndarray:
    """Cosine codes of levels, (B, LEVEL_CODES): mean 0 and variance 1 over levels 1 to 10; 0 (none) gives zeros."""
    wave = np.arange(1, LEVEL_CODES + 1) * np.pi / LEVELS
    table = np.sqrt(2.0) * np.cos(wave * (np.arange(LEVELS + 1)[:, None] - 0.5))
    table[0] = 0.0
    return table[level]


def click_probability(
    world: World, target: np.ndarray, likes: np.ndarray, views: np.ndarray, values: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """The known rule: probability of a click, (B,) float64 rounded to six digits.

    logit = bias + w_m m + w_g (2 m - 1) a_1(likes) + w_x sum_k [a_k(likes) c_k + a_k(views) c_{k+8}] / sqrt(16)

    with m of `match_strength`, a of `level_codes` and c the target's content in units of its standard deviation.
    """
    match = match_strength(world, target, values, offsets)
    likes_code, views_code = level_codes(likes), level_codes(views)
    content = world.content[target, : 2 * LEVEL_CODES].astype(np.float64) * CONTENT_WIDTH**0.5
    cross = np.einsum("bk,bk->b", np.concatenate([likes_code, views_code], axis=1), content) / (2 * LEVEL_CODES) ** 0.5
    logit = BIAS + MATCH_WEIGHT * match + GATE_WEIGHT * (2 * match - 1) * likes_code[:, 0] + CROSS_WEIGHT * cross
    # Rounding hides the last bits of exp, which differ between machines; 0 and 1 would make the log loss infinite.
    return np.clip(np.round(1.0 / (1.0 + np.exp(-logit)), 6), 1e-6, 1 - 1e-6)


def expected_auc(probability: np.ndarray) -> float:
    """AUC that the true probabilities (N,) reach on average over the labels drawn from them.

    Row i is a positive with weight p_i and a negative with weight 1 - p_i; pairs of different rows, ties count half.

    >>> round(expected_auc(np.array([0.0, 0.0, 1.0, 1.0])), 6), round(expected_auc(np.array([0.3, 0.3, 0.3])), 6)
    (1.0, 0.5)
    """
    _, group = np.unique(probability, return_inverse=True)
    positive = np.bincount(group, weights=probability)
    negative = np.bincount(group, weights=1.0 - probability)
    below = np.cumsum(negative) - negative
    with_itself = float((probability * (1.0 - probability)).sum())
    wins = float((positive * (below + negative / 2)).sum()) - with_itself / 2
    return wins / (float(positive.sum()) * float(negative.sum()) - with_itself)


def expected_logloss(probability: np.ndarray) -> float:
    """Mean log loss that the true probabilities (N,), none of them 0 or 1, reach on average: their entropy."""
    return float(-(probability * np.log(probability) + (1.0 - probability) * np.log1p(-probability)).mean())
