"""Splits against loops that read like their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry import splits
from fuxictr_multimodal.data.recipes.interactions import TEST, TRAIN, VALID
from fuxictr_multimodal.errors import DataError

events = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), min_size=1, max_size=40)
fractions = st.sampled_from([(0.1, 0.1), (0.2, 0.0), (0.3, 0.4), (0.05, 0.15)])


def columns(log: list[tuple[int, int, bool]]):
    users, times, samples = map(np.array, zip(*log, strict=True))
    return users, times, samples.astype(bool)


@given(events, fractions)
def test_a_split_by_time_cuts_between_two_times(log, wanted):
    valid, test = wanted
    _, times, samples = columns(log)
    split = splits.by_time(times, samples, valid=valid, test=test)
    mine = sorted(times[samples])
    if not mine:
        assert (split.of == splits.NO_SAMPLE).all()
        return
    last = [mine[math.ceil(round(part * len(mine), 6)) - 1] for part in (1 - valid - test, 1 - test)]
    for time, sample, code, known in zip(times, samples, split.of, split.known, strict=True):
        assert code == (-1 if not sample else TRAIN if time <= last[0] else VALID if time <= last[1] else TEST)
        assert known == (time <= last[0])


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.2, 0.2), (0.15, 0.1), (0.3, 0.0)])
def test_fractions_of_distinct_times_are_met_to_the_row(valid, test):
    split = splits.by_time(np.arange(1000), np.ones(1000, bool), valid=valid, test=test)
    assert np.bincount(split.of, minlength=3)[1:].tolist() == [round(1000 * valid), round(1000 * test)]


@given(events, st.booleans())
def test_the_last_samples_of_each_user(log, test):
    users, times, samples = columns(log)
    split = splits.last_items(users, times, samples, test=test)
    short = 0
    for user in {*users.tolist()}:
        mine = sorted((row for row in range(len(log)) if users[row] == user and samples[row]), key=times.__getitem__)
        held_out = (mine[-2:] if test else mine[-1:]) if len(mine) >= splits.LEAST_EVENTS else []
        short += 0 < len(mine) < splits.LEAST_EVENTS
        wanted = [VALID, TEST] if test else [VALID]
        assert split.of[held_out].tolist() == wanted[: len(held_out)]
        assert (split.of[mine[: len(mine) - len(held_out)]] == TRAIN).all()
        oldest = min((times[row] for row in held_out), default=np.inf)
        for row in range(len(log)):
            if users[row] == user:
                assert split.known[row] == (split.of[row] == TRAIN if samples[row] else times[row] < oldest)
    assert (split.of[~samples] == splits.NO_SAMPLE).all()
    assert len(split.notes) == (short > 0)
    assert not short or split.notes[0].startswith(f"{short} users have fewer than 3 samples")


@given(events, fractions, st.integers(0, 5))
def test_whole_users_are_drawn(log, wanted, seed):
    valid, test = wanted
    users, _, samples = columns(log)
    split = splits.by_user(users, samples, valid=valid, test=test, seed=seed)
    there = {*users[samples].tolist()}
    of = {user: {*split.of[samples & (users == user)].tolist()} for user in there}
    assert all(len(codes) == 1 for codes in of.values())
    counts = [sum(codes == {code} for codes in of.values()) for code in (VALID, TEST)]
    assert counts == [round(valid * len(there)), round(test * len(there))]
    for row, user in enumerate(users.tolist()):
        assert split.known[row] == (of.get(user, {TRAIN}) == {TRAIN})


@given(events, st.data())
def test_the_newest_positive_of_each_user_and_split(log, data):
    users, times, positive = columns(log)
    codes = np.array([data.draw(st.sampled_from([-1, 0, 1, 2])) for _ in log], dtype=np.int8)
    marked = splits.newest_positive(users, times, codes, positive)
    wanted = {}
    for row, (user, time, is_positive) in enumerate(log):
        key = (user, int(codes[row]))
        if is_positive and codes[row] >= 0 and (key not in wanted or time >= times[wanted[key]]):
            wanted[key] = row
    assert np.flatnonzero(marked).tolist() == sorted(wanted.values())


def test_rows_in_order():
    split = splits.by_order(np.array([True, False, True, True, True]), valid=0.25, test=0.25)
    assert split.of.tolist() == [0, -1, 0, 1, 2]
    assert split.method == "by order: the last 25% of the samples test, 25% before them valid"


def test_a_split_that_is_empty_is_named():
    split = splits.by_time(np.zeros(5, int), np.ones(5, bool), valid=0.2, test=0.0)
    with pytest.raises(DataError, match=r"log: the valid split is empty \(by time: .*\): there are too few samples"):
        split.checked("log", test=False)
