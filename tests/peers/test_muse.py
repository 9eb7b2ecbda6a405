"""MUSE against loops over items and embeddings, in numpy."""

import numpy as np
import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from model_zoo.MUSE import MUSE
from tests.helpers.peer_inputs import (
    VECTORS,
    feature_map,
    linear,
    mlp,
    numbers,
    peer,
    read_rows,
    scores,
    sigmoid,
    softmax,
)

TIERS = 6


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors; 0 where one is missing."""
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return 0.0 if lengths == 0 else a @ b / lengths


def expected(model, vectors: list[str]) -> np.ndarray:
    weights, width, found = numbers(model), model.item_dim, []
    ends = np.cumsum([width, *(VECTORS[name] for name in vectors)])
    for context, target, history in read_rows(model):
        x_t, x_s = target[:width], history[:, :width]
        count = np.zeros((len(vectors), TIERS))
        score = np.zeros(len(history))
        for s, item in enumerate(history):
            # W_k is stored from the right: its transpose.
            keys = item[:width] @ numbers(model.key)["weight"]
            alike = linear(model.query, x_t) @ keys / np.sqrt(len(keys))
            score[s] = weights["score"][0] * alike
            for e in range(len(vectors)):
                part = slice(ends[e], ends[e + 1])
                r = cosine(target[part], item[part])
                score[s] += weights["similarity"][e] * r + weights["product"][e] * alike * r
                if target[part].any() and item[part].any():
                    count[e, min(int((r + 1) / 2 * TIERS), TIERS - 1)] += 1
        pooled = softmax(score) @ x_s if len(history) else np.zeros(width)
        found.append(mlp(model.mlp, np.concatenate([context, x_t, pooled, np.log1p(count).ravel()]))[0])
    return sigmoid(np.array(found))


@pytest.mark.parametrize("vectors", [["text"], ["text", "image"]])
def test_scores_are_the_formula(vectors):
    model = peer(MUSE, feature_map(vectors=tuple(vectors)), attention_dim=3, similarity_tiers=TIERS)
    np.testing.assert_allclose(scores(model), expected(model, vectors), rtol=1e-5, atol=1e-6)


def test_an_item_with_the_targets_vector_is_in_the_last_tier():
    model = peer(MUSE, feature_map(vectors=("text",)), similarity_tiers=TIERS)
    target = torch.zeros(1, model.item_dim + VECTORS["text"])
    target[0, -VECTORS["text"] :] = torch.tensor([0.6, 0.8, 0, 0, 0])
    history = torch.stack([target, -target], dim=1)
    found = model.interest(target, history, torch.ones(1, 2, dtype=torch.bool))[0, -TIERS:]
    torch.testing.assert_close(found, torch.tensor([1.0, 0, 0, 0, 0, 1]).log1p())


def test_it_needs_a_pretrained_embedding():
    with pytest.raises(ConfigError, match="no item feature has `type: embedding`"):
        peer(MUSE, feature_map(vectors=()))
