"""Further behaviours, event features and flat datasets, as models of FuxiCTR read them."""

import logging

import numpy as np
import pytest
import torch
from fuxictr.pytorch.layers import FeatureEmbedding

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo import models as zoo
from fuxictr_multimodal.zoo.histories import keep_events
from fuxictr_multimodal.zoo.layouts import (
    as_flat,
    as_longctr,
    flat_feature_map,
    longctr_feature_map,
    longctr_of_columns,
)
from fuxictr_multimodal.zoo.models import ZooModel, resolve
from tests.helpers.flat_qin import (
    feature_map_of_items,
    flat_columns,
    flat_feature_map_of,
    random_rows,
    table_of,
)

TWO = ("history", "carts")
PARAMS = {
    "verbose": 0,
    "model_root": "checkpoints",
    "metrics": ["AUC"],
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "embedding_dim": 4,
    "learning_rate": 1e-3,
    "max_len": 6,
}


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_flat_columns_have_every_behaviour_and_every_event(rng):
    table, batch = table_of(rng), random_rows(rng, rows=9, behaviours=TWO)
    features = feature_map_of_items(behaviours=TWO, events=True)
    flat = flat_feature_map(features, 6, pooled=False)
    found, expected = as_flat(batch, table, flat), flat_columns(batch, table)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name].double(), values), name
    sources = {name: spec["source"] for name, spec in flat.features.items()}
    assert {sources[name] for name in ("age", "hour", "level")} == {"context"}
    assert {sources[name] for name in ("history_age", "carts_age", "carts_brand")} == {"user"}
    layers = FeatureEmbedding(flat, 4).embedding_layer.embedding_layers
    assert layers["carts_age"] is layers["age"]
    assert features.features["age"]["source"] == "event"


class DinLike(torch.nn.Module):
    def __init__(self, feature_map, din_target_field=(), din_sequence_field=(), **kwargs):
        super().__init__()


def test_each_behaviour_is_attended_to_by_itself():
    fields = ("item_id", "brand", "age", "hour")
    expected = {
        "din_target_field": [fields, fields],
        "din_sequence_field": [tuple(f"{name}_{field}" for field in fields) for name in TWO],
    }
    features = feature_map_of_items(behaviours=TWO, events=True)
    assert zoo.sequence_fields(DinLike, flat_feature_map(features, 6, pooled=False)) == expected
    flat = flat_feature_map_of(behaviours=TWO, events=True)
    flat.behaviours = ()
    assert zoo.sequence_fields(DinLike, flat_feature_map(flat, 0, pooled=False)) == expected


def test_event_features_are_those_of_the_experiment():
    def kept(event_features):
        features = feature_map_of_items(events=True)
        keep_events(features, event_features)
        assert features.num_fields == features.get_num_fields()
        return [name for name in features.features if name in ("age", "hour")]

    assert kept(None) == []
    assert kept("all") == ["age", "hour"]
    assert kept("hour") == kept(["hour"]) == ["hour"]
    with pytest.raises(ConfigError, match=r"has no event feature 'our'. Did you mean 'hour'"):
        kept(["our"])
    with pytest.raises(ConfigError, match="It has none; `event_cols` of its entry makes them"):
        keep_events(feature_map_of_items(), "all_of_them")


def build(model, features, table):
    torch.manual_seed(0)
    return ZooModel(resolve(model).model_class, "longctr").build(features, lambda device: table, PARAMS)


def test_longctr_reads_the_first_behaviour_and_says_so(rng, caplog):
    table, batch = table_of(rng), random_rows(rng, rows=9, behaviours=TWO)
    features = feature_map_of_items(behaviours=TWO, events=True)
    features.default_emb_dim = 4
    with caplog.at_level(logging.INFO):
        model, to_inputs = build("DIN", features, table)
    assert "DIN reads the first kind of history alone, not carts" in caplog.text
    assert "DIN reads age, hour of the target alone" in caplog.text
    assert torch.isfinite(model(to_inputs(batch))["y_pred"]).all()


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("max_len", [None, 6, 9])
def test_the_triple_of_flat_columns_is_that_of_the_items(rng, padding, max_len):
    table, batch = table_of(rng), random_rows(rng, rows=9)
    found, pairs = longctr_feature_map(flat_feature_map_of())
    assert pairs == [("item_id", "history_item_id"), ("brand", "history_brand")]
    assert [name for name, spec in found.features.items() if spec["source"] == "item"] == ["item_id", "brand"]
    for filled in ("pre", "post"):
        columns = flat_columns(batch, table, padding=filled)
        context, items, mask = longctr_of_columns(columns, pairs, max_len=max_len, padding=padding)
        _, expected, expected_mask = as_longctr(batch, table, max_len=max_len, padding=padding)
        assert torch.equal(mask, expected_mask)
        assert items.keys() == expected.keys()
        assert all(torch.equal(items[name].long(), expected[name].long()) for name in items)
        assert "history_item_id" not in context
        assert torch.equal(context["level"], columns["level"])


@pytest.mark.parametrize("model", ["DIN", "DIEN", "SIM"])
def test_longctr_models_train_on_flat_columns(rng, model):
    table, batch = table_of(rng), random_rows(rng, rows=9)
    features = flat_feature_map_of(behaviours=TWO, events=True)
    features.behaviours, features.default_emb_dim = (), 4
    network, to_inputs = build(model, features, None)
    batch.features.update(
        {k: v.long() for k, v in flat_columns(random_rows(rng, rows=9, behaviours=TWO), table).items()}
    )
    network._batch_index, network._steps_per_epoch, network._max_gradient_norm = 0, 1, 10.0
    before = [parameter.clone() for parameter in network.parameters()]
    assert torch.isfinite(network.train_step(to_inputs(batch)))
    assert any(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_longctr_without_histories_says_what_to_add():
    features = flat_feature_map_of(behaviours=())
    features.behaviours = ()
    with pytest.raises(ConfigError, match=r"'flat' has neither: add `item_data` and `history_col` .*share_embedding"):
        build("DIN", features, None)
