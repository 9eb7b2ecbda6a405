"""Features that depend on the fold of a user: every layout gives a sample the values of its fold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Jagged, join
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.explain.block_importance import exchanged_items
from fuxictr_multimodal.zoo.distinct_items import DistinctItems
from fuxictr_multimodal.zoo.layouts import as_flat, as_longctr, flat_feature_map
from model_zoo.Trees.samples import Items, Samples
from tests.helpers import reference_qin

FOLDS, ROWS = 3, 40
OPTIONS = [
    {},
    {"form": "plain"},
    {"attention_similarity": True},
    {"first_order": ["item_id", "item_tags"]},
]


@pytest.fixture(scope="module")
def features():
    return reference_qin.feature_map()


@pytest.fixture(scope="module")
def table(features):
    plain = reference_qin.item_table(features, np.random.default_rng(1)).features
    folds = torch.randn(len(plain["item_id"]), FOLDS, 6, generator=torch.Generator().manual_seed(2))
    folds[0] = 0
    return ItemTable(plain, {"item_emb_d128": folds})


@pytest.fixture(scope="module")
def batch(features):
    rng = np.random.default_rng(3)
    made = reference_qin.random_batch(features, rng, rows=ROWS)
    fold = torch.from_numpy(rng.integers(0, FOLDS + 1, ROWS).astype(np.uint8))
    values = torch.from_numpy(rng.integers(1, 23, 2 * ROWS)).int()
    cart = Jagged(values, torch.arange(0, 2 * ROWS + 1, 2))
    return replace(made, fold=fold, behaviours={"cart": cart})


def of_fold(table, fold):
    """The table as if its vectors had no folds and were those of one."""
    kept = table.folds["item_emb_d128"]
    return ItemTable(table.features | ({"item_emb_d128": kept[:, fold - 1]} if fold else {}))


def rows_of(batch, fold):
    return replace(batch.take(torch.nonzero(batch.fold == fold).flatten()), fold=None)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_qin_reads_the_vectors_of_the_fold(features, table, batch, options, training):
    model = reference_qin.small_qin(features, batch_norm=False, **options)
    # Without what depends on the other rows of a batch, a row's score is its own.
    model.train(training)
    model.attach(table)
    with torch.set_grad_enabled(training):
        found = model(batch)["logit"].flatten()
        for fold in range(FOLDS + 1):
            model.attach(of_fold(table, fold))
            expected = model(rows_of(batch, fold))["logit"].flatten()
            torch.testing.assert_close(found[batch.fold == fold], expected, rtol=1e-5, atol=1e-6)


def test_folded_qin_scores_samples_of_folds_and_exports_the_block_of_all_users(features, table, batch):
    model = reference_qin.small_qin(features).float().eval()
    for encoder in model.embedding_layer.embedding_layer.feature_encoders.values():
        encoder._forward_pre_hooks.clear()
    model.attach(table)
    with torch.no_grad():
        expected, folded = model(batch)["logit"], model.fold()
        torch.testing.assert_close(folded(batch)["logit"], expected, rtol=1e-4, atol=1e-4)
        exported = folded.servable().items
        model.attach(of_fold(table, 0))
        plain = model.fold().servable().items
    assert exported.keys() == plain.keys()
    for name, values in exported.items():
        torch.testing.assert_close(values, plain[name])


@pytest.mark.parametrize("padding", ["pre", "post"])
def test_the_triple_and_flat_columns_have_the_values_of_the_fold(features, table, batch, padding):
    flat_map = flat_feature_map(features, 6, pooled=True)

    def layouts(table, batch):
        _, items, mask = as_longctr(batch, table, max_len=6, padding=padding)
        flat = as_flat(batch, table, flat_map, padding=padding)
        triple = {name: values.unflatten(0, (len(batch), -1)) for name, values in items.items()}
        return triple | {f"flat {name}": values for name, values in flat.items()} | {"mask": mask}

    found = layouts(table, batch)
    for fold in range(FOLDS + 1):
        expected = layouts(of_fold(table, fold), rows_of(batch, fold))
        for name, values in expected.items():
            assert torch.equal(found[name][batch.fold == fold], values), name


class Embeds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding_layer = torch.nn.Identity()
        self.embedding_layer.forward = lambda items, **_: items["item_emb_d128"]


def test_distinct_items_are_those_of_each_fold(table, batch, monkeypatch):
    monkeypatch.setattr("fuxictr_multimodal.zoo.distinct_items.rows_alike", lambda layer: True)
    model = Embeds()
    to_inputs = DistinctItems.of(model, table, max_len=6, padding="pre")
    _, items, _ = to_inputs(batch)
    _, expected, _ = as_longctr(batch, table, max_len=6)
    assert len(items["item_id"]) < len(expected["item_id"])
    spread = model.embedding_layer(items, flatten_emb=True)
    assert torch.equal(spread, expected["item_emb_d128"])


def test_the_fold_travels_with_its_row(batch):
    order = torch.randperm(ROWS)
    taken = batch.take(order)
    assert torch.equal(taken.fold, batch.fold[order])
    assert torch.equal(join([taken, batch]).fold, torch.cat([batch.fold[order], batch.fold]))
    assert torch.equal(batch.to("cpu").fold, batch.fold)


def test_samples_without_a_fold_read_the_block_of_all_users(table, batch):
    rows, same = table.of_batch(replace(batch, fold=None))
    assert rows is table
    assert same.fold is None
    plain = ItemTable(table.features)
    assert plain.of_batch(batch)[0] is plain


def test_exchanged_items_exchange_their_folds_too(table, batch):
    order = torch.randperm(table.num_items - 1, generator=torch.Generator().manual_seed(0))
    before = as_longctr(batch, table)[1]["item_emb_d128"].clone()
    kept = {name: values.clone() for name, values in table.folds.items()}
    with exchanged_items(table, "item_emb_d128", order, on_change=lambda: None):
        changed = as_longctr(batch, table)[1]
        rows, read = table.of_batch(batch)
        item = int(batch.target[0])
        fold = int(batch.fold[0])
        other = int(order[item - 1]) + 1
        expected = kept["item_emb_d128"][other, fold - 1] if fold else None
        got = rows.gather(read.target)["item_emb_d128"][0]
        assert expected is None or torch.equal(got, expected)
        assert not torch.equal(changed["item_emb_d128"], before)
    assert torch.equal(as_longctr(batch, table)[1]["item_emb_d128"], before)


def test_trees_compare_the_vectors_of_the_fold(features, table, batch):
    specs = {name: spec for name, spec in features.features.items() if spec["type"] != "meta"}
    read = Items.of(table, specs)
    history, target = read.of_samples("item_emb_d128", Samples.of(batch))
    # The same items and folds through the table; less one mean, and of length 1.
    rows, resolved = table.of_batch(batch)
    everything = rows.features["item_emb_d128"].numpy()
    there = everything.any(axis=1)
    mean = everything[there].mean(axis=0)
    for found, ids in ((history, resolved.history.values), (target, resolved.target)):
        expected = everything[ids.numpy()] - mean
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)
