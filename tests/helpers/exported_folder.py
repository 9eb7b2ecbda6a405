"""A small exported folder, made by hand: an ONNX graph whose scores are known in closed form.

Shape legend: R requests, C candidates, T slots of a history, N items, n of them encoded; D numbers of a vector.

    vector(item)      = emb(item) + KINDS[kind(item)]
    score(user, item) = sigmoid(USERS[user] . v + price / 10 + mean over the history of HOURS[hour] (h . v)
                                - mean over the carts of c . v)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

D = 4
KIND_NAMES = ("film", "song", "book")
USER_NAMES = ("ann", "bob", "cid")
_numbers = np.random.default_rng(3)
# Row 0 is padding, the last row what is outside of the vocabulary.
USERS = _numbers.normal(size=(len(USER_NAMES) + 2, D)).astype(np.float32)
KINDS = _numbers.normal(size=(len(KIND_NAMES) + 2, D)).astype(np.float32)
HOURS = _numbers.normal(size=26).astype(np.float32)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
_TYPES = {FLOAT: "float32", INT64: "int64", BOOL: "bool"}


@dataclass(frozen=True)
class Item:
    """Raw features of an item."""

    kind: str
    emb: NDArray[np.float32]

    @property
    def vector(self) -> NDArray[np.float32]:
        """What the item model makes of it, (D,)."""
        code = KIND_NAMES.index(self.kind) + 1 if self.kind in KIND_NAMES else len(KIND_NAMES) + 1
        return self.emb + KINDS[code]

    def raw(self, item_id: Any) -> dict[str, Any]:
        """As a caller gives it."""
        return {"item_id": item_id, "kind": self.kind, "emb": self.emb.tolist()}


def made_item(number: int) -> Item:
    """An item that is a function of a number."""
    numbers = np.random.default_rng(number)
    return Item(str(numbers.choice(KIND_NAMES)), numbers.normal(size=D).astype(np.float32))


def expected(
    candidates: Sequence[Item],
    *,
    user: str = "",
    price: float = 0.0,
    history: Sequence[Item] = (),
    hours: Sequence[int] | None = None,
    carts: Sequence[Item] = (),
) -> NDArray[np.float64]:
    """Scores by the formula above, one candidate after the other, (C,)."""
    code = USER_NAMES.index(user) + 1 if user in USER_NAMES else len(USER_NAMES) + 1
    scores = []
    for item in candidates:
        v = item.vector.astype(np.float64)
        z = float(USERS[code] @ v) + price / 10
        weights = [HOURS[hour + 1] for hour in (hours if hours is not None else [0] * len(history))]
        if history:
            z += float(np.mean([w * (h.vector @ v) for w, h in zip(weights, history, strict=True)]))
        if carts:
            z -= float(np.mean([c.vector @ v for c in carts]))
        scores.append(1 / (1 + np.exp(-z)))
    return np.array(scores)


def write_folder(
    path: Path,
    items: dict[Any, Item],
    *,
    storage: str = "float32",
    numbered: bool = False,
    padding: str = "pre",
    fixed_slots: int | None = None,
    max_len: int = 5,
    calibration: dict[str, Any] | None = None,
    broken: bool = False,
) -> Path:
    """Write the folder of a catalogue.

    Args:
        path: of the folder.
        items: by id, all texts or all whole numbers.
        storage: type of the vectors.
        numbered: an item's id is the number of its row, and the folder has no list of ids.
        padding: where a history is filled up.
        fixed_slots: T, or None for any.
        max_len: longest history.
        calibration: of model.json.
        broken: the graph gives NaN where a candidate's first number is above 1000.
    """
    path.mkdir(parents=True)
    slots = [fixed_slots or f"slots_{i}" for i in range(2)]
    inputs = [
        _info("context.user_id", INT64, "requests"),
        _info("context.price", FLOAT, "requests"),
        _info("behaviours.history.mask", BOOL, "requests", slots[0]),
        _info("behaviours.history.items.vector", FLOAT, "requests", slots[0], D),
        _info("behaviours.history.events.hour", INT64, "requests", slots[0]),
        _info("behaviours.carts.mask", BOOL, "requests", slots[1]),
        _info("behaviours.carts.items.vector", FLOAT, "requests", slots[1], D),
        _info("candidates.vector", FLOAT, "requests", "candidates", D),
    ]
    _save(path / "model.onnx", _graph(broken), inputs, _info("scores", FLOAT, "requests", "candidates"))
    item_inputs = [_info("kind", INT64, "items"), _info("emb", FLOAT, "items", D)]
    nodes = [_node("Gather", "KINDS", "kind", out="k"), _node("Add", "emb", "k", out="vector")]
    _save(path / "item_model.onnx", nodes, item_inputs, _info("vector", FLOAT, "items", D))
    vectors = np.stack([np.zeros(D, np.float32), *(item.vector for item in items.values())])
    save_file(_stored(vectors, storage), path / "items.safetensors")
    write_vocabulary(path, list(items), numbered=numbered)
    content = {
        "format": 1,
        "name": "made_by_hand",
        "model": "Formula",
        "dataset": "made_up",
        "engine": "onnx",
        "task": "binary_classification",
        "inputs": [_json(one) for one in inputs],
        "arrays": {"vector": {"storage": storage}},
        "item_inputs": [_json(one) for one in item_inputs],
        "behaviours": ["history", "carts"],
        "fixed_slots": fixed_slots,
        "padding": padding,
        "max_len": max_len,
        "folded": True,
        "quantised": None,
        "calibration": calibration,
        "checks": {},
        "versions": {},
    }
    (path / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def _graph(broken: bool) -> list[onnx.NodeProto]:
    nodes = [
        _node("Gather", "USERS", "context.user_id", out="u"),
        _node("Unsqueeze", "u", "AXIS_2", out="u_column"),
        _node("MatMul", "candidates.vector", "u_column", out="uv_column"),
        _node("Squeeze", "uv_column", "AXIS_2", out="uv"),
        _node("Div", "context.price", "TEN", out="p"),
        _node("Unsqueeze", "p", "AXIS_1", out="p_column"),
        _node("Add", "uv", "p_column", out="own"),
        _node("Gather", "HOURS", "behaviours.history.events.hour", out="history_weights"),
        *_mean("history"),
        _node("Cast", "behaviours.carts.mask", out="carts_weights", to=FLOAT),
        *_mean("carts"),
        _node("Add", "own", "history_mean", out="with_history"),
        _node("Sub", "with_history", "carts_mean", out="logit"),
    ]
    if not broken:
        return [*nodes, _node("Sigmoid", "logit", out="scores")]
    # The logarithm of a negative number is NaN.
    return [
        *nodes,
        _node("Gather", "candidates.vector", "FIRST", out="first", axis=2),
        _node("Sub", "LIMIT", "first", out="room"),
        _node("Log", "room", out="log"),
        _node("Mul", "log", "ZERO", out="fault"),
        _node("Sigmoid", "logit", out="fine"),
        _node("Add", "fine", "fault", out="scores"),
    ]


def _mean(behaviour: str) -> list[onnx.NodeProto]:
    """Weighted mean of h . v over the items of a history, (R, C)."""
    b = behaviour
    return [
        _node("Transpose", f"behaviours.{b}.items.vector", out=f"{b}_columns", perm=[0, 2, 1]),
        _node("MatMul", "candidates.vector", f"{b}_columns", out=f"{b}_products"),
        _node("Cast", f"behaviours.{b}.mask", out=f"{b}_there", to=FLOAT),
        _node("Mul", f"{b}_weights", f"{b}_there", out=f"{b}_used"),
        _node("Unsqueeze", f"{b}_used", "AXIS_1", out=f"{b}_row"),
        _node("Mul", f"{b}_products", f"{b}_row", out=f"{b}_weighted"),
        _node("ReduceSum", f"{b}_weighted", "AXIS_2", out=f"{b}_sum", keepdims=0),
        _node("ReduceSum", f"{b}_there", "AXIS_1", out=f"{b}_count", keepdims=1),
        _node("Max", f"{b}_count", "ONE", out=f"{b}_least"),
        _node("Div", f"{b}_sum", f"{b}_least", out=f"{b}_mean"),
    ]


_CONSTANTS = {
    "USERS": USERS,
    "KINDS": KINDS,
    "HOURS": HOURS,
    "TEN": np.float32(10),
    "ONE": np.float32(1),
    "ZERO": np.float32(0),
    "LIMIT": np.float32(1000),
    "FIRST": np.int64(0),
    "AXIS_1": np.array([1]),
    "AXIS_2": np.array([2]),
}


def _node(kind: str, *inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [out], **attributes)


def _info(name: str, dtype: int, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, dims)


def _json(info: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = info.type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": info.name, "dtype": _TYPES[tensor.elem_type], "dims": dims}


def _save(path: Path, nodes: list[onnx.NodeProto], inputs: list[Any], output: onnx.ValueInfoProto) -> None:
    read = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in _CONSTANTS.items() if k in read]
    graph = helper.make_graph(nodes, "made_by_hand", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _stored(vectors: NDArray[np.float32], storage: str) -> dict[str, NDArray]:
    if storage != "int8":
        return {"vector": vectors.astype(storage)}
    scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    return {"vector": np.rint(vectors / scale).astype(np.int8), "vector.scale": scale}


def write_vocabulary(path: Path, ids: list[Any], *, numbered: bool = False) -> None:
    """Write vocabulary.json of a catalogue of these ids."""
    content = {
        "format": 1,
        "context": [_category("user_id", USER_NAMES), {"name": "price", "kind": "number", "dtype": "float"}],
        "events": [
            {
                "name": "hour",
                "kind": "bins",
                "boundaries": list(range(1, 24)),
                "without_value": 25,
                "reads": {"history": "hour", "carts": None},
            }
        ],
        "items": {
            "column": "item_id",
            "ids": None if numbered else [None, *ids],
            "rows": len(ids) + 1,
            "features": [_category("kind", KIND_NAMES), {"name": "emb", "kind": "embedding", "width": D}],
        },
    }
    (path / "vocabulary.json").write_text(json.dumps(content), encoding="utf-8")


def _category(name: str, tokens: Sequence[str]) -> dict[str, Any]:
    oov = len(tokens) + 1
    return {"name": name, "kind": "category", "dtype": "str", "tokens": [*tokens], "oov": oov, "missing": oov}


def write_flat_folder(path: Path) -> Path:
    """Write the folder of a dataset without items: score = sigmoid(a + 2 b)."""
    path.mkdir(parents=True)
    inputs = [_info("context.a", FLOAT, "requests"), _info("context.b", FLOAT, "requests")]
    nodes = [
        _node("Add", "context.a", "context.b", out="ab"),
        _node("Add", "ab", "context.b", out="z"),
        _node("Unsqueeze", "z", "AXIS_1", out="column"),
        _node("Sigmoid", "column", out="scores"),
    ]
    _save(path / "model.onnx", nodes, inputs, _info("scores", FLOAT, "requests", "one"))
    numbers = [{"name": name, "kind": "number", "dtype": "float"} for name in "ab"]
    vocabulary = {"format": 1, "context": numbers, "events": [], "items": None}
    (path / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    content = {
        "format": 1,
        "name": "flat",
        "engine": "onnx",
        "inputs": [_json(one) for one in inputs],
        "arrays": {},
        "item_inputs": [],
        "behaviours": [],
        "fixed_slots": None,
        "padding": "pre",
        "max_len": 0,
        "calibration": None,
    }
    (path / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return path
