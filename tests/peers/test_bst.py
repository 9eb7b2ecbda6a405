"""BST against loops over heads and items, in numpy."""

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from model_zoo.BST import BST
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
    softmax,
    triple,
)


def attended(attention, x: np.ndarray, heads: int) -> np.ndarray:
    weights = numbers(attention)
    q, k, v = np.split(x @ weights["in_proj_weight"].T + weights["in_proj_bias"], 3, axis=-1)
    size = x.shape[1] // heads
    found = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            weight = softmax(np.array([q[i, part] @ k[j, part] / np.sqrt(size) for j in range(len(x))]))
            found[i, part] = sum(w * v[j, part] for j, w in enumerate(weight))
    return found @ weights["out_proj.weight"].T + weights["out_proj.bias"]


def expected(model, heads: int) -> np.ndarray:
    found = []
    for context, target, history in read_rows(model):
        x = np.concatenate([history, target[None]])
        position = numbers(model)["position"]
        x = x + np.array([position[min(len(x) - 1 - n, len(position) - 1)] for n in range(len(x))])
        for block in model.blocks:
            x = x + attended(block.self_attn, layer_norm(block.norm1, x), heads)
            hidden = linear(block.linear1, layer_norm(block.norm2, x))
            x = x + linear(block.linear2, np.where(hidden > 0, hidden, 0.01 * hidden))
        mean = x[:-1].mean(axis=0) if len(history) else np.zeros_like(target)
        found.append(mlp(model.mlp, np.concatenate([context, target, x[-1], mean]))[0])
    return sigmoid(np.array(found))


@pytest.mark.parametrize(("layers", "max_len"), [(1, 9), (2, 2)])
def test_scores_are_the_formula(layers, max_len):
    model = peer(BST, num_layers=layers, num_heads=4, dim_feedforward=7, max_len=max_len)
    np.testing.assert_allclose(scores(model), expected(model, 4), rtol=1e-5, atol=1e-6)


def test_a_new_model_starts_as_the_mean_of_the_history():
    """The maps that end a block start at zero, so that items keep the small scale of FuxiCTR's embeddings."""
    model = BST(feature_map(), **PARAMS).eval()
    _, target_BD, history_BTD, mask_BT = model.read(triple(ROWS, slots=4))
    mean_BD = history_BTD.sum(dim=1) / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    found = model.interest(target_BD, history_BTD, mask_BT)
    torch.testing.assert_close(found, torch.cat([target_BD, mean_BD], dim=1))


def test_the_heads_divide_the_width_of_an_item():
    with pytest.raises(ConfigError, match="num_heads=3 does not divide the width of an item, 16"):
        peer(BST, num_heads=3)
