"""The folded QIN scores samples, each with a history of its own, as the model does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.flat_qin import feature_map_of_items, qin_of, random_rows, table_of
from tests.helpers.folded_samples import as_trained, in_float32, requests_of
from tests.helpers.reference_qin import feature_map, random_batch, small_qin
from tests.qin.test_folded import OPTIONS, many_features


def compared(model, batch, **close):
    model.eval()
    with torch.no_grad():
        expected = model(batch)
    found = model.fold()(batch)
    for name in ("y_pred", "logit"):
        torch.testing.assert_close(found[name], expected[name], **close)
    assert not found["y_pred"].requires_grad


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("rows", [1, 11, 1100])  # 1,100 are two blocks of rows
def test_scores_samples_as_the_model(options, rows):
    model = as_trained(small_qin(**options))
    batch = random_batch(model.feature_map, np.random.default_rng(4), rows=rows)
    compared(model, batch, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize("behaviours", [("history",), ("history", "carts")])
def test_scores_events_and_behaviours(behaviours, pooling):
    rng = np.random.default_rng(0)
    features = feature_map_of_items(behaviours=behaviours, events=True)
    model = as_trained(qin_of(features, table=table_of(rng), event_features="all", pooling=pooling))
    compared(model, random_rows(rng, rows=13, behaviours=behaviours), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("most", [0, 1, 1024])  # values of a feature whose products are looked up
def test_context_features_are_looked_up_or_multiplied(most, monkeypatch):
    monkeypatch.setattr("model_zoo.QIN.folded_rows.LOOKED_UP", most)
    features = feature_map()
    features.features["likes_level"]["vocab_size"] = 1
    model = as_trained(small_qin(features))
    batch = random_batch(features, np.random.default_rng(4), rows=9)
    scorer = model.fold()._row_scorer
    assert list(scorer.layers.starts) == {0: [], 1: ["likes_level"], 1024: ["likes_level", "views_level"]}[most]
    compared(model, batch, rtol=1e-10, atol=1e-10)


def test_context_of_every_type():
    model = many_features(first_order=["tags", "tags*item_tags"])
    compared(model, requests_of(model, np.random.default_rng(0), requests=5, candidates=2, longest=4))


@pytest.mark.parametrize("options", [{}, {"interaction": "mlp"}])
def test_reduced_precision_stays_that_of_the_model(options):
    model = in_float32(as_trained(small_qin(precision="bf16", **options)))
    batch = random_batch(model.feature_map, np.random.default_rng(4), rows=40)
    compared(model, batch, rtol=0.05, atol=0.05)


def test_samples_of_a_file_are_scored_piece_by_piece_alike():
    model = in_float32(as_trained(small_qin()))
    batch = random_batch(model.feature_map, np.random.default_rng(4), rows=60)
    folded = model.fold()
    whole = folded(batch)["y_pred"]
    pieces = [folded(batch.take(range(start, start + 7)))["y_pred"] for start in range(0, 56, 7)]
    torch.testing.assert_close(torch.cat(pieces), whole[:56], rtol=1e-4, atol=1e-6)
