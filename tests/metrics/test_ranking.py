"""MRR and NDCG equal FuxiCTR's values, group by group."""

import numpy as np
import pytest
from fuxictr import metrics as theirs

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.metrics import classification as metrics


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_fuxictr(seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, 400), rng.integers(0, 60, 400)
    labels[groups == groups[0]] = 0  # a group without positives counts as 0
    scores = rng.permutation(400) / 400
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


def test_of_equal_scores_the_later_row_comes_first_as_in_fuxictr():
    labels, scores = np.array([1, 0, 0]), np.array([0.5, 0.5, 0.5])
    assert metrics.evaluate(labels, scores, ["MRR"], [3, 3, 3])["MRR"] == pytest.approx(theirs.MRR(labels, scores))
    assert theirs.MRR(labels, scores) == pytest.approx(1 / 3)


def test_they_need_groups():
    for name in ("MRR", "NDCG(k=5)"):
        with pytest.raises(ConfigError, match=r"needs `group_id`"):
            metrics.evaluate([0, 1], [0.1, 0.2], [name])
    with pytest.raises(ValueError, match="lengths must agree"):
        metrics.evaluate([0, 1], [0.1, 0.2], ["MRR"], [1])
