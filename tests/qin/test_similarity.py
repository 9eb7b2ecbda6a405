"""Similarities of QIN, in the attention and as a histogram: against loops, both forms and layouts, what is refused."""

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
from model_zoo.QIN.similarity import Similarity, histogram
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


def expected_histogram(table: Table, batch: Batch) -> np.ndarray:
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
    expected = expected_histogram(model.item_table, batch)
    assert (expected > 0).any(axis=0).sum() >= TIERS
    _, item_dict, mask = as_longctr(batch, model.item_table, max_len=9)
    for items in (RowItems.of_batch(batch, model.item_table), RowItems.of_triple(item_dict, mask)):
        np.testing.assert_allclose(histogram(model.similarity(items), items.history, tiers=TIERS), expected, rtol=1e-6)


def test_a_target_finds_itself_and_its_opposite():
    similarity = Similarity(vector(2))
    features = {"vector": torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])}
    items = RowItems(features, torch.tensor([1, 3]), Jagged(torch.tensor([1, 4, 2, 3, 1]), torch.tensor([0, 4, 5])))
    found = histogram(similarity(items), items.history, tiers=4).expm1()
    # The second target has no embedding; nor has item 3, which the first row holds beside two alike and one opposite.
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))


def test_what_all_items_share_is_taken_out():
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((50, 8)) + 5).float()
    vectors[0] = 0
    rows = RowItems({"vector": vectors}, torch.arange(1, 50), Jagged(torch.arange(1, 50).flip(0), torch.arange(50)))
    similarity = Similarity(vector(8))
    assert (similarity(rows).values_NE > 0).all()  # all seem alike
    similarity.fit(rows.features)
    assert 0.3 < (similarity(rows).values_NE < 0).float().mean() < 0.7


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


IN_SCORES = {"attention_similarity": True, "similarity_tiers": 0}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"networks": 2},
        {"pooling": "mean", "interaction": "mlp"},
        {"attention_similarity": True},
        *({**IN_SCORES, "attention_activation": activation} for activation in ACTIVATIONS),
    ],
)
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
    if "attention_similarity" in options:
        assert found[0]["attention_layers.similarity"].all()
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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weights_of_the_attention_are_the_formula_over_scores_and_cosines(activation):
    model, batch = example(**IN_SCORES, attention_activation=activation)
    layer = model.attention_layers
    with torch.no_grad():
        layer.similarity.copy_(torch.tensor([0.7, -1.3]))
    weights = model.attention_weights(batch)
    target_BD, ((_, history),) = model._read(batch, model._columns(batch)).interests(model.item_vectors)
    vectors = {name: model.item_table.features[name].double().numpy() for name in GIVEN}
    means = {name: np.mean([v for v in values if v.any()], axis=0) for name, values in vectors.items()}
    w_q, w_k = (getattr(layer, f"W_{name}").weight.detach().double().numpy() for name in "qk")
    offsets = batch.history.offsets.tolist()
    for b in range(len(batch)):
        ids = batch.history.values[offsets[b] : offsets[b + 1]].tolist()
        slots = history.slots.values[offsets[b] : offsets[b + 1]]
        scores = []
        for item, slot in zip(ids, slots, strict=True):
            query, key = w_q @ target_BD[b].detach().numpy(), w_k @ history.items_UD[slot].detach().numpy()
            score = query @ key * layer.scale
            for name, gain in zip(GIVEN, (0.7, -1.3), strict=True):
                t, s = vectors[name][int(batch.target[b])], vectors[name][item]
                if t.any() and s.any():
                    t, s = t - means[name], s - means[name]
                    score += gain * (t @ s) / np.sqrt((t @ t) * (s @ s))
            scores.append(score)
        scores = np.array(scores)
        expected = {
            "relu": lambda s: np.maximum(s, 0),
            "softmax": lambda s: np.exp(s) / np.exp(s).sum(),
            "relu_mean": lambda s: np.maximum(1 + s, 0) / len(s),
        }[activation](scores)
        np.testing.assert_allclose(weights.values[offsets[b] : offsets[b + 1]], expected, rtol=1e-5, atol=1e-6)


def test_a_new_model_weighs_items_by_their_similarity():
    """Products of embeddings start near 0, so a new model's scores are the cosines: `relu_mean` is a weighted mean."""
    model, batch = example(**IN_SCORES, attention_activation="relu_mean")
    model.attention_layers.W_q.weight.data.zero_()
    model.attention_layers.similarity.data.copy_(SparseTargetAttention(4, attention_dim=2, similarities=2).similarity)
    cosines = model.similarity(RowItems.of_batch(batch, model.item_table)).values_NE.double().sum(dim=1)
    share = 1 / batch.history.lengths[batch.history.row_index()]
    torch.testing.assert_close(model.attention_weights(batch).values, (1 + cosines).relu() * share)


@pytest.mark.parametrize("tiers", [1, -2, 5000])
def test_tiers_that_make_no_histogram_are_refused(tiers):
    with pytest.raises(ConfigError, match=f"similarity_tiers must be 0 .none. or 2 to 1000, got {tiers}"):
        small_qin(similarity_tiers=tiers)


@pytest.mark.parametrize("options", [{"similarity_tiers": 4}, {"attention_similarity": True}])
def test_similarities_need_a_pretrained_embedding(options):
    with pytest.raises(ConfigError, match="no item feature has `type: embedding`"):
        small_qin(feature_map(given={}), **options)


def test_a_mean_has_no_scores_to_add_to():
    with pytest.raises(ConfigError, match="attention_similarity is part of attention scores: set pooling to attention"):
        small_qin(pooling="mean", attention_similarity=True)
