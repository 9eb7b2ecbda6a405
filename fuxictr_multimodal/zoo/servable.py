"""A model as a graph that ranks: what a folded or traced model gives to the exports.

Shape legend: R requests, each of one user; C candidates of a request; T history slots of a behaviour; N items of the
catalogue, row 0 is padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

REQUESTS, CANDIDATES, ITEMS = "requests", "candidates", "items"
Dim = int | str


@dataclass(frozen=True)
class GraphInput:
    """One tensor that a graph reads.

    Attributes:
        name: see `context`, `mask`, `history`, `event` and `candidate` below.
        dtype: `float32`, `int64` or `bool`.
        dims: a number where the size is fixed, else the name of the size.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]


def context(column: str) -> str:
    """Name of a column of the request, as the dataset encodes it, (R, ...)."""
    return f"context.{column}"


def mask(behaviour: str) -> str:
    """Name of the mask of a history, (R, T) bool, True on items."""
    return f"behaviours.{behaviour}.mask"


def history(behaviour: str, array: str) -> str:
    """Name of an array of the catalogue at the items of a history, (R, T, ...); zeros on padding."""
    return f"behaviours.{behaviour}.items.{array}"


def event(behaviour: str, column: str) -> str:
    """Name of the codes of an event feature of a history, (R, T) int64; 0 on padding."""
    return f"behaviours.{behaviour}.events.{column}"


def candidate(array: str) -> str:
    """Name of an array of the catalogue at the candidates, (R, C, ...)."""
    return f"candidates.{array}"


def slots(number: int) -> str:
    """Name of the size T of the behaviour of this number."""
    return f"slots_{number}"


def column_input(name: str, spec: Mapping[str, Any]) -> GraphInput:
    """The input of a column of the request, as the dataset encodes it.

    Args:
        name: of the column.
        spec: of the feature map.
    """
    width = {"sequence": "max_len", "embedding": "pretrain_dim"}.get(spec["type"])
    dtype = "int64" if spec["type"] in ("categorical", "sequence") else "float32"
    return GraphInput(context(name), dtype, (REQUESTS, *([spec[width]] if width else [])))


def array_input(name: str, values: Tensor, *sizes: Dim) -> GraphInput:
    """An input with the rows of an array of items, (N, ...), in place of whose N stand these sizes."""
    dtype = "float32" if values.is_floating_point() else "int64"
    return GraphInput(name, dtype, (*sizes, *values.shape[1:]))


@dataclass(frozen=True)
class Servable:
    """A trained model as a graph over requests and candidates.

    Attributes:
        graph: maps the tensors of `inputs`, in their order, to scores (R, C): probabilities in classification. It is
            in eval mode, on the CPU, and needs no gradient. A model of a dataset without items has no candidates:
            every request is a sample, and the scores are (R, 1).
        inputs: what it reads.
        items: arrays of the catalogue by name, (N, ...): float32, or int64 for codes. Row 0 is padding.
        encode_items: maps encoded features of items, the tensors of `item_inputs`, (N, ...), to the arrays of `items`
            in their order; None where the arrays are the features themselves.
        item_inputs: encoded features of items by name, as the item table holds them.
        behaviours: kinds of history, the main one first.
        fixed_slots: T of every request where the model was trained with a fixed number; None for any.
        padding: where a history is filled up: `pre` or `post`.
        only_torch: why ONNX Runtime would give other scores than the model; empty where it would not.
        folded: whether this is the model with its parts multiplied out, rather than its own forward pass.
    """

    graph: nn.Module
    inputs: Sequence[GraphInput]
    items: Mapping[str, Tensor] = field(default_factory=dict)
    encode_items: nn.Module | None = None
    item_inputs: Sequence[GraphInput] = ()
    behaviours: Sequence[str] = ()
    fixed_slots: int | None = None
    padding: str = "pre"
    only_torch: str = ""
    folded: bool = False
