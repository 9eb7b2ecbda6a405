"""Metrics equal scikit-learn's and FuxiCTR's values, ties included."""

import numpy as np
import pytest
from fuxictr.metrics import gAUC as fuxictr_group_auc
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.metrics import classification as metrics


def fuxictr_gauc(labels, scores, groups):
    """FuxiCTR's per-group function and its weighting, without its process pool."""
    parts = np.array([fuxictr_group_auc(labels[groups == g], scores[groups == g]) for g in np.unique(groups)])
    return parts[:, 0].sum() / parts[:, 1].sum()


def tied_rows(rng, rows=400, groups=40):
    labels = rng.integers(0, 2, rows)
    scores = rng.integers(1, 7, rows) / 8  # six values only: most scores are tied
    return labels, scores, rng.integers(0, groups, rows)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn_and_fuxictr_with_ties(seed):
    labels, scores, groups = tied_rows(np.random.default_rng(seed))
    values = metrics.evaluate(labels, scores, ["gAUC", "AUC", "logloss"], groups)
    assert list(values) == ["gAUC", "AUC", "logloss"]
    assert values["AUC"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert values["logloss"] == pytest.approx(sk.log_loss(labels, scores), rel=1e-12)
    assert values["gAUC"] == pytest.approx(fuxictr_gauc(labels, scores, groups), abs=1e-12)


def test_log_loss_equals_scikit_learn_also_at_the_edges():
    labels, probabilities = np.array([1, 0, 1, 0]), np.array([1.0, 0.0, 0.3, 0.2])
    assert metrics.log_loss(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities), rel=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(rows):
    labels, scores, groups = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [(s > t) + 0.5 * (s == t) for s in scores[labels] for t in scores[~labels]]
    if not pairs:
        with pytest.raises(metrics.UndefinedMetric, match=r"all \d+ samples have label"):
            metrics.auc(labels, scores)
        return
    assert metrics.auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    # The mean over groups does not depend on the order of rows or the names of groups.
    if any(0 < labels[groups == g].mean() < 1 for g in np.unique(groups)):
        turned = metrics.grouped_auc(labels[::-1], scores[::-1], 10 - groups[::-1])
        assert metrics.grouped_auc(labels, scores, groups) == pytest.approx(turned, abs=1e-12)


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param([0.1, 0.7, 0.7, 0.1, 0.3, 0.1, 0.1 + 1e-12, 0.9], id="float32 cannot tell them apart"),
        pytest.param([-1.5, 0.0, -0.0, 2.0, -1.5, -0.25, 0.5, -3.0], id="logits of either sign, and both zeros"),
        pytest.param([-np.inf, 1e300, 0.5, np.inf, -1e300, 1e300, 0.0, np.inf], id="beyond float32"),
        pytest.param([3, 1, 2, 2, 3, 3, 0, 1], id="integers"),
    ],
)
@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([0, 0, 0, 0, 1, 1, 1, 1], id="two groups"),
        pytest.param([-(2**63), -(2**63), 2**62, 2**62, 2**62, 2**62, -(2**63), -(2**63)], id="ids far apart"),
        pytest.param(np.array([2**64 - 1] * 5 + [2**64 - 2] * 3, np.uint64), id="largest ids"),
        pytest.param(np.array([-128] * 3 + [127] * 5, np.int8), id="ids whose difference does not fit their type"),
        pytest.param(["b", "b", "a", "a", "a", "a", "b", "b"], id="names"),
    ],
)
def test_any_scores_and_group_ids(scores, groups):
    labels, scores, groups = np.array([0, 1, 1, 0, 1, 0, 0, 1]), np.array(scores), np.array(groups)
    finite = np.unique(scores, return_inverse=True)[1]  # scikit-learn refuses infinite scores; only their order counts
    assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, finite), abs=1e-12)
    assert metrics.grouped_auc(labels, scores, groups) == pytest.approx(fuxictr_gauc(labels, finite, groups), abs=1e-12)


def test_average_auc_counts_every_group_once():
    labels, scores = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.3, 0.5])
    groups = np.array([7, 7, 8, 8, 8])
    assert metrics.evaluate(labels, scores, ["avgAUC"], groups) == {"avgAUC": 0.5}


def test_undefined_and_unknown():
    with pytest.raises(metrics.UndefinedMetric, match="row 1 has the score NaN"):
        metrics.auc([0, 1], [0.1, float("nan")])
    with pytest.raises(metrics.UndefinedMetric, match="no group has both"):
        metrics.grouped_auc([0, 1], [0.1, 0.2], [1, 2])
    with pytest.raises(ConfigError, match="Did you mean 'gAUC'"):
        metrics.evaluate([0, 1], [0.1, 0.2], ["gAUc"])
    with pytest.raises(ConfigError, match="needs `group_id`"):
        metrics.evaluate([0, 1], [0.1, 0.2], ["gAUC"])
    with pytest.raises(ValueError, match="lengths must agree"):
        metrics.auc([0, 1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="2 labels and 1 groups"):
        metrics.grouped_auc([0, 1], [0.1, 0.2], [1])


NAN = float("nan")
GROUPLESS = {"AUC": metrics.auc, "logloss": metrics.log_loss, "ECE": metrics.expected_calibration_error}
EVERY = GROUPLESS | {"gAUC": lambda labels, scores: metrics.grouped_auc(labels, scores, np.zeros(len(labels)))}


@pytest.mark.parametrize("metric", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize(
    ("labels", "scores", "error", "message"),
    [
        ([0, 1, NAN], [0.1, 0.2, 0.3], DataError, "row 2 has label nan: labels are 0 or 1"),
        ([0, 1, 2], [0.1, 0.2, 0.3], DataError, "row 2 has label 2: labels are 0 or 1"),
        ([0, 0.4, 1], [0.1, 0.2, 0.3], DataError, r"row 1 has label 0\.4: labels are 0 or 1"),
        ([-1, 1], [0.1, 0.2], DataError, "row 0 has label -1: labels are 0 or 1"),
        ([0, None], [0.1, 0.2], DataError, "row 1 has label None: labels are 0 or 1"),
        ([0, 1], [0.1, NAN], metrics.UndefinedMetric, "row 1 has the score NaN"),
        ([0, 1], [0.1], ValueError, "2 labels and 1 scores: the lengths must agree"),
        ([0], [0.1, 0.2], ValueError, "1 labels and 2 scores: the lengths must agree"),
        ([], [], metrics.UndefinedMetric, "all 0 samples|no samples"),
    ],
)
def test_rows_that_cannot_be_measured(metric, labels, scores, error, message):
    with pytest.raises(error, match=message):
        metric(labels, scores)


def test_what_no_scores_can_reach_is_known_without_scores():
    names = ["AUC", "gAUC", "avgAUC", "logloss", "ECE"]
    assert metrics.undefined(names, [0, 1, 0, 1], groups=[1, 1, 2, 2]) == {}
    one_class_users = metrics.undefined(names, np.array([0, 1, 1]), groups=["a", "b", "b"])
    assert list(one_class_users) == ["gAUC", "avgAUC"]
    assert "no group has both a positive and a negative sample" in one_class_users["gAUC"]
    one_class = metrics.undefined(names, np.ones(3), groups=np.arange(3))
    assert list(one_class) == ["AUC", "gAUC", "avgAUC"]
    assert "all 3 samples have label 1" in one_class["AUC"]
    # A single group for all rows is as good as none.
    assert metrics.undefined(["gAUC"], [0, 1], groups=[5, 5]) == {}
    with pytest.raises(ConfigError, match="needs `group_id`"):
        metrics.undefined(["gAUC"], [0, 1])
    with pytest.raises(ConfigError, match="Did you mean 'AUC'"):
        metrics.undefined(["AUCC"], [0, 1])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 45)), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_gap_of_the_intervals(rows):
    labels = np.array([label for label, _ in rows], dtype=float)
    probabilities = np.array([step for _, step in rows]) / 45  # every third is an end of one of the 15 intervals
    gap = 0.0
    for low in range(15):
        inside = [3 * low < step <= 3 * low + 3 or (low == step == 0) for _, step in rows]
        if any(inside):
            gap += sum(inside) / len(rows) * abs(labels[inside].mean() - probabilities[inside].mean())
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(gap, abs=1e-12)


def test_calibration_error_of_true_probabilities_is_small_and_of_shifted_ones_the_shift():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.7, 200_000)
    labels = rng.random(len(p)) < p
    assert metrics.expected_calibration_error(labels, p) < 0.005
    assert metrics.expected_calibration_error(labels, p + 0.1) == pytest.approx(0.1, abs=0.005)
    with pytest.raises(metrics.UndefinedMetric, match="row 1 has the score NaN"):
        metrics.expected_calibration_error([0, 1], [0.5, np.nan])
