"""Hand features against slow loops over random samples, and what a sample must not know of itself."""

import dataclasses
import math

import numpy as np
import pytest

from fuxictr_multimodal.data.item_table import ItemTable
from model_zoo.Trees.click_rates import FOLDS, PRIOR, ClickRates, fitting
from model_zoo.Trees.features import Columns, HandFeatures
from model_zoo.Trees.hashing import fold_of
from model_zoo.Trees.histories import Histories
from model_zoo.Trees.samples import Items, Samples
from model_zoo.Trees.Trees import Trees
from tests.helpers.reference_qin import feature_map, item_table, random_batch

SPECS = {
    "device": {"type": "categorical", "vocab_size": 4},
    "city": {"type": "categorical", "vocab_size": 300},
    "price": {"type": "numeric"},
    "words": {"type": "sequence", "vocab_size": 9, "max_len": 3},
    "item_id": {"type": "categorical", "source": "item", "vocab_size": 40},
    "brand": {"type": "categorical", "source": "item", "vocab_size": 6},
    "tags": {"type": "sequence", "source": "item", "vocab_size": 9, "max_len": 3},
    "vector": {"type": "embedding", "source": "item", "pretrain_dim": 5},
}
ITEMS, USERS = 40, 12


def make_items(rng):
    vectors = rng.normal(size=(ITEMS, 5)).astype(np.float32)
    vectors[[0, 7]] = 0
    centred = vectors - vectors[vectors.any(axis=1)].mean(axis=0)
    centred[[0, 7]] = 0
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    codes = {"brand": rng.integers(0, 6, (ITEMS, 1)), "tags": rng.integers(0, 9, (ITEMS, 3))}
    for values in codes.values():
        values[0] = 0
    return Items(ITEMS, {"vector": np.divide(centred, lengths, where=lengths > 0, out=np.zeros_like(centred))}, codes)


def make_samples(rng, rows):
    lengths = rng.integers(0, 6, rows)
    return Samples(
        columns={
            "device": rng.integers(0, 4, rows),
            "city": rng.integers(0, 30, rows),
            "price": rng.normal(size=rows),
            "words": rng.integers(0, 3, (rows, 3)),
        },
        target=rng.integers(1, ITEMS, rows),
        history=rng.integers(1, ITEMS, lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user=rng.integers(100, 100 + USERS, rows),
    )


def history_of(samples, row):
    return samples.history[samples.offsets[row] : samples.offsets[row + 1]].tolist()


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(5)
    items, train, new = make_items(rng), make_samples(rng, 90), dataclasses.replace(make_samples(rng, 60), user=None)
    labels = (rng.random(90) < 0.2 + 0.6 * (train.target % 2)).astype(float)
    return items, train, labels, new


def features_of(made, **changes):
    items, train, labels, new = made
    train, labels = changes.get("train", train), changes.get("labels", labels)
    return HandFeatures.of(SPECS, items, [(train, labels)], [new])


def slow_features(items, train, samples, row):
    """Everything that a sample's history says, by its definition."""
    held = {}
    for other in range(len(train)):
        held.setdefault(train.user[other], set()).update(history_of(train, other))
    if samples.user is not None:
        held.pop(samples.user[row])
    # Users of train without a history hold nothing and are none.
    others = [found for found in held.values() if found]
    target, history = int(samples.target[row]), history_of(samples, row)
    vectors = items.vectors["vector"]
    tags, brand = items.codes["tags"], items.codes["brand"]
    holders = {item: sum(item in found for found in others) for item in {target, *history}}
    found = {
        "history_length": len(history),
        "target_in_history": target in history,
        "target_holders": math.log1p(holders[target]),
        "tags_seen": sum(tag != 0 and any(tag in tags[item] for item in history) for tag in tags[target]),
    }
    cosines, shared, branded, counts, ppmi, knn = [], [], [], [], [], []
    for item in history:
        cosines.append(float(vectors[item] @ vectors[target]))
        shared.append(bool(set(tags[item].tolist()) & set(tags[target].tolist()) - {0}))
        branded.append(brand[item, 0] == brand[target, 0] != 0)
        both = 0 if item == target else sum({item, target} <= other for other in others)
        apart = holders[item] * holders[target]
        counts.append(math.log1p(both))
        ppmi.append(max(0.0, math.log(both * len(others) / apart)) if both else 0.0)
        knn.append(both / math.sqrt(apart) if both else 0.0)
    for name, values in (("pair_count", counts), ("pair_ppmi", ppmi), ("pair_item_cosine", knn)):
        found[f"{name}_sum"] = sum(values)
    if history:
        mean = vectors[history].mean(axis=0)
        length = np.linalg.norm(mean)
        found |= {
            "vector_cosine_mean": np.mean(cosines),
            "vector_cosine_max": max(cosines),
            "vector_cosine_last": cosines[-1],
            "vector_cosine_top3": np.mean(sorted(cosines)[-3:]),
            "vector_cosine_of_mean": mean @ vectors[target] / length if length else 0.0,
            "tags_share": np.mean(shared),
            "tags_last": shared[-1],
            "brand_share": np.mean(branded),
            "brand_last": branded[-1],
            "history_holders_mean": np.mean([math.log1p(holders[item]) for item in history]),
            "pair_ppmi_last": ppmi[-1],
            "pair_any_share": np.mean(np.array(counts) > 0),
        }
        for name, values in (("pair_count", counts), ("pair_ppmi", ppmi), ("pair_item_cosine", knn)):
            found |= {f"{name}_mean": np.mean(values), f"{name}_max": max(values)}
    return found


@pytest.mark.parametrize("split", ["train", "new"])
def test_history_features_are_those_of_a_slow_loop(made, split):
    items, train, _, new = made
    samples = train if split == "train" else new
    hand = features_of(made)
    matrix, groups = hand.matrix(samples), [group for group, _ in hand.features(samples)]
    of_history = [name for name, group in zip(hand.names, groups, strict=True) if group not in ("columns", "rates")]
    for row in range(len(samples)):
        expected = slow_features(items, train, samples, row)
        assert set(expected) <= set(of_history)
        for name in of_history:
            # What is not defined without a history is missing.
            value = float(matrix[row, hand.names.index(name)])
            assert value == pytest.approx(float(expected.get(name, math.nan)), abs=2e-5, nan_ok=True), (row, name)


def test_columns_are_read_as_they_are(made):
    items, train, _, _ = made
    hand = features_of(made)
    matrix = dict(zip(hand.names, hand.matrix(train).T, strict=True))
    np.testing.assert_array_equal(matrix["device"], train.columns["device"])
    np.testing.assert_allclose(matrix["price"], train.columns["price"], rtol=1e-6)
    np.testing.assert_array_equal(matrix["words_number"], (train.columns["words"] != 0).sum(axis=1))
    np.testing.assert_array_equal(matrix["brand"], items.codes["brand"][train.target, 0])
    # Too many categories to be read as a number.
    assert "city" not in matrix


def test_click_rates_are_those_of_the_other_folds(made):
    _, train, labels, new = made
    hand = features_of(made)
    assert "@target" in hand.rates
    matrix = dict(zip(hand.names, hand.matrix(train).T, strict=True))
    folds = Columns.of(SPECS, made[0]).folds(train)
    assert len(set(folds)) == FOLDS
    for row in range(len(train)):
        others = folds != folds[row]
        same = others & (train.target == train.target[row])
        mean = labels[others].mean()
        expected = (labels[same].sum() + PRIOR * mean) / (same.sum() + PRIOR)
        assert matrix["@target_click_rate"][row] == pytest.approx(expected, rel=1e-5)
        scaled = same.sum() * FOLDS / (FOLDS - 1)
        assert matrix["@target_samples"][row] == pytest.approx(math.log1p(scaled), rel=1e-5)
    # New samples read all of them.
    scored = dict(zip(hand.names, hand.matrix(new).T, strict=True))
    for row in range(len(new)):
        same = train.target == new.target[row]
        expected = (labels[same].sum() + PRIOR * labels.mean()) / (same.sum() + PRIOR)
        assert scored["@target_click_rate"][row] == pytest.approx(expected, rel=1e-5)
        assert scored["@target_samples"][row] == pytest.approx(math.log1p(same.sum()), rel=1e-5)


def test_a_sample_does_not_know_its_label(made):
    _, train, labels, _ = made
    before = features_of(made).matrix(train)
    for row in range(0, len(train), 7):
        flipped = labels.copy()
        flipped[row] = 1 - flipped[row]
        after = features_of(made, labels=flipped).matrix(train)
        np.testing.assert_array_equal(after[row], before[row])


def test_a_sample_does_not_know_of_its_user_in_other_samples(made):
    """The target of one sample stands in later histories of its user; with it or without, the sample reads the same."""
    train = made[1]
    before = features_of(made)
    for row in range(0, len(train), 9):
        own = train.user == train.user[row]
        of_others = [other for other in np.flatnonzero(own) if other != row]
        history = train.history.copy()
        for other in of_others:
            history[train.offsets[other] : train.offsets[other + 1]] = train.target[row]
        changed = dataclasses.replace(train, history=history)
        after = Histories.of([changed], ITEMS)
        for group in ("counts", "cooccurrence"):
            hand = dataclasses.replace(before, without=frozenset({"columns", "rates"}))
            then = dataclasses.replace(hand, histories=after)
            column = [g == group for g, _ in hand.features(train)]
            np.testing.assert_array_equal(then.matrix(train)[row, column], hand.matrix(train)[row, column])
    # While others do see it.
    assert not np.array_equal(after.holders, before.histories.holders)


def test_rates_that_negatives_fix_are_left_out():
    # Each user has one click and three negatives: nothing but chance is less even.
    users, labels = np.repeat(np.arange(500), 4), np.tile([1.0, 0, 0, 0], 500)
    assert ClickRates.of(users, labels, fold_of(users)).dispersion < 0.1
    rates = ClickRates.of(users, labels, fold_of(users))
    assert fitting({"user": rates}, {"user": users}) == {}
    by_chance = (np.random.default_rng(0).random(2000) < 0.25).astype(float)
    assert ClickRates.of(users, by_chance, fold_of(users)).dispersion == pytest.approx(1, abs=0.15)


def test_rates_need_values_that_are_known_and_of_a_context_column_that_are_common():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 40, 2000), (rng.random(2000) < 0.3).astype(float)
    labels[values % 2 == 0] = 0
    rates = {"column": ClickRates.of(values, labels, fold_of(np.arange(2000)))}
    assert fitting(rates, {"column": values}, of_context=["column"]) == rates
    assert fitting(rates, {"column": values + 30}) == {}
    few = {"column": ClickRates.of(values[:400], labels[:400], fold_of(np.arange(400)))}
    assert fitting(few, {"column": values}) == few
    assert fitting(few, {"column": values}, of_context=["column"]) == {}


def test_batches_of_histories_may_be_cut_anywhere(made, monkeypatch):
    _, train, _, _ = made
    whole = Histories.of([train], ITEMS)
    half = len(train) // 2
    cut = train.offsets[half]
    parts = [
        dataclasses.replace(train, history=train.history[:cut], offsets=train.offsets[: half + 1],
                            target=train.target[:half], user=train.user[:half]),
        dataclasses.replace(train, history=train.history[cut:], offsets=train.offsets[half:] - cut,
                            target=train.target[half:], user=train.user[half:]),
    ]  # fmt: skip
    monkeypatch.setattr("model_zoo.Trees.histories.PENDING", 10)
    found = Histories.of(parts, ITEMS)
    np.testing.assert_array_equal(found.users, whole.users)
    np.testing.assert_array_equal(found.pairs.keys, whole.pairs.keys)
    np.testing.assert_array_equal(found.pairs.counts, whole.pairs.counts)


def test_pairs_stay_within_their_bound(made):
    _, train, _, _ = made
    found = Histories.of([train], ITEMS, most_pairs=200)
    assert 0 < found.pairs.counts.sum() <= 200
    # Users are cut, none is left out.
    np.testing.assert_array_equal(found.users, Histories.of([train], ITEMS).users)


def test_a_group_can_be_left_out(made):
    items, train, labels, new = made
    everything = features_of(made)
    without = HandFeatures.of(SPECS, items, [(train, labels)], [new], without=["cooccurrence", "rates"])
    gone = set(everything.names) - set(without.names)
    assert gone
    assert all(name.startswith(("pair_", "@")) for name in gone)


@pytest.mark.parametrize("group_id", ["user_id", None])
def test_other_users_are_counted_only_where_users_are_told_apart(group_id):
    """A user's later history holds the target of the sample before: without users a sample would count itself."""
    features, rng = feature_map(), np.random.default_rng(0)
    features.group_id = group_id
    batch = random_batch(features, rng, rows=60)
    model = Trees(features, metrics=["AUC"], model_root="./", verbose=0)
    model.attach(ItemTable(item_table(features, rng).features))
    model.read_splits([batch if group_id else dataclasses.replace(batch, group=None)], [batch])
    assert model.features.without == (set() if group_id else {"counts", "cooccurrence"})
    assert any("pair" in name for name in model.features.names) == (group_id is not None)
