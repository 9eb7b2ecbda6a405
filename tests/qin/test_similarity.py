"""Similarity tiers of QIN: against loops over rows, both forms and layouts, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.similarity import SimilarityTiers
from tests.helpers.reference_qin import Table, feature_map, item_table, random_batch, small_qin

GIVEN = {"item_emb_d128": 6, "item_title": 3}
TIERS = 5


def example(**options):
    features = feature_map(given=GIVEN)
    model = small_qin(features, **{"similarity_tiers": TIERS, **options})
    for name in GIVEN:  # two items lack it
        model.item_table.features[name][[4, 9]] = 0
    model.similarity.fitted.fill_(False)
    model.attach(model.item_table)
    return model, random_batch(features, np.random.default_rng(3), rows=40)


def vector(width: int) -> dict[str, dict]:
    return {"vector": {"type": "embedding", "source": "item", "pretrain_dim": width}}


def histogram(table: Table, batch: Batch) -> np.ndarray:
    """log(1 + c) row by row, item by item, in float64."""
    rows = []
    offsets = batch.history.offsets.tolist()
    for b in range(len(batch)):
        parts = []
        for name in GIVEN:
            vectors = table.features[name].double().numpy()
            there = [v for v in vectors if v.any()]
            mean = sum(there) / len(there)
            counts = np.zeros(TIERS)
            target = vectors[int(batch.target[b])]
            for item in batch.history.values[offsets[b] : offsets[b + 1]].tolist():
                if target.any() and vectors[item].any():
                    t, s = target - mean, vectors[item] - mean
                    cosine = t @ s / np.sqrt((t @ t) * (s @ s))
                    counts[min(int((cosine + 1) / 2 * TIERS), TIERS - 1)] += 1
            parts.append(np.log(1 + counts))
        rows.append(np.concatenate(parts))
    return np.array(rows)


def test_the_histogram_is_the_formula_in_both_layouts():
    model, batch = example()
    expected = histogram(model.item_table, batch)
    assert (expected > 0).any(axis=0).sum() >= TIERS
    of_batch = model.similarity(RowItems.of_batch(batch, model.item_table))
    _, item_dict, mask = as_longctr(batch, model.item_table, max_len=9)
    of_triple = model.similarity(RowItems.of_triple(item_dict, mask))
    np.testing.assert_allclose(of_batch, expected, rtol=1e-6)
    np.testing.assert_allclose(of_triple, expected, rtol=1e-6)


def test_a_target_finds_itself_and_its_opposite():
    tiers = SimilarityTiers(vector(2), tiers=4)
    features = {"vector": torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])}
    items = RowItems(features, torch.tensor([1, 3]), Jagged(torch.tensor([1, 4, 2, 3, 1]), torch.tensor([0, 4, 5])))
    found = tiers(items).expm1()
    # The second target has no embedding; nor has item 3, which the first row holds beside two alike and one opposite.
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))


def test_what_all_items_share_is_taken_out():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((50, 8)) + 5).float()
    vectors[0] = 0
    rows = RowItems({"vector": vectors}, torch.arange(1, 50), Jagged(torch.arange(1, 50).flip(0), torch.arange(50)))
    tiers = SimilarityTiers(vector(8), tiers=2)
    assert (tiers(rows)[:, 0] == 0).all()  # all seem alike
    tiers.fit(rows.features)
    assert 0.3 < (tiers(rows)[:, 0] > 0).float().mean() < 0.7


def test_the_means_are_those_of_the_table_that_the_model_was_trained_with():
    model, _ = example()
    other = Table({name: value.clone() for name, value in model.item_table.features.items()})
    for name in GIVEN:
        other.features[name][1:] += 1
    kept = model.similarity.mean_item_title.clone()
    loaded = small_qin(model.feature_map, similarity_tiers=TIERS)
    loaded.load_state_dict(model.state_dict())
    for one in (model, loaded):
        one.attach(other)
        assert torch.equal(one.similarity.mean_item_title, kept)


@pytest.mark.parametrize("options", [{}, {"networks": 2}, {"pooling": "mean", "interaction": "mlp"}])
def test_fast_equals_plain_in_values_and_gradients(options):
    model, batch = example(mlp_hidden_units=[7], **options)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    found = []
    for one in (model, plain):
        result = one.forward(batch)
        one.compute_loss(result, one.get_labels(batch)).backward()
        found.append({"logit": result["logit"], **{n: p.grad for n, p in one.named_parameters() if p.grad is not None}})
    assert found[0]["similarity_map.weight" if options == {} else "logit"].any()
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-7, msg=name)


def test_without_tiers_nothing_is_added():
    model = small_qin()
    assert model.similarity is None
    assert not any("similarity" in name for name in model.state_dict())


def test_the_tiers_are_learnt_where_only_similarity_decides():
    """Clicks on what is like the history: with the histogram a linear look is enough."""
    features = feature_map(items=300, given={"item_emb_d128": 6})
    rng = np.random.default_rng(0)
    table = item_table(features, rng)
    batch = random_batch(features, rng, rows=2000)
    vectors = table.features["item_emb_d128"].numpy()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    rows = np.repeat(np.arange(2000), batch.history.lengths.numpy())
    cosine = (unit[batch.history.values.numpy()] * unit[batch.target.numpy()[rows]]).sum(1)
    close = np.bincount(rows, cosine > 0.5, minlength=2000) > 0
    batch = Batch({**batch.features, "label": torch.from_numpy(close.astype(np.uint8))}, batch.target, batch.history)
    losses = {}
    for tiers in (0, 20):
        torch.manual_seed(0)
        model = small_qin(features, similarity_tiers=tiers, learning_rate=0.01, embedding_regularizer=0)
        model.attach(table)
        for _ in range(60):
            losses[tiers] = model.train_step(batch).item()
    assert losses[20] < 0.5 * losses[0]


def test_one_tier_is_refused():
    with pytest.raises(ConfigError, match="similarity_tiers must be 0 .none. or at least 2, got 1"):
        small_qin(similarity_tiers=1)


def test_tiers_need_a_pretrained_embedding():
    with pytest.raises(ConfigError, match="no item feature has `type: embedding`"):
        small_qin(feature_map(given={}), similarity_tiers=4)
