"""Embedding distinct items once is FuxiCTR's own computation: the same losses, weights and scores."""

import itertools
from pathlib import Path

import pytest
import torch
from fuxictr.pytorch.layers import FeatureEmbedding
from fuxictr.pytorch.torch_utils import seed_everything
from torch import nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo.distinct_items import DistinctItems
from fuxictr_multimodal.zoo.models import longctr_models

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.mark.parametrize("model", [*longctr_models(), "MUSE"])
def test_losses_gradients_and_scores_are_those_of_every_slot(data_root, monkeypatch, model):
    settings = [f"data_root={data_root}", "verbose=0", "dataset_id=Synthetic_test", "batch_size=128", "embedding_dim=4"]
    loaded = Experiment.load(CONFIG, f"{model}_demo", overrides=[*settings, "embedding_regularizer=1.e-3"])
    feature_map = loaded.feature_map()
    batch, other = itertools.islice(loaded.loaders("train", feature_map, "cpu")[0], 2)

    def run():
        seed_everything(1)
        network, to_inputs = loaded.build_model(feature_map)
        for parameter in network.parameters():
            parameter.data.mul_(3)  # initial embeddings are so small that any item looks alike
        inputs = to_inputs(batch)
        loss = network.compute_loss(network(inputs), network.get_labels(inputs))
        loss.backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        network.eval()
        with torch.no_grad():
            return to_inputs, loss, gradients, network(to_inputs(other))["y_pred"]

    to_inputs, *fast = run()
    assert isinstance(to_inputs, DistinctItems)
    monkeypatch.setattr(DistinctItems, "of", lambda *args, **kwargs: None)
    to_inputs, *plain = run()
    assert not isinstance(to_inputs, DistinctItems)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


class Embeds(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding_layer = layer


def test_only_the_items_of_the_batch_are_embedded(feature_map):
    seen = []
    model = Embeds(FeatureEmbedding(feature_map, 2))
    model.embedding_layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0]["item_id"])))
    table = ItemTable({"item_id": torch.arange(9)})
    to_inputs = DistinctItems.of(model, table, max_len=3, padding="pre")
    values = torch.tensor([4, 4, 7], dtype=torch.int32)
    batch = Batch({}, torch.tensor([7, 2], dtype=torch.int32), Jagged(values, torch.tensor([0, 3, 3])))
    _, items, mask = to_inputs(batch)
    spread = model.embedding_layer(items, flatten_emb=True)
    weight = model.embedding_layer.embedding_layer.embedding_layers["item_id"].weight
    assert seen == [4]  # 0, 2, 4, 7
    assert torch.equal(spread, weight[[4, 4, 7, 7, 0, 0, 0, 2]])
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0]]
    other = {"item_id": torch.tensor([1, 2])}
    assert torch.equal(model.embedding_layer(other, flatten_emb=True), weight[[1, 2]])


def test_a_layer_that_mixes_rows_or_draws_is_left_alone(feature_map):
    table = ItemTable({"item_id": torch.arange(9)})
    assert DistinctItems.of(nn.Linear(1, 1), table, max_len=3, padding="pre") is None
    feature_map.features["item_id"]["feature_encoder"] = "nn.Dropout(0.5)"
    model = Embeds(FeatureEmbedding(feature_map, 2))
    assert DistinctItems.of(model, table, max_len=3, padding="pre") is None


@pytest.fixture
def feature_map():
    from fuxictr.features import FeatureMap

    made = FeatureMap("Made_up", ".")
    made.features["item_id"] = {"type": "categorical", "source": "item", "vocab_size": 9, "padding_idx": 0}
    return made
