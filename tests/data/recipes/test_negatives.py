"""Sampled negatives: their distribution, and users who have seen almost everything."""

import numpy as np
import pytest

from fuxictr_multimodal.data.recipes.negatives import NegativeSampler
from fuxictr_multimodal.errors import DataError


def test_popularity_is_the_training_rows_popularity():
    users = np.repeat(np.arange(1000), 2)
    items = np.tile([1, 2], 1000)
    weights = np.array([0, 5, 5, 1, 2, 4, 0])
    sampler = NegativeSampler(users=users, items=items, weights=weights, ratio=1, seed=3, names=np.arange(1000))
    drawn = np.bincount(sampler.draw(np.tile(np.arange(1000), 20)).ravel(), minlength=7) / 20_000
    assert drawn[[0, 1, 2, 6]].tolist() == [0, 0, 0, 0]
    assert np.abs(drawn[3:6] - np.array([1, 2, 4]) / 7).max() < 0.015


def test_a_user_who_has_seen_almost_everything_still_gets_exact_negatives():
    weights = np.full(1001, 10**6)
    weights[0], weights[990:] = 0, 1
    users, items = np.zeros(995, int), np.arange(1, 996)
    arguments = {"users": users, "items": items, "weights": weights, "names": np.array([42])}
    drawn = NegativeSampler(ratio=5, seed=1, **arguments).draw(np.zeros(50, int))
    assert (np.sort(drawn, axis=1) == np.arange(996, 1001)).all()
    with pytest.raises(DataError, match="user 42 has seen all but 5 of the 1000 items .* but 6 are wanted"):
        NegativeSampler(ratio=6, seed=1, **arguments)


def test_a_generator_of_ones_own_makes_draws_independent_of_earlier_ones():
    arguments = {"users": np.zeros(3, int), "items": np.array([1, 2, 3]), "weights": np.r_[0, np.ones(50, int)]}
    sampler = NegativeSampler(ratio=2, seed=1, names=np.array([7]), **arguments)
    first = sampler.draw(np.zeros(9, int), np.random.default_rng(5))
    sampler.draw(np.zeros(4, int))
    assert (sampler.draw(np.zeros(9, int), np.random.default_rng(5)) == first).all()
    assert not np.isin(first, [0, 1, 2, 3]).any()
