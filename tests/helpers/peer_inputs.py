"""Small feature maps, triples and peers for the tests of the models beside QIN."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor

PARAMS = {"verbose": 0, "model_root": "checkpoints", "metrics": ["AUC"], "embedding_dim": 4, "hidden_units": [6]}
VECTORS = {"text": 5, "image": 3}


def feature_map(*, vectors: tuple[str, ...] = ("text", "image"), context: bool = True) -> FeatureMap:
    """Two columns of context, and items with an id, a category and pretrained embeddings."""
    made = FeatureMap("Made_up", ".")
    if context:
        made.features["user"] = {"type": "categorical", "vocab_size": 5, "source": ""}
        made.features["age"] = {"type": "numeric", "source": ""}
    made.features["item_id"] = {"type": "categorical", "source": "item", "vocab_size": 9, "padding_idx": 0}
    for name in vectors:
        made.features[name] = {"type": "embedding", "source": "item", "pretrain_dim": VECTORS[name]}
    made.features["brand"] = {"type": "categorical", "source": "item", "vocab_size": 4, "padding_idx": 0}
    made.labels, made.default_emb_dim = ["label"], 4
    return made


def peer(model_class: type, made: FeatureMap | None = None, **settings: Any) -> Any:
    """A model with weights far from their start, in evaluation mode."""
    seed_everything(3)
    model = model_class(made or feature_map(), **{**PARAMS, **settings})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
        # Row 0 of a table is padding and stays zero, as in training.
        for table in model.modules():
            if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
                table.weight[table.padding_idx] = 0
    return model.eval()


Rows = list[tuple[list[int], int]]
ROWS: Rows = [([3, 1, 7], 2), ([], 5), ([8], 8), ([2, 2, 4, 6], 1)]


def triple(rows: Rows, *, slots: int, made: FeatureMap | None = None) -> tuple[dict, dict, Tensor]:
    """Histories and targets in so many slots, filled before the items."""
    made = made or feature_map()
    items = torch.tensor([[0] * (slots - len(history)) + history + [target] for history, target in rows])
    generator = torch.Generator().manual_seed(1)
    features = {"item_id": torch.arange(9), "brand": torch.arange(9) % 3 + 1}
    features["brand"][0] = 0
    for name, width in VECTORS.items():
        features[name] = torch.randn(9, width, generator=generator)
        features[name][0] = 0
        features[name][4] = 0  # an item without a vector
    columns = {"user": torch.tensor([t % 5 for _, t in rows]), "age": torch.tensor([t / 9 for _, t in rows])}
    return (
        {name: values for name, values in columns.items() if name in made.features},
        {name: values[items.flatten()] for name, values in features.items() if name in made.features},
        (items[:, :-1] > 0).float(),
    )


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Weights of a module by name, float64."""
    return {name: weight.detach().double().numpy() for name, weight in module.named_parameters()}


def linear(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """W x + b, or W x."""
    weights = numbers(module)
    return x @ weights["weight"].T + weights.get("bias", 0)


def layer_norm(module: Any, x: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    weights = numbers(module)
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + module.eps) * weights["weight"] + weights["bias"]
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    """Of one row."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def mlp(module: Any, x: np.ndarray) -> np.ndarray:
    """FuxiCTR's `MLP_Block` with ReLU, without dropout and BatchNorm; its last activation is left out."""
    for layer in module.mlp:
        if isinstance(layer, torch.nn.Linear):
            x = linear(layer, x)
        elif isinstance(layer, torch.nn.ReLU):
            x = np.maximum(x, 0)
    return x


def read_rows(model: Any, rows: Rows = ROWS) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Context, target and history (items, width) of each row, embedded, without padding."""
    found = []
    for history, target in rows:
        # The model's table of items is that of `triple`; a row by itself has no padding but for an empty history.
        columns, items, mask = triple([(history, target)], slots=max(len(history), 1), made=model.feature_map)
        with torch.no_grad():
            context, x_t, x_s, _ = model.read((columns, items, mask))
        found.append((context[0].double().numpy(), x_t[0].double().numpy(), x_s[0, : len(history)].double().numpy()))
    return found


def scores(model: Any, rows: Rows = ROWS, *, slots: int = 4) -> np.ndarray:
    """`y_pred` of rows, (rows,)."""
    with torch.no_grad():
        return model(triple(rows, slots=slots, made=model.feature_map))["y_pred"][:, 0].numpy()
