"""Feature dropout of QIN: what is hidden, where and when, alike in every form and layout, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from tests.helpers.reference_qin import Table, feature_map, random_batch, small_qin


def example(**options):
    features = feature_map()
    return small_qin(features, **options), random_batch(features, np.random.default_rng(3), rows=40)


def test_hidden_features_are_read_as_unknown_in_training_only():
    model, batch = example(feature_dropout={"likes_level": 0.5, "views_level": 0.5}, first_order=["likes_level"])
    context = {name: batch.features[name] for name in model.context_features}
    torch.manual_seed(0)
    seen = model.feature_dropout(context)
    there = (context["likes_level"] > 0) & (context["views_level"] > 0)
    hidden = (seen["likes_level"] == 0) & there
    assert 0.3 < hidden.float().mean() / there.float().mean() < 0.7
    assert torch.equal(hidden, (seen["views_level"] == 0) & there)  # the same rows
    assert ((seen["likes_level"] == 0) | (seen["likes_level"] == context["likes_level"])).all()
    assert context["likes_level"].any()  # what came in is not written to


@pytest.mark.parametrize("rates", [{"likes_level": 0.5}, {"item_id": 0.5}, {"likes_level": 0.5, "item_id": 0.5}])
def test_scoring_hides_nothing(rates):
    model, batch = example(feature_dropout=rates, batch_norm=False)
    without = small_qin(model.feature_map, batch_norm=False)
    without.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(batch)["logit"], without.eval()(batch)["logit"])
        # A forward pass in training, without gradients, leaves nothing behind for scoring.
        assert not torch.equal(model.train()(batch)["logit"], without.train()(batch)["logit"])
        assert torch.equal(model.eval()(batch)["logit"], without.eval()(batch)["logit"])


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("layout", ["batch", "triple"])
def test_an_item_without_its_id_has_none_as_a_target_and_in_every_history(form, layout):
    """The same logits and gradients as of a model without dropout whose item table lacks the hidden ids."""
    model, batch = example(feature_dropout={"item_id": 0.4}, first_order=["likes_level"])
    model.form = form
    torch.manual_seed(5)
    shown = model.feature_dropout.of_items(torch.device("cpu"))["item_id"]
    assert 0.3 < (~shown).float().mean() < 0.5
    without = small_qin(model.feature_map, form=form, first_order=["likes_level"])
    without.load_state_dict(model.state_dict())
    ids = model.item_table.features["item_id"]
    without.attach(Table({**model.item_table.features, "item_id": torch.where(shown, ids, 0)}))
    found = []
    for one in (model, without):
        inputs = batch if layout == "batch" else as_longctr(batch, one.item_table, max_len=9)
        torch.manual_seed(5)
        result = one.forward(inputs)
        one.compute_loss(result, one.get_labels(batch)).backward()
        found.append({"logit": result["logit"], **{n: p.grad for n, p in one.named_parameters() if p.grad is not None}})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"like_level": 0.5}, "unknown feature 'like_level'.*likes_level"),
        ({"item_tags": 0.5}, "item_tags is of items and of type sequence; of items, only categorical"),
        ({"likes_level": 1}, "likes_level must be from 0 to below 1, got 1"),
        ({"item_id": 1.0}, "item_id must be from 0 to below 1, got 1.0"),
        ({"likes_level": True}, "got True"),
    ],
)
def test_wrong_rates_are_named(rates, message):
    with pytest.raises(ConfigError, match=message):
        small_qin(feature_dropout=rates)
