"""QIN once more, from the formulas, in float64 NumPy with loops over rows; and small models and data to compare with.

Nothing here calls the model's own layers: parameters come from the state dict, by their published names.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.batch import Batch, Jagged
from model_zoo.QIN import QIN

BN_EPS = 1e-5


def feature_map(
    *, items: int = 23, tags: int = 9, levels: int = 11, given: dict[str, int] | None = None, max_tags: int = 5
) -> FeatureMap:
    """The challenge's features at any size; `given` maps names of pretrained embeddings to their widths."""
    categorical = {"source": "", "type": "categorical", "padding_idx": 0}
    found = FeatureMap("toy", "unused")
    found.features = OrderedDict(
        user_id={"source": "", "type": "meta"},
        likes_level={**categorical, "vocab_size": levels},
        views_level={**categorical, "vocab_size": levels},
        item_id={**categorical, "source": "item", "vocab_size": items},
        item_tags={
            "source": "item",
            "type": "sequence",
            "feature_encoder": "layers.MaskedAveragePooling()",
            "padding_idx": 0,
            "vocab_size": tags,
            "max_len": max_tags,
        },
    )
    for name, width in ({"item_emb_d128": 6} if given is None else given).items():
        found.features[name] = {"source": "item", "type": "embedding", "pretrain_dim": width}
    found.labels = ["label"]
    found.group_id = "user_id"
    found.num_fields = found.get_num_fields()
    return found


class Table:
    """An item table of plain tensors; row 0 is padding."""

    def __init__(self, features: dict[str, torch.Tensor]) -> None:
        self.features = features
        self.num_items = len(features["item_id"])
        self.device = torch.device("cpu")

    def to(self, device: object) -> Table:
        return self

    def of_batch(self, batch: Batch) -> tuple[Table, Batch]:
        return self, batch

    def gather(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: value[ids.reshape(-1).long()] for name, value in self.features.items()}


def item_table(features: FeatureMap, rng: np.random.Generator) -> Table:
    """Random item features; some items have fewer tags, one has none."""
    specs = features.features
    count = specs["item_id"]["vocab_size"]
    tags = rng.integers(1, specs["item_tags"]["vocab_size"], (count, specs["item_tags"]["max_len"]))
    for item in range(count):
        tags[item, : item % (tags.shape[1] + 1)] = 0
    tags[0] = 0
    table = {"item_id": torch.arange(count, dtype=torch.int32), "item_tags": torch.from_numpy(tags).int()}
    for name, spec in specs.items():
        if spec["type"] == "embedding":
            values = rng.standard_normal((count, spec["pretrain_dim"])).astype(np.float32)
            values[0] = 0
            table[name] = torch.from_numpy(values)
    return Table(table)


def random_batch(features: FeatureMap, rng: np.random.Generator, *, rows: int, max_len: int = 6) -> Batch:
    """Rows with histories of 0 to `max_len` items; the first row has none, the second is full."""
    items = features.features["item_id"]["vocab_size"]
    levels = features.features["likes_level"]["vocab_size"]
    lengths = rng.integers(0, max_len + 1, rows)
    lengths[:2] = (0, max_len)[:rows]
    offsets = np.concatenate([[0], lengths.cumsum()])

    def draw(low: int, high: int, count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(low, high, count)).int()

    return Batch(
        features={
            "user_id": torch.arange(rows, dtype=torch.int32),
            "likes_level": draw(0, levels, rows),
            "views_level": draw(0, levels, rows),
            "label": torch.from_numpy(rng.integers(0, 2, rows).astype(np.uint8)),
        },
        target=draw(1, items, rows),
        history=Jagged(draw(1, items, int(offsets[-1])), torch.from_numpy(offsets)),
        group=torch.arange(rows, dtype=torch.int32),
    )


def small_qin(features: FeatureMap | None = None, *, seed: int = 0, **options: object) -> QIN:
    """A float64 QIN of a few thousand weights with an item table; weights are of order 1, so that errors show."""
    features = feature_map() if features is None else features
    torch.manual_seed(seed)
    defaults = {"embedding_dim": 4, "num_layers": 2, "num_row": 3, "net_dropout": 0.0, "embedding_regularizer": 0.01}
    model = QIN(features, verbose=0, **{**defaults, **options}).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding_layers" in name:
                parameter[1:] = torch.randn_like(parameter[1:])
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    for encoder in model.embedding_layer.embedding_layer.feature_encoders.values():
        if isinstance(encoder, torch.nn.Linear):
            # FuxiCTR hands given embeddings over in float32, whatever the precision of the model.
            encoder.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    model.attach(item_table(features, np.random.default_rng(seed)))
    return model


def reference_logits(model: QIN, batch: Batch, *, training: bool = False) -> np.ndarray:
    """Logits (B,) of the published model, dropout off, any activation and pooling."""
    state = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    embedding = "embedding_layer.embedding_layer.embedding_layers."
    encoder = "embedding_layer.embedding_layer.feature_encoders."
    table = {name: value.numpy() for name, value in model.item_table.features.items()}

    def item_vector(item: int) -> np.ndarray:
        parts = []
        for name, spec in model.feature_map.features.items():
            if spec.get("source") != "item":
                continue
            if spec["type"] == "categorical":
                parts.append(state[f"{embedding}{name}.weight"][table[name][item]])
            elif spec["type"] == "sequence":
                tags = [t for t in table[name][item] if t]
                vectors = state[f"{embedding}{name}.weight"]
                parts.append(np.mean([vectors[t] for t in tags], axis=0) if tags else np.zeros(vectors.shape[1]))
            else:
                parts.append(state[f"{encoder}{name}.weight"] @ table[name][item].astype(np.float64))
        return np.concatenate(parts)

    rows = []
    offsets = batch.history.offsets.tolist()
    for b in range(len(batch)):
        target = item_vector(int(batch.target[b]))
        history = [item_vector(int(i)) for i in batch.history.values[offsets[b] : offsets[b + 1]]]
        context = [
            state[f"{embedding}{name}.weight"][int(batch.features[name][b])] for name in ("likes_level", "views_level")
        ]
        rows.append(np.concatenate([*context, target, _pool(model, state, target, history)]))
    x = np.stack(rows)
    for i in range(len(model.qnn.layer)):
        x = _layer(state, f"qnn.{{}}.{i}.", x, rows=model.qnn.layer[i].num_row, training=training)
    return x @ state["qnn.fc.weight"][0] + state["qnn.fc.bias"][0]


def _pool(model: QIN, state: dict, target: np.ndarray, history: list[np.ndarray]) -> np.ndarray:
    if "attention_layers.W_q.weight" not in state:
        return np.mean(history, axis=0) if history else np.zeros_like(target)
    w_q, w_k, w_v, w_o = (state[f"attention_layers.W_{name}.weight"] for name in "qkvo")
    q = w_q @ target
    scores = np.array([q @ (w_k @ h) / np.sqrt(len(q)) for h in history])
    weights = {
        "relu": lambda s: np.maximum(s, 0),
        "softmax": lambda s: np.exp(s) / np.exp(s).sum(),
    }[model.attention_layers.activation](scores)
    pooled = sum((a * (w_v @ h) for a, h in zip(weights, history, strict=True)), np.zeros(len(q)))
    return w_o @ pooled + target


def _layer(state: dict, name: str, x: np.ndarray, *, rows: int, training: bool) -> np.ndarray:
    width = x.shape[1]
    weight = state[name.format("layer") + "linear.0.weight"].reshape(rows, width, width)
    bias = state[name.format("layer") + "linear.0.bias"].reshape(rows, width)
    y = x * sum(x @ weight[r].T + bias[r] for r in range(rows))
    norm = name.format("norm")
    if norm + "weight" in state:
        mean, var = (y.mean(0), y.var(0)) if training else (state[norm + "running_mean"], state[norm + "running_var"])
        y = (y - mean) / np.sqrt(var + BN_EPS) * state[norm + "weight"] + state[norm + "bias"]
    slope = state.get(name.format("activation") + "weight", np.zeros(1))[0]
    return x + np.where(y > 0, y, slope * y)
