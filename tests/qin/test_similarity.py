"""Similarities of QIN: against loops, both forms and layouts, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.attention import SparseTargetAttention
from model_zoo.QIN.attention_weights import ACTIVATIONS
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.similarity import Similarity
from tests.helpers.reference_qin import Table, feature_map, item_table, random_batch, small_qin

GIVEN = {"item_emb_d128": 6, "item_title": 3}
WEIGH = {
    "relu": lambda s: np.maximum(s, 0),
    "softmax": lambda s: np.exp(s) / np.exp(s).sum(),
    "relu_mean": lambda s: np.maximum(1 + s, 0) / len(s),
}


def example(**options):
    features = feature_map(given=GIVEN)
    model = small_qin(features, attention_similarity=True, **options)
    for name in GIVEN:  # two items lack it
        model.item_table.features[name][[4, 9]] = 0
    model.similarity.fitted.fill_(False)
    model.attach(model.item_table)
    return model, random_batch(features, np.random.default_rng(3), rows=40)


def vector(width: int) -> dict[str, dict]:
    return {"vector": {"type": "embedding", "source": "item", "pretrain_dim": width}}


def expected_cosines(table: Table, batch: Batch) -> np.ndarray:
    """Item by item, (N, E), in float64."""
    means = {name: np.mean([v for v in table.features[name].double().numpy() if v.any()], axis=0) for name in GIVEN}
    found = []
    for row, item in zip(batch.history.row_index().tolist(), batch.history.values.tolist(), strict=True):
        cosines = []
        for name in GIVEN:
            vectors = table.features[name].double().numpy()
            t, s = vectors[int(batch.target[row])], vectors[item]
            there = t.any() and s.any()
            t, s = t - means[name], s - means[name]
            cosines.append(t @ s / np.sqrt((t @ t) * (s @ s)) if there else 0.0)
        found.append(cosines)
    return np.array(found)


def test_cosines_are_the_formula_in_both_layouts():
    model, batch = example()
    expected = expected_cosines(model.item_table, batch)
    assert (expected == 0).any()
    _, item_dict, mask = as_longctr(batch, model.item_table, max_len=9)
    for items in (RowItems.of_batch(batch, model.item_table), RowItems.of_triple(item_dict, mask)):
        np.testing.assert_allclose(model.similarity(items), expected, rtol=1e-5, atol=1e-6)


def test_a_target_finds_itself_and_its_opposite():
    features = {"vector": torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])}
    items = RowItems(features, torch.tensor([1, 3]), Jagged(torch.tensor([1, 4, 2, 3, 1]), torch.tensor([0, 4, 5])))
    # The second target has no embedding; nor has item 3.
    assert Similarity(vector(2))(items).squeeze(1).tolist() == [1, 1, -1, 0, 0]


def test_what_all_items_share_is_taken_out():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((50, 8)) + 5).float()
    vectors[0] = 0
    rows = RowItems({"vector": vectors}, torch.arange(1, 50), Jagged(torch.arange(1, 50).flip(0), torch.arange(50)))
    similarity = Similarity(vector(8))
    assert (similarity(rows) > 0).all()  # all seem alike
    similarity.fit(rows.features)
    assert 0.3 < (similarity(rows) < 0).float().mean() < 0.7


def test_the_means_are_those_of_the_table_that_the_model_was_trained_with():
    model, _ = example()
    other = Table({name: value.clone() for name, value in model.item_table.features.items()})
    for name in GIVEN:
        other.features[name][1:] += 1
    kept = model.similarity.mean_item_title.clone()
    loaded = small_qin(model.feature_map, attention_similarity=True)
    loaded.load_state_dict(model.state_dict())
    for one in (model, loaded):
        one.attach(other)
        assert torch.equal(one.similarity.mean_item_title, kept)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fast_equals_plain_in_values_and_gradients(activation):
    model, batch = example(attention_activation=activation)
    plain = copy.deepcopy(model)
    plain.form = "plain"
    found = []
    for one in (model, plain):
        result = one.forward(batch)
        one.compute_loss(result, one.get_labels(batch)).backward()
        found.append({"logit": result["logit"], **{n: p.grad for n, p in one.named_parameters() if p.grad is not None}})
    assert found[0]["attention_layers.similarity"].all()
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-7, msg=name)


def test_without_similarities_nothing_is_added():
    model = small_qin()
    assert model.similarity is None
    assert not any("similarity" in name for name in model.state_dict())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_of_the_attention_are_the_formula_over_scores_and_cosines(activation):
    model, batch = example(attention_activation=activation)
    layer, gains = model.attention_layers, np.array([0.7, -1.3])
    layer.similarity.data.copy_(torch.from_numpy(gains))
    weights = model.attention_weights(batch).values
    target_BD, ((_, history),) = model._read(batch, model._columns(batch)).interests(model.item_vectors)
    targets, items = target_BD.detach().numpy(), history.items_UD.detach().numpy()
    w_q, w_k = (getattr(layer, f"W_{name}").weight.detach().double().numpy() for name in "qk")
    cosines, offsets = expected_cosines(model.item_table, batch), batch.history.offsets.tolist()
    for b in range(len(batch)):
        slots = range(offsets[b], offsets[b + 1])
        scores = [
            (w_q @ targets[b]) @ (w_k @ items[history.slots.values[n]]) * layer.scale + gains @ cosines[n]
            for n in slots
        ]
        expected = WEIGH[activation](np.array(scores))
        np.testing.assert_allclose(weights[slots.start : slots.stop], expected, rtol=1e-5, atol=1e-6)


def test_a_new_model_weighs_items_by_their_similarity():
    """Products of embeddings start near 0, so a new model's scores are the cosines: `relu_mean` is a weighted mean."""
    model, batch = example(attention_activation="relu_mean")
    model.attention_layers.W_q.weight.data.zero_()
    model.attention_layers.similarity.data.copy_(SparseTargetAttention(4, attention_dim=2, similarities=2).similarity)
    cosines = torch.from_numpy(expected_cosines(model.item_table, batch)).sum(dim=1)
    share = 1 / batch.history.lengths[batch.history.row_index()]
    torch.testing.assert_close(
        model.attention_weights(batch).values, (1 + cosines).relu() * share, rtol=1e-5, atol=1e-6
    )


def test_similarity_is_learnt_where_nothing_else_decides():
    """Clicks on what is like the history: with the cosines a look at the pooled history is enough."""
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
    for reads in (False, True):
        torch.manual_seed(0)
        model = small_qin(
            features,
            attention_similarity=reads,
            attention_activation="relu_mean",
            learning_rate=0.01,
            embedding_regularizer=0,
        )
        model.attach(table)
        for _ in range(60):
            losses[reads] = model.train_step(batch).item()
    assert losses[True] < 0.8 * losses[False]


def test_similarities_need_a_pretrained_embedding():
    with pytest.raises(ConfigError, match="no item feature has `type: embedding`"):
        small_qin(feature_map(given={}), attention_similarity=True)


def test_a_mean_has_no_scores_to_add_to():
    with pytest.raises(ConfigError, match="attention_similarity is part of attention scores: set pooling to attention"):
        small_qin(pooling="mean", attention_similarity=True)
