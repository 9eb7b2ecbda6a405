"""Item vectors against a slow computation by the formula, and what a fold of users may and may not know."""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.data.recipes import cooccurrence, user_events
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourColumns
from fuxictr_multimodal.data.recipes.cooccurrence import cooccurrence_vectors
from fuxictr_multimodal.data.recipes.user_events import LongestHistories, UserEvents, fold_of
from fuxictr_multimodal.errors import ConfigError, DataError

ITEMS = 14


def random_users(seed, *, users=40, exposed=True):
    rng = np.random.default_rng(seed)
    histories = [rng.integers(1, ITEMS, rng.integers(0, 9)).tolist() for _ in range(users)]
    return histories, events_of(histories, exposed=exposed)


def events_of(histories, *, exposed):
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return UserEvents(items, offsets_from_lengths([len(h) for h in histories]), list(range(len(histories))), exposed)


def slow_cosines(histories, *, reach, weight):
    """Cosines of all items by the formula, (ITEMS, ITEMS), from a full SVD; NaN where an item has no vector."""
    counts = Counter()
    for history in histories:
        for at, first in enumerate(history):
            for distance, second in enumerate(history[at + 1 : at + 1 + reach], start=1):
                if first != second:
                    counts[first, second] += weight(distance)
                    counts[second, first] += weight(distance)
    total = Counter()
    for (item, _), count in counts.items():
        total[item] += count
    smooth = sum(count**0.75 for count in total.values())
    ppmi = np.zeros((ITEMS, ITEMS))
    for (item, other), count in counts.items():
        ppmi[item, other] = max(0.0, math.log(count * smooth / (total[item] * total[other] ** 0.75)))
    left, values, _ = np.linalg.svd(ppmi)
    vectors = left * np.sqrt(np.where(values > 1e-9, values, 0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 1e-6)
    return vectors @ vectors.T


def cosines(vectors):
    there = vectors.any(axis=1)
    assert np.allclose(np.linalg.norm(vectors[there], axis=1), 1, atol=1e-5)
    return np.where(there[:, None] & there, vectors @ vectors.T, np.nan)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("window", [None, 2])
def test_every_block_is_the_formula_over_the_users_of_the_other_folds(monkeypatch, seed, window):
    # Several additions of a few pairs each.
    monkeypatch.setattr(cooccurrence, "CHUNK_PAIRS", 50)
    histories, counted = random_users(seed)
    made = cooccurrence_vectors(counted, items=ITEMS, dim=ITEMS, max_len=6, window=window, folds=3, where="it")
    folds = [fold_of(user, 3) for user in range(len(histories))]
    assert made.fold_of_user.tolist() == folds
    assert {1, 2, 3} == set(folds)
    options = {"reach": 5 if window is None else 2, "weight": (lambda d: 1) if window is None else (lambda d: 3 - d)}
    for block, vectors in enumerate([made.vectors, *made.folds.transpose(1, 0, 2)]):
        others = [history for history, fold in zip(histories, folds, strict=True) if fold != block]
        np.testing.assert_allclose(cosines(vectors), slow_cosines(others, **options), atol=2e-5)
    assert not made.vectors[0].any()


def test_blocks_are_turned_onto_the_first_one():
    rng = np.random.default_rng(0)
    # Ten kinds of items; a user stays with one of them.
    histories = [(1 + rng.integers(0, 6, 8) + 6 * rng.integers(0, 10)).tolist() for _ in range(600)]
    made = cooccurrence_vectors(events_of(histories, exposed=True), items=61, dim=10, max_len=9, where="it")
    for fold in range(5):
        alike = (made.vectors * made.folds[:, fold]).sum(axis=1)[1:]
        assert alike.min() > 0.98


def test_without_exposed_targets_one_block_serves_all():
    _, counted = random_users(0, exposed=False)
    made = cooccurrence_vectors(counted, items=ITEMS, dim=4, max_len=6, where="it")
    assert made.folds is None
    assert not made.fold_of_user.any()
    assert made.metadata["folds"] == 0
    again = cooccurrence_vectors(counted, items=ITEMS, dim=4, max_len=6, where="it")
    np.testing.assert_array_equal(made.vectors, again.vectors)


def test_missing_directions_are_zero_and_uncounted_items_have_no_vector():
    made = cooccurrence_vectors(
        events_of([[1, 2], [2, 3, 3], [7]], exposed=False), items=9, dim=64, max_len=6, where="it"
    )
    assert made.vectors.shape == (9, 64)
    assert not made.vectors[:, 3:].any()
    assert made.vectors.any(axis=1).tolist() == [False, True, True, True] + 5 * [False]
    assert made.metadata["items_without_vector"] == 5
    assert made.metadata["pairs"] == 2


def test_the_newest_events_of_a_long_history_are_counted(monkeypatch):
    monkeypatch.setattr(cooccurrence, "MOST_EVENTS", 2)
    made = cooccurrence_vectors(events_of([[1, 2, 3]], exposed=False), items=4, dim=2, max_len=6, where="it")
    assert made.vectors.any(axis=1).tolist() == [False, False, True, True]


def test_without_a_pair_there_is_nothing_to_count():
    with pytest.raises(DataError, match=r"^dataset 'D': column 'v': item_vectors counts pairs .* none of the 2 users"):
        cooccurrence_vectors(
            events_of([[1, 1], [2]], exposed=True), items=4, dim=2, max_len=6, where="dataset 'D': column 'v'"
        )


def test_users_of_one_fold_are_too_few():
    folds = [fold_of(user, 2) for user in range(12)]
    one = [user for user, fold in enumerate(folds) if fold == folds[0]]
    other = next(user for user, fold in enumerate(folds) if fold != folds[0])

    def made(histories, exposed=True):
        users = [*histories]
        counted = events_of(histories.values(), exposed=exposed)
        return cooccurrence_vectors(
            UserEvents(counted.items, counted.offsets, users, exposed), items=4, dim=2, max_len=6, folds=2, where="it"
        )

    alone = {user: [1, 2, 3] for user in one}
    for histories in (alone, alone | {other: [1]}):
        with pytest.raises(
            DataError, match=rf"^it: too few training users \({len(histories)}\) .*: leave the column out"
        ):
            made(histories)
    assert made(alone, exposed=False).vectors[1:].any(axis=1).all()
    blocks = made(alone | {other: [1, 2, 3]}).folds
    assert blocks[1:].any(axis=2).all()


def test_columns_share_their_folds():
    columns = [
        {"name": name, "type": "embedding", "item_vectors": "cooccurrence", "folds": folds}
        for name, folds in (("a", 3), ("b", 4))
    ]
    with pytest.raises(ConfigError, match=r"columns 'a', 'b' have different `folds`"):
        BehaviourColumns.of(columns, "dataset 'D'")


def test_folds_of_users_are_even_and_depend_on_the_id_alone():
    folds = np.bincount([fold_of(user, 5) for user in range(5000)], minlength=6)
    assert folds[0] == 0
    assert folds[1:].min() > 900
    assert fold_of(7, 5) == fold_of("7", 5) == fold_of(np.int64(7), 5)


def test_a_log_counts_what_stands_in_training_histories():
    users = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    times = np.array([1, 2, 3, 1, 1, 5, 6, 7])
    items = np.array([4, 5, 6, 7, 8, 4, 9, 5])
    samples = np.array([0, 1, 1, 1, 1, 0, 1, 0], dtype=bool)
    found = UserEvents.of_log(users, times, items, samples=samples, events=np.ones(8, bool), names=["a", "b", "c"])
    # The last training sample of each user is in no history; b's two events are of one time.
    assert found.items.tolist() == [4, 5, 4]
    assert found.offsets.tolist() == [0, 2, 3]
    assert list(found.users) == ["a", "c"]
    assert found.exposed  # a's sample of item 5
    last = np.array([0, 0, 1, 1, 1, 0, 1, 0], dtype=bool)
    assert not UserEvents.of_log(users, times, items, samples=last, events=np.ones(8, bool), names=list("abc")).exposed


@pytest.mark.parametrize("seed", range(4))
def test_collects_the_longest_history_of_each_user(monkeypatch, seed):
    monkeypatch.setattr(user_events, "LEAST_POOL", 5)
    rng = np.random.default_rng(seed)
    samples = [
        (None if user == 0 else f"user {user}", rng.integers(1, 99, rng.integers(0, 5)).tolist())
        for user in rng.integers(0, 9, 60)
    ]
    longest, collected = {}, LongestHistories()
    for start in range(0, 60, 7):
        part = samples[start : start + 7]
        for user, history in part:
            if user is not None and len(history) >= len(longest.get(user, [])):
                longest[user] = history
        offsets = offsets_from_lengths([len(history) for _, history in part])
        values = np.array([item for _, history in part for item in history], dtype=np.int64)
        users = pl.Series([user for user, _ in part], dtype=pl.String)
        collected.add(users, values, offsets, np.full(len(part), -1))
    found = collected.events()
    parts = np.split(found.items, found.offsets[1:-1])
    assert dict(zip(found.users, (part.tolist() for part in parts), strict=True)) == {
        user: history for user, history in longest.items() if history
    }


@pytest.mark.parametrize(
    ("samples", "exposed"),
    [
        ([("a", [1, 2], 3), ("a", [1, 2], 4), ("b", [3], 5)], False),
        ([("a", [1, 2], 3), ("a", [1, 2, 3], 4)], True),
        ([("a", [], 3), ("a", [3], 4)], True),
        ([("a", [1, 2], 3), ("a", [2, 1], 4)], True),
        ([("a", [1, 2], 2)], True),
        ([(None, [1, 2], 2), (None, [1], 3)], False),
    ],
)
@pytest.mark.parametrize("piece", [1, 3])
def test_says_whether_a_target_may_stand_in_a_counted_history(samples, exposed, piece):
    collected = LongestHistories()
    for start in range(0, len(samples), piece):
        users, histories, targets = zip(*samples[start : start + piece], strict=True)
        offsets = offsets_from_lengths([len(history) for history in histories])
        values = np.array([item for history in histories for item in history], dtype=np.int64)
        collected.add(pl.Series(users, dtype=pl.String), values, offsets, np.array(targets))
    assert collected.events().exposed is exposed


@pytest.mark.parametrize(
    ("held_out", "exposed"),
    [
        ([("a", 3), ("b", 1)], False),
        ([("a", 2)], True),
        ([("new", 1), (None, 1)], False),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_says_whether_a_target_of_valid_or_test_stands_in_a_counted_history(held_out, exposed, first):
    collected = LongestHistories()
    users, targets = zip(*held_out, strict=True)

    def add_held_out():
        collected.add_held_out(pl.Series(users, dtype=pl.String), np.array(targets))

    if first:
        add_held_out()
    collected.add(pl.Series(["b", "a"]), np.array([3, 1, 2]), np.array([0, 1, 3]), np.array([4, 4]))
    if not first:
        add_held_out()
    found = collected.events()
    assert found.exposed is exposed
    assert {*found.users} == {"a", "b"}
