"""Experiments on datasets of several behaviours and event features, and on flat ones: QIN, and LongCTR's DIN."""

import logging

import numpy as np
import pytest

from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.experiment import Experiment
from tests.helpers import rich_experiments


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return rich_experiments.write(tmp_path_factory.mktemp("kinds"))


def trained_one_epoch(config, expid, *overrides):
    """The model and a loader of train, after an epoch of our batches."""
    experiment = Experiment.load(config, expid, overrides=overrides)
    feature_map = experiment.feature_map()
    model, to_inputs = experiment.build_model(feature_map)
    loader = experiment.split_loader("train", feature_map, model.device)
    model._steps_per_epoch, model._max_gradient_norm = len(loader), 10.0
    model.train()
    for index, batch in enumerate(loader):
        model._batch_index = index
        assert np.isfinite(model.train_step(to_inputs(batch)).item())
    return model.eval(), to_inputs, loader


def test_qin_reads_every_behaviour_and_events_where_they_are_asked_for(config):
    model, to_inputs, loader = trained_one_epoch(config, "QIN_rich", "event_features=all")
    assert [behaviour.name for behaviour in model.fields.behaviours] == ["history", "carts", "buys"]
    assert set(model.behaviour_attention) == {"carts", "buys"}
    assert model.fields.events == ("age", "page")
    batch = to_inputs(next(iter(loader)))
    for name, history in {"history": batch.history, **batch.behaviours}.items():
        weights = model.attention_weights(batch, name)
        assert weights.offsets.equal(history.offsets)
    plain, _, loader = trained_one_epoch(config, "QIN_rich")
    assert plain.fields.events == ()
    batch = next(iter(loader))
    assert batch.history.events == {}
    assert not {"age", "page"} & batch.features.keys()


def test_event_features_that_a_dataset_lacks_are_named(config):
    with pytest.raises(ConfigError, match=r"dataset 'rich' has no event feature 'pages'. Did you mean 'page'"):
        trained_one_epoch(config, "QIN_rich", "event_features=[pages]")
    with pytest.raises(ConfigError, match=r"dataset 'flat' has no event feature 'age'. It has none"):
        trained_one_epoch(config, "QIN_flat", "event_features=[age]")


def test_longctr_reads_the_first_behaviour(config, caplog):
    with caplog.at_level(logging.INFO):
        trained_one_epoch(config, "DIN_rich", "event_features=all")
    assert "DIN reads the first kind of history alone, not carts, buys" in caplog.text
    assert "DIN reads age, page of the target alone" in caplog.text


@pytest.mark.parametrize("model", ["QIN", "DIN"])
def test_flat_datasets_are_read_by_the_sequences_that_share_an_embedding(config, model):
    trained, to_inputs, loader = trained_one_epoch(config, f"{model}_flat")
    batch = next(iter(loader))
    assert trained.forward(to_inputs(batch))["y_pred"].shape == (len(batch), 1)
    if model == "QIN":
        (history,) = trained.fields.behaviours
        assert (history.fields, history.columns) == (("item",), ("items",))
        weights = trained.attention_weights(batch)
        assert weights.lengths.tolist() == (batch.features["items"] != 0).sum(dim=1).tolist()


def test_the_store_says_what_a_feature_map_alone_does_not(config):
    """Its items have no histories: FuxiCTR's `source: item` in a flat dataset does not make any."""
    experiment = Experiment.load(config, "QIN_flat")
    assert experiment.feature_map().behaviours == ()
    assert Store.open(config.parent, "flat").manifest.item_col is None
    rich = Experiment.load(config, "QIN_rich").feature_map()
    assert rich.behaviours == ("history", "carts", "buys")
