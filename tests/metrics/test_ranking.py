"""Ranking metrics equal slow functions that read like their definitions, scikit-learn's, and FuxiCTR's."""

import math

import numpy as np
import pytest
from fuxictr import metrics as theirs
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics import classification as metrics

# Each is of one group: its labels from the best to the worst score.


def ndcg(ranked, k):
    gain = sum(1 / math.log2(place + 1) for place, label in enumerate(ranked[:k], start=1) if label)
    best = sum(1 / math.log2(place + 1) for place in range(1, min(k, sum(ranked)) + 1))
    return gain / best


def average_precision(ranked, k):
    found = [sum(ranked[:place]) / place for place, label in enumerate(ranked[:k], start=1) if label]
    return sum(found) / min(k, sum(ranked))


def reciprocal_rank(ranked):
    return sum(1 / place for place, label in enumerate(ranked, start=1) if label) / sum(ranked)


OF_A_GROUP = {
    "MRR": reciprocal_rank,
    "MAP": lambda ranked: average_precision(ranked, len(ranked)),
    "MAP(k=3)": lambda ranked: average_precision(ranked, 3),
    "NDCG(k=1)": lambda ranked: ndcg(ranked, 1),
    "NDCG(4)": lambda ranked: ndcg(ranked, 4),
    "NDCG(k = 50)": lambda ranked: ndcg(ranked, 50),
    "HR(k=2)": lambda ranked: float(any(ranked[:2])),
    "HR(1)": lambda ranked: float(ranked[0]),
    "Precision(k=3)": lambda ranked: sum(ranked[:3]) / 3,
    "Recall(k=3)": lambda ranked: sum(ranked[:3]) / sum(ranked),
}
NAMES = list(OF_A_GROUP)


def by_definition(labels, scores, groups):
    """All metrics, group by group; of equal scores the negatives come first."""
    values = {name: [] for name in NAMES}
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranked = [int(labels[row]) for row in sorted(rows, key=lambda row: (-scores[row], labels[row]))]
        for name, function in OF_A_GROUP.items():
            if 0 < sum(ranked) < len(ranked):
                values[name].append(function(ranked))
            elif name == "MRR" or name.startswith("NDCG"):  # FuxiCTR's count every group
                values[name].append(function(ranked) if sum(ranked) else 0)
    return {name: np.mean(found) for name, found in values.items()}


def rows_of(seed, *, rows=400, groups=60, distinct=400):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, rows), rng.permutation(rows) % distinct / distinct, rng.integers(0, groups, rows)


@pytest.mark.parametrize("distinct", [400, 5], ids=["no ties", "most are tied"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_their_definitions(seed, distinct):
    labels, scores, groups = rows_of(seed, distinct=distinct)
    assert metrics.evaluate(labels, scores, NAMES, groups) == pytest.approx(by_definition(labels, scores, groups))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_fuxictr(seed):
    labels, scores, groups = rows_of(seed)
    labels[groups == groups[0]] = 0  # a group without positives counts as 0
    labels[groups == groups[-1]] = 1
    parts = [(labels[groups == g], scores[groups == g]) for g in np.unique(groups)]
    names = {
        "MRR": theirs.MRR,
        "NDCG(k=1)": theirs.NDCG(k=1),
        "NDCG(5)": theirs.NDCG(5),
        "NDCG(k = 50)": theirs.NDCG(50),
    }
    values = metrics.evaluate(labels, scores, list(names), groups)
    for name, function in names.items():
        assert values[name] == pytest.approx(np.mean([function(*part) for part in parts]), abs=1e-12)


def test_equal_to_scikit_learn():
    labels, scores, groups = rows_of(7, groups=12)
    parts = [(labels[groups == g], scores[groups == g]) for g in range(12)]
    values = metrics.evaluate(labels, scores, ["MAP", "NDCG(k=5)"], groups)
    assert values["MAP"] == pytest.approx(np.mean([average_precision_score(*part) for part in parts]), abs=1e-12)
    expected = np.mean([ndcg_score([truth], [score], k=5) for truth, score in parts])
    assert values["NDCG(k=5)"] == pytest.approx(expected, abs=1e-12)


def test_of_equal_scores_the_negatives_come_first():
    labels, scores = np.array([1, 0, 0]), np.array([0.5, 0.5, 0.5])
    assert metrics.evaluate(labels, scores, ["MRR"], [3, 3, 3])["MRR"] == pytest.approx(theirs.MRR(labels, scores))
    assert theirs.MRR(labels, scores) == pytest.approx(1 / 3)
    # FuxiCTR's value depends on the order of the rows.
    assert theirs.MRR(labels[::-1], scores) == pytest.approx(1)
    assert metrics.evaluate(labels[::-1], scores, ["MRR"], [3, 3, 3])["MRR"] == pytest.approx(1 / 3)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=30),
    st.randoms(use_true_random=False),
)
def test_ties_have_the_least_value_and_rows_may_come_in_any_order(rows, random):
    labels, scores, groups = (np.array(column) for column in zip(*rows, strict=True))
    if not any(0 < labels[groups == g].mean() < 1 for g in np.unique(groups)):
        undefined = metrics.undefined(NAMES, labels, groups)
        assert set(undefined) == {name for name in NAMES if name != "MRR" and not name.startswith("NDCG")}
        return
    values = metrics.evaluate(labels, scores / 8, NAMES, groups)
    order = random.sample(range(len(rows)), len(rows))
    turned = metrics.evaluate(labels[order], scores[order] / 8, NAMES, 10 - groups[order])
    assert turned == pytest.approx(values, abs=1e-12)
    untied = metrics.evaluate(labels, scores / 8 + np.array(order) * 1e-6, NAMES, groups)
    assert all(untied[name] >= values[name] - 1e-9 for name in NAMES)


def test_what_they_mean_on_a_page_of_four():
    labels, scores = [0, 1, 0, 1], [0.9, 0.8, 0.3, 0.2]
    names = ["HR(k=1)", "HR(k=2)", "Precision(k=2)", "Recall(k=2)", "MAP", "MAP(k=2)", "MRR"]
    values = metrics.evaluate(labels, scores, names, ["a"] * 4)
    assert list(values) == names
    assert list(values.values()) == pytest.approx([0, 1, 0.5, 0.5, 0.5, 0.25, 0.375])


def test_they_need_groups_with_both_labels_and_a_known_k():
    for name in NAMES:
        with pytest.raises(ConfigError, match=r"needs `group_id`"):
            metrics.evaluate([0, 1], [0.1, 0.2], [name])
    with pytest.raises(ValueError, match="lengths must agree"):
        metrics.evaluate([0, 1], [0.1, 0.2], ["MRR"], [1])
    with pytest.raises(metrics.UndefinedMetric, match="HR is undefined: no group has both"):
        metrics.evaluate([0, 1], [0.1, 0.2], ["HR(k=5)"], [1, 2])
    with pytest.raises(metrics.UndefinedMetric, match="no samples"):
        metrics.evaluate([], [], ["NDCG(k=5)"], [])
    with pytest.raises(DataError, match="row 1 has label 2"):
        metrics.evaluate([0, 2], [0.1, 0.2], ["MAP"], [1, 1])
    for wrong, near in (("HR", "HR\\(k=5\\)"), ("NDCG(k=0)", "NDCG\\(k=5\\)"), ("hr(k=5)", "HR\\(k=5\\)")):
        with pytest.raises(ConfigError, match=near):
            metrics.evaluate([0, 1], [0.1, 0.2], [wrong], [1, 1])
