"""HSTU against loops over heads and pairs of items, in numpy."""

import numpy as np
import pytest
import torch

from model_zoo.HSTU import HSTU
from tests.helpers.peer_inputs import (
    PARAMS,
    ROWS,
    feature_map,
    layer_norm,
    linear,
    mlp,
    numbers,
    peer,
    read_rows,
    scores,
    sigmoid,
    triple,
)


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def layer_of(layer, x: np.ndarray, heads: int) -> np.ndarray:
    u, v, q, k = np.split(silu(linear(layer.uvqk, layer_norm(layer.norm, x))), 4, axis=-1)
    bias = numbers(layer)["bias"]
    size = v.shape[1] // heads
    pooled = np.zeros_like(v)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            for j in range(i + 1):
                weight = silu(q[i, part] @ k[j, part] + bias[min(i - j, len(bias) - 1)]) / len(x)
                pooled[i, part] += weight * v[j, part]
    return x + linear(layer.out, layer_norm(layer.norm_pooled, pooled) * u)


def expected(model, heads: int) -> np.ndarray:
    found = []
    for context, target, history in read_rows(model):
        x = np.concatenate([history, target[None]])
        for layer in model.layers:
            x = layer_of(layer, x, heads)
        mean = x[:-1].mean(axis=0) if len(history) else np.zeros_like(target)
        found.append(mlp(model.mlp, np.concatenate([context, target, x[-1], mean]))[0])
    return sigmoid(np.array(found))


@pytest.mark.parametrize(("layers", "max_len"), [(1, 9), (3, 1)])
def test_scores_are_the_formula(layers, max_len):
    model = peer(HSTU, num_layers=layers, num_heads=2, head_dim=3, max_len=max_len)
    np.testing.assert_allclose(scores(model), expected(model, 2), rtol=1e-5, atol=1e-6)


def test_no_item_reads_a_newer_one():
    model = peer(HSTU, num_layers=2)
    x_BND = torch.randn(1, 5, model.item_dim, requires_grad=True)
    place_N = torch.arange(5)
    away_NN = place_N[:, None] - place_N
    found = x_BND
    for layer in model.layers:
        found = layer(found, (away_NN >= 0)[None] / 5, away_NN.clamp(min=0))
    (gradient,) = torch.autograd.grad(found[0, 2].sum(), x_BND)
    assert gradient[0, :3].abs().sum(dim=1).min() > 0
    assert gradient[0, 3:].abs().max() == 0


def test_a_new_model_starts_as_the_mean_of_the_history():
    model = HSTU(feature_map(), **PARAMS).eval()
    _, target_BD, history_BTD, mask_BT = model.read(triple(ROWS, slots=4))
    mean_BD = history_BTD.sum(dim=1) / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    found = model.interest(target_BD, history_BTD, mask_BT)
    torch.testing.assert_close(found, torch.cat([target_BD, mean_BD], dim=1))
