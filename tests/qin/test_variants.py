"""QIN's variants beside the published model: activation inside the product, the self-ensemble loss, and its weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.layouts import as_longctr
from model_zoo.QIN.quadratic_heads import HeadsNetwork
from tests.helpers.reference_qin import random_batch, small_qin


def example(*, rows=11, **options):
    model = small_qin(**options)
    return model, random_batch(model.feature_map, np.random.default_rng(3), rows=rows)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_heads_are_the_formula(batch_norm, activation):
    torch.manual_seed(0)
    network = HeadsNetwork(5, num_layers=2, heads=3, dropout=0.2, batch_norm=batch_norm, activation=activation).double()
    with torch.no_grad():
        for norm in network.norm:
            if batch_norm:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    network.eval()
    x = torch.randn(7, 5, dtype=torch.float64)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    rows = x.numpy().copy()
    for layer in range(2):
        gate = np.zeros_like(rows)
        for head in range(3):
            part = slice(5 * head, 5 * head + 5)
            z = rows @ state[f"linear.{layer}.weight"][part].T + state[f"linear.{layer}.bias"][part]
            if batch_norm:
                mean, var, scale, shift = (
                    state[f"norm.{layer}.{n}"][part] for n in ("running_mean", "running_var", "weight", "bias")
                )
                z = (z - mean) / np.sqrt(var + 1e-5) * scale + shift
            slope = state[f"activation.{layer}.weight"] if activation == "prelu" else 0
            gate += np.where(z > 0, z, slope * z)
        rows += rows * gate
    expected = rows @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-10)


def test_heads_do_not_fold():
    """Two heads are no single map with the sum of their weights, as two rows are."""
    torch.manual_seed(0)
    two = HeadsNetwork(4, num_layers=1, heads=2, dropout=0, batch_norm=False, activation="relu")
    one = HeadsNetwork(4, num_layers=1, heads=1, dropout=0, batch_norm=False, activation="relu")
    with torch.no_grad():
        for name in ("weight", "bias"):
            stacked = getattr(two.linear[0], name)
            getattr(one.linear[0], name).copy_(stacked.view(2, 4, *stacked.shape[1:]).sum(0))
        one.fc.load_state_dict(two.fc.state_dict())
    x = torch.randn(9, 4)
    assert not torch.allclose(two(x), one(x), atol=1e-3)


def test_the_heads_variant_trains_and_both_inputs_agree():
    model, batch = example(quadratic_variant="heads", heads=2, net_dropout=0.1)
    assert isinstance(model.qnn, HeadsNetwork)
    losses = [float(model.train_step(batch)) for _ in range(30)]
    assert losses[-1] < losses[0]
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(batch)["logit"], model(as_longctr(batch, model.item_table))["logit"])


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"activation": "tanh"}, {"num_layers": 0}])
def test_heads_refuse_nonsense(wrong):
    with pytest.raises((ValueError, ConfigError)):
        small_qin(quadratic_variant="heads", **wrong)


def test_the_self_ensemble_loss_is_the_formula():
    model, batch = example(self_ensemble=True, net_dropout=0.3, embedding_regularizer=None)
    model.train()
    found = model(batch)
    one, two = found["parts"]
    assert not torch.equal(one, two)
    mean = (one + two) / 2
    torch.testing.assert_close(found["y_pred"], mean)
    label = model.get_labels(batch).to(mean.dtype)
    fixed = mean.detach()
    expected = F.binary_cross_entropy(mean, label)
    expected = expected + F.binary_cross_entropy(one, fixed) + F.binary_cross_entropy(two, fixed)
    loss = model.compute_loss(found, label)
    torch.testing.assert_close(loss, expected)
    weight = model.qnn.fc.weight
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight)[0])


def test_the_self_ensemble_scores_in_one_pass():
    model, batch = example(self_ensemble=True, net_dropout=0.3)
    losses = [float(model.train_step(batch)) for _ in range(30)]
    assert losses[-1] < losses[0]
    model.eval()
    with torch.no_grad():
        found = model(batch)
    assert found.keys() == {"y_pred", "logit"}
    torch.testing.assert_close(found["y_pred"], found["logit"].sigmoid())


def test_the_self_ensemble_needs_dropout():
    with pytest.raises(ConfigError, match="self_ensemble .* set net_dropout above 0"):
        small_qin(self_ensemble=True, net_dropout=0.0)


@pytest.mark.parametrize("activation", ["relu", "softmax", "relu2", "silu"])
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
    if activation in ("relu", "relu2"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"networks": 0}, "at least 1"), ({"networks": 2, "self_ensemble": True, "net_dropout": 0.1}, "networks=1")],
)
def test_wrong_numbers_of_networks_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        small_qin(**options)
