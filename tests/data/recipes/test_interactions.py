"""Splits, histories and counts against loops that read like their definitions."""

import numpy as np
import pytest

from fuxictr_multimodal.data.recipes.interactions import (
    TEST,
    TRAIN,
    VALID,
    Levels,
    additive_scores,
    earlier_items,
    last_fraction_within,
    smoothed_mean,
    split_by_time,
    sums_before,
)
from fuxictr_multimodal.metrics.classification import auc


@pytest.fixture(params=range(4))
def log(request):
    """A small log in random order with many equal times."""
    rng = np.random.default_rng(request.param)
    n = 120
    return {
        "users": rng.integers(0, 6, n),
        "items": rng.integers(1, 15, n),
        "times": rng.integers(0, 25, n),
        "labels": rng.integers(0, 2, n),
        "train": rng.random(n) < 0.7,
    }


@pytest.mark.parametrize("max_len", [3, 64])
def test_history_is_the_last_kept_items_of_strictly_earlier_times(log, max_len):
    keep = log["labels"] == 1
    histories = earlier_items(log["users"], log["times"], log["items"], keep=keep, max_len=max_len)
    rows = np.arange(len(keep))[::-3]
    taken = histories.take(rows)
    values, offsets = taken.items, taken.offsets
    assert values.dtype == np.int32
    for place, row in enumerate(rows):
        mine = [
            other
            for other in range(len(keep))
            if keep[other] and log["users"][other] == log["users"][row] and log["times"][other] < log["times"][row]
        ]
        mine.sort(key=lambda other: log["times"][other])  # stable: equal times keep their order
        wanted = [log["items"][other] for other in mine][-max_len:]
        assert values[offsets[place] : offsets[place + 1]].tolist() == wanted


def test_history_of_no_rows():
    histories = earlier_items(np.zeros(2, int), np.arange(2), np.ones(2, int), keep=np.ones(2, bool), max_len=4)
    taken = histories.take(np.array([], dtype=np.int64))
    values, offsets = taken.items, taken.offsets
    assert values.tolist() == []
    assert offsets.tolist() == [0]


def test_a_counted_row_knows_earlier_counted_rows_and_others_know_all_of_them(log):
    keys, times, labels, train = log["items"], log["times"], log["labels"], log["train"]
    count, total = sums_before(keys, times, labels, counted=train, num_keys=15)
    for row in range(len(keys)):
        known = train & (keys == keys[row])
        if train[row]:
            known &= times < times[row]
        assert count[row] == known.sum()
        assert total[row] == labels[known].sum()


def test_a_label_is_not_in_its_own_count(log):
    """Turning one training label round changes no count of its own row, nor of any earlier row."""
    row = int(np.flatnonzero(log["train"])[0])
    turned = log["labels"].copy()
    turned[row] = 1 - turned[row]
    arguments = {"counted": log["train"], "num_keys": 15}
    before = sums_before(log["items"], log["times"], log["labels"], **arguments)[1]
    after = sums_before(log["items"], log["times"], turned, **arguments)[1]
    changed = np.flatnonzero(before != after)
    assert row not in changed
    assert (~log["train"][changed] | (log["times"][changed] > log["times"][row])).all()


def test_split_by_time_never_parts_rows_of_one_time(log):
    split = split_by_time(log["times"], train_fraction=0.8, valid_fraction=0.1)
    times = log["times"]
    assert times[split == TRAIN].max() < times[split == VALID].min()
    assert times[split == VALID].max() < times[split == TEST].min()
    assert (split == TRAIN).mean() >= 0.8


def test_last_share_takes_whole_times_and_leaves_every_user_a_first_time(log):
    users, times = log["users"], log["times"]
    marked = last_fraction_within(users, times, fraction=0.3)
    assert 0.1 < marked.mean() < 0.5
    for user in np.unique(users):
        mine = users == user
        early, late = times[mine & ~marked], times[mine & marked]
        assert len(early)
        assert early.max() < late.min(initial=np.iinfo(times.dtype).max)
        cuts = {int((times[mine] < time).sum()) for time in np.unique(times[mine])[1:]} | {int(mine.sum())}
        wanted = 0.7 * mine.sum()
        assert abs(len(early) - wanted) == pytest.approx(min(abs(cut - wanted) for cut in cuts))


def test_last_share_of_a_user_with_one_time_is_nothing():
    assert not last_fraction_within(np.array([3, 3, 3]), np.array([1, 1, 1]), fraction=0.9).any()


def test_levels_are_equally_filled_deciles_and_zero_where_unknown():
    values = np.random.default_rng(0).normal(size=5000)
    known = np.arange(5000) % 5 > 0
    levels = Levels.fit(values, known).of(values, known)
    counts = np.bincount(levels, minlength=11)
    assert counts[0] == 1000
    assert counts[1:].tolist() == [400] * 10
    assert (np.diff(levels[known][np.argsort(values[known])]) >= 0).all()


def test_levels_without_a_known_value_are_defined():
    nothing = np.zeros(3, dtype=bool)
    assert Levels.fit(np.ones(3), nothing).of(np.ones(3), ~nothing).tolist() == [1, 1, 1]


def test_smoothed_mean_is_the_prior_without_rows_and_the_rate_with_many():
    rate = smoothed_mean(np.array([0, 900_000]), np.array([0, 1_000_000]), prior=0.5, strength=5.0)
    np.testing.assert_allclose(rate, [0.5, 0.9], atol=1e-5)


def test_additive_scores_find_what_the_labels_were_made_of():
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, 50, 20_000), rng.integers(0, 40, 20_000)
    logit = rng.normal(size=50)[users] + rng.normal(size=40)[items]
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    fit = np.arange(20_000) < 10_000
    user, item = additive_scores((users, items), labels, fit_rows=fit, strength=5.0)
    best = auc(labels[~fit], logit[~fit])
    assert auc(labels[~fit], (user + item)[~fit]) == pytest.approx(best, abs=0.01)
    assert auc(labels[~fit], item[~fit]) < best - 0.05


def test_an_unknown_key_has_the_mean():
    (score,) = additive_scores(
        (np.array([0, 0, 1]),), np.array([1, 0, 1]), fit_rows=np.array([True, True, False]), strength=5.0
    )
    assert score[2] == 0
