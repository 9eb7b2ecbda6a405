"""The folded QIN ranks as the trained model scores: every option, several requests, empty histories, new items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import InputError
from model_zoo.QIN import QIN
from tests.helpers.flat_qin import feature_map_of_items, flat_feature_map_of, qin_of, table_of
from tests.helpers.folded_samples import as_trained, in_float32, requests_of, scores_of, tensors_of
from tests.helpers.reference_qin import feature_map, small_qin

TERMS = ["likes_level", "item_id", "item_tags", "likes_level*item_tags", "item_id*item_tags", "likes_level*views_level"]
TWO = ("history", "carts")
OPTIONS = {
    "published": {},
    "relu": {"activation": "relu"},
    "no norm": {"batch_norm": False},
    "one layer": {"num_layers": 1},
    "softmax": {"attention_activation": "softmax"},
    "mean": {"pooling": "mean"},
    "attention width": {"attention_dim": 3},
    "mlp": {"interaction": "mlp", "mlp_hidden_units": [7, 5]},
    "mlp without norm": {"interaction": "mlp", "mlp_hidden_units": [7], "batch_norm": False},
    "linear": {"interaction": "mlp", "mlp_hidden_units": []},
    "mean and mlp": {"pooling": "mean", "interaction": "mlp", "mlp_hidden_units": [6]},
    "terms": {"first_order": TERMS},
    "terms of items": {"first_order": ["item_id"]},
    "terms of requests": {"first_order": ["likes_level"]},
    "terms with their own loss": {"first_order": TERMS, "first_order_loss": "own", "first_order_share": 0.3},
    "averaged terms": {"first_order": TERMS, "first_order_averaging": 0.9},
    "similarity": {"attention_similarity": True, "attention_activation": "relu_mean"},
    "similarity and mlp": {"attention_similarity": True, "interaction": "mlp", "mlp_hidden_units": [6]},
    "everything": {
        "attention_similarity": True,
        "first_order": TERMS,
        "first_order_loss": "own",
        "attention_activation": "softmax",
    },
    "feature dropout": {"feature_dropout": {"likes_level": 0.5, "item_id": 0.5}},
    "contrastive": {"contrastive_loss": 2.0},
    "regression": {"task": "regression", "loss": "mse_loss", "metrics": []},
}


def ranked(model: QIN, *, requests: int = 3, candidates: int = 7, longest: int = 6, empty: bool = False, **how):
    """Scores of the folded graph and of the model."""
    rng = np.random.default_rng(2)
    batch = requests_of(model, rng, requests=requests, candidates=candidates, longest=longest, empty=empty)
    found = model.fold().servable()
    with torch.no_grad():
        scores = found.graph(*tensors_of(found, batch, requests=requests, **how))
    return scores, scores_of(model, batch, requests=requests)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ranks_as_the_model_scores(options):
    model = as_trained(small_qin(**options))
    scores, expected = ranked(model)
    assert expected.std() > 1e-5
    # Cosines are float32.
    exact = 1e-7 if "attention_similarity" in options else 1e-10
    torch.testing.assert_close(scores, expected, rtol=exact, atol=exact)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize("behaviours", [("history",), TWO])
def test_events_and_behaviours(behaviours, pooling, activation):
    features = feature_map_of_items(behaviours=behaviours, events=True)
    options = {"event_features": "all", "attention_activation": activation, "pooling": pooling}
    model = as_trained(qin_of(features, table=table_of(np.random.default_rng(0)), **options))
    scores, expected = ranked(model)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


def many_features(**options) -> QIN:
    """Context of every type, one of them a sequence; pretrained embeddings of items and of the context."""
    features = feature_map(given={"item_emb_d128": 6, "item_title": 3})
    features.features.update(
        price={"source": "", "type": "numeric"},
        tags={
            "source": "",
            "type": "sequence",
            "feature_encoder": "layers.MaskedAveragePooling()",
            "padding_idx": 0,
            "vocab_size": 5,
            "max_len": 3,
        },
        query={"source": "", "type": "embedding", "pretrain_dim": 4},
    )
    return in_float32(as_trained(small_qin(features, **options)))


@pytest.mark.parametrize("options", [{}, {"first_order": ["tags", "tags*item_tags", "tags*likes_level"]}])
def test_context_of_every_type(options):
    scores, expected = ranked(many_features(**options))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


def test_without_context():
    features = feature_map()
    for name in ("likes_level", "views_level"):
        del features.features[name]
    for options in ({}, {"pooling": "mean"}, {"interaction": "mlp"}):
        scores, expected = ranked(as_trained(small_qin(features, **options)))
        torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("slots", [None, 9])
def test_empty_histories(activation, slots):
    model = as_trained(small_qin(attention_activation=activation, attention_similarity=True))
    scores, expected = ranked(model, empty=True, slots=slots)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"attention_activation": "softmax"}, {"pooling": "mean"}])
def test_padding_changes_nothing(options):
    model = as_trained(small_qin(**options))
    narrow, _ = ranked(model)
    wide, _ = ranked(model, slots=13, padding=3.0)
    torch.testing.assert_close(wide, narrow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 1)])
def test_one_request_or_one_candidate(shape):
    model = as_trained(small_qin(first_order=TERMS))
    requests, candidates = shape
    scores, expected = ranked(model, requests=requests, candidates=candidates)
    assert scores.shape == shape
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


def test_items_that_are_added_are_encoded_as_the_catalogue():
    model = as_trained(small_qin(first_order=TERMS, attention_similarity=True))
    found = model.fold().servable()
    assert [each.name for each in found.item_inputs] == ["item_id", "item_tags", "item_emb_d128"]
    assert [each.dims for each in found.item_inputs] == [("items",), ("items", 5), ("items", 6)]
    rows = torch.tensor([3, 0, 11, 3])
    with torch.no_grad():
        arrays = found.encode_items(*(model.item_table.features[each.name][rows] for each in found.item_inputs))
    assert len(arrays) == len(found.items)
    for (name, values), array in zip(found.items.items(), arrays, strict=True):
        torch.testing.assert_close(array, values[rows], rtol=1e-12, atol=1e-12, msg=name)


def test_the_catalogue_is_the_models_vectors_a_piece_at_a_time(monkeypatch):
    model = as_trained(small_qin(first_order=TERMS, attention_similarity=True))
    whole = model.fold().servable().items
    monkeypatch.setattr("model_zoo.QIN.folded_items.PIECE", 5)
    pieces = model.fold().servable().items
    assert list(whole) == ["vector", "direction_item_emb_d128", "first_order", "code_item_tags"]
    with torch.no_grad():
        expected = model.item_vectors.embed(model.item_table.features)
    torch.testing.assert_close(whole["vector"], expected, rtol=1e-10, atol=1e-10)
    for name, values in whole.items():
        torch.testing.assert_close(values, pieces[name], rtol=1e-12, atol=1e-12)
        assert len(values) == model.item_table.num_items
    assert whole["code_item_tags"].dtype == torch.int64


def test_weights_are_those_of_the_moment():
    model = as_trained(small_qin())
    folded = model.fold()
    before = folded.servable().graph
    rng = np.random.default_rng(2)
    batch = requests_of(model, rng, requests=2, candidates=3, longest=4)
    tensors = tensors_of(folded.servable(), batch, requests=2)
    with torch.no_grad():
        first = before(*tensors)
        for parameter in model.qnn.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(before(*tensors), first, rtol=0, atol=0)
        again = model.fold().servable().graph(*tensors)
    torch.testing.assert_close(again, scores_of(model, batch, requests=2), rtol=1e-10, atol=1e-10)


def test_folding_leaves_gradients_and_training_alone():
    model = small_qin(net_dropout=0.1)
    graph = model.fold().servable().graph
    assert not model.training
    assert not any(p.requires_grad for p in graph.network.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_flat_datasets_and_models_without_items_do_not_fold():
    flat = qin_of(flat_feature_map_of())
    with pytest.raises(InputError, match="flat: score with the model"):
        flat.fold()
    with pytest.raises(InputError, match="attach"):
        qin_of(feature_map_of_items()).fold()
