"""Trees as arrays: the scores of scikit-learn, and damage that is refused."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from model_zoo.Trees.forest import empty_forest, fill_forest, log_odds, problem_of, size_of


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(800, 5)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[:, 4] = np.where(rng.random(800) < 0.5, 1, np.nan)
    y = (np.nan_to_num(x[:, 0]) * np.nan_to_num(x[:, 1]) + np.isnan(x[:, 4]) > 0).astype(int)
    classifier = HistGradientBoostingClassifier(max_iter=12, max_leaf_nodes=7, min_samples_leaf=10).fit(x, y)
    arrays = empty_forest(20, 7)
    fill_forest(arrays, classifier, 12)
    return classifier, arrays, x


def test_scores_are_those_of_scikit_learn(fitted):
    classifier, arrays, x = fitted
    # One feature is a number or missing: a split that sends all numbers to one side.
    assert any(np.isinf(nodes["num_threshold"]).any() for nodes in (p.nodes for (p,) in classifier._predictors))
    assert all(bool(values.isfinite().all()) for values in arrays.values())
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds(arrays, x))), classifier.predict_proba(x)[:, 1], rtol=1e-12)


def test_the_first_trees_are_a_stage(fitted):
    classifier, _, x = fitted
    arrays = empty_forest(20, 7)
    fill_forest(arrays, classifier, 5)
    *_, fifth = [scores for scores, _ in zip(classifier.staged_decision_function(x), range(5), strict=False)]
    np.testing.assert_allclose(log_odds(arrays, x), fifth.reshape(-1), rtol=1e-12)


def test_size_counts_thresholds_and_leaves(fitted):
    classifier, arrays, _ = fitted
    nodes = sum(len(predictor.nodes) for (predictor,) in classifier._predictors)
    assert size_of(arrays) == nodes


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left", 99, "'left' names a node that the tree does not have"),
        # A loop, which would never end.
        ("right", 0, "a node has one child"),
        ("feature", 5, "'feature' names one that is not among the 5"),
        ("feature", -1, "'feature' names one"),
    ],
)
def test_damaged_arrays_are_named(fitted, name, value, message):
    _, arrays, _ = fitted
    assert problem_of(arrays, 5) is None
    damaged = {**arrays, name: arrays[name].clone()}
    damaged[name][0, 0] = value
    assert message in problem_of(damaged, 5)
