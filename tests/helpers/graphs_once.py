"""Graphs of exports, each traced once: the file of an equal graph is copied, since to trace it takes seconds."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fuxictr_multimodal.serving.graphs import write_graph

_files: dict[str, bytes] = {}


def write_graph_once(
    engine: str, graph: Any, inputs: Sequence[Any], outputs: Sequence[str], path: Path, *, model: str
) -> None:
    """Write a graph as `write_graph` does; one that is equal in every weight and attribute is traced no second time."""
    content = io.BytesIO()
    torch.save((engine, graph, inputs, outputs), content)
    key = hashlib.sha256(content.getbuffer()).hexdigest()
    if key in _files:
        path.write_bytes(_files[key])
        return
    before = set(path.parent.iterdir())
    write_graph(engine, graph, inputs, outputs, path, model=model)
    if set(path.parent.iterdir()) - before == {path}:
        _files[key] = path.read_bytes()
