"""Quadratic layers: formula, folding, the block written by hand, dropout masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from model_zoo.QIN import quadratic_block
from model_zoo.QIN.dropout import Dropout
from model_zoo.QIN.quadratic import QuadraticLayer, QuadraticNetwork

EXACT = {"rtol": 1e-9, "atol": 1e-9}
ROWS, WIDTH = 10, 6


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 4 rows, so that a small batch is cut as a large one is."""
    monkeypatch.setattr(quadratic_block, "BLOCK_ROWS", 4)


def network(**options) -> QuadraticNetwork:
    torch.manual_seed(0)
    net = QuadraticNetwork(WIDTH, **{"num_layers": 3, "dropout": 0.0, **options}).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return net


def step(net: QuadraticNetwork, form: str, *, seed: int = 4) -> dict[str, torch.Tensor]:
    """Logits, the gradient of the input and of every parameter, and the buffers afterwards."""
    net = copy.deepcopy(net)
    torch.manual_seed(1)
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(ROWS, 1, dtype=torch.float64)
    torch.manual_seed(seed)
    logit = net(x, form=form)
    (logit * weight).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    return {"logit": logit.detach(), "x": x.grad, **grads, **{f"buffer {n}": b for n, b in net.named_buffers()}}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("activation", ["prelu", "relu"])
@pytest.mark.parametrize("num_row", [1, 2, 3, 4])
def test_fast_equals_plain(num_row, activation, batch_norm, dropout, training):
    net = network(num_row=num_row, activation=activation, batch_norm=batch_norm, dropout=dropout).train(training)
    plain, fast = step(net, "plain"), step(net, "fast")
    assert plain.keys() == fast.keys()
    for name in plain:
        torch.testing.assert_close(fast[name], plain[name], **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("activation", ["prelu", "relu"])
def test_scoring_equals_plain(activation, batch_norm):
    net = network(activation=activation, batch_norm=batch_norm).eval()
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x, form="fast"), net(x, form="plain"), **EXACT)
        net.layer[0].linear[0].weight.mul_(1.5)
        torch.testing.assert_close(net(x, form="fast"), net(x, form="plain"), **EXACT)


def test_identity_of_the_folded_rows():
    """x * sum_r (W_r x + b_r) = x * ((sum_r W_r) x + sum_r b_r)."""
    torch.manual_seed(0)
    layer = QuadraticLayer(WIDTH, num_row=4, dropout=0.1).double().eval()
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    weight, bias = layer.folded()
    torch.testing.assert_close(x * (x @ weight.t() + bias), layer(x), **EXACT)


def test_batch_norm_needs_two_rows():
    with pytest.raises(ValueError, match="at least 2 rows"):
        network()(torch.randn(1, WIDTH, dtype=torch.float64))


def test_dropout_keeps_the_mean_of_the_product():
    layer = QuadraticLayer(WIDTH, num_row=3, dropout=0.3)
    x = torch.randn(1, WIDTH).expand(40_000, WIDTH)
    with torch.no_grad():
        draws = layer(x)
        expected = layer.eval()(x[:1])[0]
    error = (draws.mean(0) - expected).abs()
    assert (error < 5 * draws.std(0) / len(draws) ** 0.5).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_the_rate_and_no_correlation(p):
    drop = Dropout(p)
    torch.manual_seed(0)
    mask = drop.draw((1001, 1003), torch.device("cpu")).double().numpy()
    rate = 1 - mask.mean()
    assert rate == pytest.approx(p, abs=5 * (p * (1 - p) / mask.size) ** 0.5)
    assert drop.scale * mask.mean() == pytest.approx(1, abs=0.01)
    flat = mask.ravel()
    for lag in (1, 2, 3, 4, 1003):
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 5 / flat.size**0.5


def test_masks_follow_the_seed():
    drop = Dropout(0.3)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(drop.draw((50, 3), torch.device("cpu")))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_mask_of_any_size_can_be_drawn():
    drop = Dropout(0.5)
    assert [drop.draw((n,), torch.device("cpu")).numel() for n in (0, 1, 5, 8)] == [0, 1, 5, 8]


def test_the_mask_is_the_derivative():
    drop = Dropout(0.5)
    x = torch.ones(100, requires_grad=True)
    y = drop(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert set(y.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_row": 0}, "got 4 and 0"), ({"activation": "tanh"}, "'tanh'"), ({"dropout": -0.1}, "-0.1")],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        QuadraticNetwork(WIDTH, **options)
