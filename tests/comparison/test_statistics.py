"""The bootstrap of AUC against explicit resampling and known distributions, and intervals over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from fuxictr_multimodal.comparison.statistics import (
    Spread,
    bootstrap_aucs,
    paired_t_interval,
    percentile_interval,
)
from fuxictr_multimodal.metrics.classification import UndefinedMetric


def drawn_units(units, *, replicates, seed):
    """The draws that `bootstrap_aucs` makes, as explicit indices."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    return [rng.integers(0, units, units) for _ in range(replicates)]


def rows_and_scores(rows, *, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(np.uint8)
    good = np.round(labels + rng.standard_normal(rows), decimals).astype(np.float32)
    poor = np.round(0.5 * labels + rng.standard_normal(rows), decimals).astype(np.float32)
    return labels, good, poor


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(12, 60))
def test_replicates_equal_explicit_resampling_of_rows(seed, rows):
    labels, good, poor = rows_and_scores(rows, seed=seed)
    labels[:2] = 0, 1
    found = bootstrap_aucs(labels, [good, poor], replicates=5, seed=seed)
    for replicate, index in enumerate(drawn_units(rows, replicates=5, seed=seed)):
        if len(set(labels[index])) < 2:
            assert np.isnan(found[:, replicate]).all()
            continue
        for run, scores in enumerate((good, poor)):
            assert found[run, replicate] == pytest.approx(roc_auc_score(labels[index], scores[index]), abs=1e-12)


def test_groups_are_drawn_whole():
    labels, good, _ = rows_and_scores(60)
    groups = np.arange(60) // 4 + 100
    found = bootstrap_aucs(labels, [good], replicates=4, seed=3, groups=groups)
    for replicate, drawn in enumerate(drawn_units(15, replicates=4, seed=3)):
        rows = np.concatenate([np.flatnonzero(groups == 100 + group) for group in drawn])
        assert found[0, replicate] == pytest.approx(roc_auc_score(labels[rows], good[rows]), abs=1e-12)


def test_a_run_gets_the_same_replicates_whoever_is_beside_it():
    labels, good, poor = rows_and_scores(200)
    alone = bootstrap_aucs(labels, [good], replicates=7, seed=1)
    both = bootstrap_aucs(labels, [poor, good], replicates=7, seed=1)
    assert np.array_equal(alone[0], both[1])


def test_spread_of_replicates_is_the_known_standard_error():
    """Against the Hanley-McNeil variance, exact placements as in DeLong et al. 1988."""
    labels, good, _ = rows_and_scores(4000, decimals=6)
    positives, negatives = good[labels == 1], good[labels == 0]
    wins = (positives[:, None] > negatives[None, :]).mean(1), (positives[:, None] > negatives[None, :]).mean(0)
    expected = math.sqrt(wins[0].var(ddof=1) / len(positives) + wins[1].var(ddof=1) / len(negatives))
    found = bootstrap_aucs(labels, [good], replicates=400, seed=0)
    assert found.std(ddof=1) == pytest.approx(expected, rel=0.12)


def test_paired_interval_covers_the_known_difference():
    """Scores label * d + noise have AUC Phi(d / sqrt 2): about 95 intervals in 100 must hold the true difference."""
    true = stats.norm.cdf(1.2 / math.sqrt(2)) - stats.norm.cdf(1.0 / math.sqrt(2))
    covered, paired, unpaired = 0, [], []
    for trial in range(120):
        rng = np.random.default_rng(trial)
        labels = (rng.random(500) < 0.4).astype(np.uint8)
        shared = rng.standard_normal(500)
        runs = [d * labels + 0.9 * shared + math.sqrt(1 - 0.81) * rng.standard_normal(500) for d in (1.2, 1.0)]
        aucs = bootstrap_aucs(labels, runs, replicates=200, seed=trial)
        interval = percentile_interval(aucs[0] - aucs[1])
        covered += interval.low <= true <= interval.high
        paired.append((aucs[0] - aucs[1]).std())
        unpaired.append(math.hypot(aucs[0].std(), aucs[1].std()))
    assert 0.88 <= covered / 120 <= 1.0
    assert np.mean(paired) < 0.6 * np.mean(unpaired)


def test_one_class_is_refused():
    with pytest.raises(UndefinedMetric):
        bootstrap_aucs([1, 1], [[0.1, 0.2]], replicates=2, seed=0)


def test_interval_over_seeds_is_students():
    differences = [0.010, 0.013, 0.008, 0.012]
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    found = paired_t_interval(differences)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert paired_t_interval([0.01]) is None
    assert Spread((0.5,)).std is None
