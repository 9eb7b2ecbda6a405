"""QIN's variants beside the published model: weights of other poolings, and several networks."""

import numpy as np
import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from tests.helpers.reference_qin import random_batch, small_qin


def example(*, rows=11, **options):
    model = small_qin(**options)
    return model, random_batch(model.feature_map, np.random.default_rng(3), rows=rows)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_attention_weights_are_those_that_pool_the_history(activation):
    model, batch = example(attention_activation=activation)
    model.eval()
    nn.init.normal_(model.attention_layers.W_q.weight)  # some scores of each sign
    weights = model.attention_weights(batch)
    assert weights.offsets.tolist() == batch.history.offsets.tolist()
    with torch.no_grad():
        items, mask = as_longctr(batch, model.item_table)[1:]
        target, history = model.item_vectors.padded(items, mask)
        attention = model.attention_layers
        for row, (start, stop) in enumerate(zip(weights.offsets, weights.offsets[1:], strict=False)):
            vectors = history.vectors_BTD[row][history.mask_BT[row]]
            pooled = (weights.values[start:stop, None] * attention.W_v(vectors)).sum(0)
            expected = attention(target[row : row + 1], type(history)(vectors[None], torch.ones(1, len(vectors)) > 0))
            torch.testing.assert_close(attention.W_o(pooled) + target[row], expected[0])
    if activation == "relu":
        assert 0 < (weights.values == 0).sum() < len(weights.values)


def test_weights_of_mean_pooling():
    model, batch = example(pooling="mean")
    lengths = batch.history.lengths
    weights = model.attention_weights(batch)
    assert weights.values.tolist() == pytest.approx([1 / n for n in lengths.tolist() for _ in range(n)])


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_several_networks_are_that_many_models_side_by_side(form):
    model, batch = example(networks=3, form=form, embedding_regularizer=None)
    single, _ = example(form=form, embedding_regularizer=None)
    found = model(batch)
    label = model.get_labels(batch)
    model.compute_loss(found, label).backward()
    logits, losses = [], []
    prefixes = ["", "other_networks.0.", "other_networks.1."]
    for prefix in prefixes:
        names = {name: prefix + name for name in single.state_dict()}
        state = model.state_dict()
        single.load_state_dict({name: state[whole] for name, whole in names.items()})
        single.zero_grad()
        alone = single(batch)
        loss = single.compute_loss(alone, label)
        loss.backward()
        logits.append(alone["logit"].detach())
        losses.append(loss.item())
        gradients = dict(model.named_parameters())
        for name, parameter in single.named_parameters():
            torch.testing.assert_close(gradients[prefix + name].grad, parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
    assert not torch.allclose(logits[0], logits[1])
    torch.testing.assert_close(found["logit"].detach(), torch.stack(logits).mean(dim=0))
    assert model.compute_loss(found, label).item() == pytest.approx(sum(losses))
    assert sum(p.numel() for p in model.parameters()) == 3 * sum(p.numel() for p in single.parameters())
    expected = []
    with torch.no_grad():
        for network in model.networks:
            target, history = network.item_vectors.of_batch(batch, model.item_table)
            expected.append(network.attention_layers.weights(target, history))
    torch.testing.assert_close(model.attention_weights(batch).values, sum(expected) / 3)


def test_networks_and_first_order_terms_halve_the_logit():
    model, batch = example(networks=2, first_order=["item_id"], first_order_loss="own")
    model.first_order.bias.data.fill_(2.0)
    with torch.no_grad():
        found = model(batch)
    assert found["parts"].shape == (3, len(batch), 1)
    logits = torch.logit(found["parts"])
    torch.testing.assert_close(found["logit"], (logits[:2].mean(dim=0) + logits[2]) / 2)


def test_rowwise_updates_cover_the_tables_of_all_networks():
    model, _ = example(networks=2, embedding_update="rowwise", rowwise_min_rows=20)
    assert sorted(model.rowwise_tables) == ["item_id of network 1", "item_id of network 2"]


def test_a_wrong_number_of_networks_is_named():
    with pytest.raises(ConfigError, match="networks must be at least 1"):
        small_qin(networks=0)
