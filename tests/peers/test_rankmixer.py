"""RankMixer against loops over tokens and heads, in numpy."""

import math

import numpy as np
import pytest

from model_zoo.RankMixer import RankMixer
from tests.helpers.peer_inputs import layer_norm, linear, mlp, numbers, peer, read_rows, scores, sigmoid, softmax

gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)


def mixed(x: np.ndarray) -> np.ndarray:
    tokens, width = x.shape
    size = width // tokens
    return np.array([np.concatenate([x[t, h * size : (h + 1) * size] for t in range(tokens)]) for h in range(tokens)])


def expected(model) -> np.ndarray:
    found = []
    for context, target, history in read_rows(model):
        weight = np.zeros(len(history))
        for s, item in enumerate(history):
            pair = np.concatenate([target, item, target - item, target * item])
            weight[s] = mlp(model.attention, pair)[0]
        none = np.zeros_like(target)
        mean = history.mean(axis=0) if len(history) else none
        pooled = softmax(weight) @ history if len(history) else none
        features = [*np.split(context, 2), *np.split(target, 4), mean, pooled]
        x = np.array([linear(project, part) for project, part in zip(model.tokens, features, strict=True)])
        for layer in model.layers:
            weights = numbers(layer)
            s = layer_norm(layer.norm_mixed, mixed(x) + x)
            x = np.array([
                s[t]
                + gelu(s[t] @ weights["weight1"][t] + weights["bias1"][t]) @ weights["weight2"][t]
                + weights["bias2"][t]
                for t in range(len(s))
            ])  # fmt: skip
            x = layer_norm(layer.norm, x)
        found.append(mlp(model.mlp, x.mean(axis=0))[0])
    return sigmoid(np.array(found))


@pytest.mark.parametrize(("token_dim", "width"), [(16, 16), (17, 24), (1, 8)])
def test_scores_are_the_formula(token_dim, width):
    model = peer(RankMixer, token_dim=token_dim, expansion=3, attention_hidden_units=[5])
    assert [layer.weight1.shape for layer in model.layers] == [(8, width, 3 * width)] * 2
    np.testing.assert_allclose(scores(model), expected(model), rtol=1e-5, atol=1e-6)
