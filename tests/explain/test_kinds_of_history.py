"""Explanations of models that read several behaviours, event features, or columns alone."""

import pytest

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.explain.attention import Explainer
from fuxictr_multimodal.explain.block_importance import BlockShuffler
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.runner import run_experiment
from tests.helpers import rich_experiments


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return rich_experiments.write(tmp_path_factory.mktemp("kinds"))


def trained(config, tmp_path, expid, *overrides):
    settings = [f"model_root={tmp_path}", *overrides]
    run_experiment(config_dir=config, expid=expid, overrides=settings)
    return Experiment.load(config, expid, overrides=settings)


def test_each_behaviour_and_each_event_feature_is_a_block(config, tmp_path):
    experiment = trained(config, tmp_path, "QIN_rich", "event_features=all")
    found = BlockShuffler(experiment).measure("valid", repeats=2)
    kinds = {(block.block, block.kind) for block in found.blocks}
    assert kinds == {
        ("city", "context"),
        ("history", "history"),
        ("carts", "history"),
        ("buys", "history"),
        ("age", "event"),
        ("page", "event"),
        ("target item", "target"),
        ("item_id", "item"),
        ("tags", "item"),
    }
    assert any(fall != 0 for block in found.blocks for fall in block.falls)
    row = Explainer(experiment).row("valid", 3)
    assert len(row.items) == len(row.weights)


def test_columns_alone(config, tmp_path):
    experiment = trained(config, tmp_path, "QIN_flat")
    found = BlockShuffler(experiment).measure("valid", repeats=1)
    assert {(block.block, block.kind) for block in found.blocks} == {
        ("city", "context"),
        ("item", "context"),
        ("items", "context"),
    }
    with pytest.raises(ConfigError, match="dataset 'flat' has no items, whose weights could be shown"):
        Explainer(experiment)
