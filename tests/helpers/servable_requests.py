"""Made-up requests for a `Servable`, the same rows as a `Batch`, and its graph in ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.serving.onnx_operators import translations
from fuxictr_multimodal.zoo.servable import Servable


@dataclass(frozen=True)
class Requests:
    """Requests with the same number of candidates.

    Attributes:
        inputs: what the graph reads, in its order.
        batch: row r * C + c is candidate c of request r.
        shape: (R, C).
    """

    inputs: dict[str, Tensor]
    batch: Batch
    shape: tuple[int, int]


def draw_requests(
    servable: Servable, feature_map: FeatureMap, *, requests: int, candidates: int, slots: int, seed: int = 0
) -> Requests:
    """Random requests with histories of 0 to `slots` items; the first of several has none, the last one all."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    items = len(next(iter(servable.items.values()))) if servable.items else 0
    width = servable.fixed_slots or slots
    ids, masks, events = {}, {}, {}
    for behaviour in servable.behaviours:
        lengths = integers(0, min(width, slots) + 1, requests)
        lengths[0], lengths[-1] = 0, min(width, slots)
        place = torch.arange(width)
        mask = place >= width - lengths[:, None] if servable.padding == "pre" else place < lengths[:, None]
        ids[behaviour], masks[behaviour] = integers(1, max(items, 2), requests, width) * mask, mask
    target = integers(1, max(items, 2), requests, candidates)
    found, columns = {}, {}
    for given in servable.inputs:
        kind, *rest = given.name.split(".")
        if kind == "context":
            spec = feature_map.features[rest[0]]
            shape = (requests, *(size for size in given.dims[1:] if isinstance(size, int)))
            of_numbers = given.dtype == "float32"
            value = torch.rand(shape, generator=generator) if of_numbers else integers(0, spec["vocab_size"], *shape)
            columns[rest[0]] = found[given.name] = value
        elif kind == "candidates":
            found[given.name] = servable.items[rest[0]][target]
        elif rest[1] == "mask":
            found[given.name] = masks[rest[0]]
        elif rest[1] == "items":
            found[given.name] = servable.items[rest[2]][ids[rest[0]]]
        else:
            codes = integers(1, feature_map.features[rest[2]]["vocab_size"], requests, width) * masks[rest[0]]
            found[given.name] = events.setdefault(rest[0], {})[rest[2]] = codes
    rows = torch.arange(requests).repeat_interleave(candidates if servable.items else 1)
    histories = {name: _jagged(ids[name][rows], masks[name][rows], rows, events.get(name, {})) for name in ids}
    main, *others = histories.values() or [Jagged.empty(len(rows))]
    batch = Batch(
        features={name: values[rows] for name, values in columns.items()},
        target=target.flatten().int() if servable.items else torch.zeros(requests, dtype=torch.int32),
        history=main,
        behaviours=dict(zip(servable.behaviours[1:], others, strict=True)),
    )
    return Requests(found, batch, (requests, candidates if servable.items else 1))


def _jagged(ids: Tensor, mask: Tensor, rows: Tensor, events: dict[str, Tensor]) -> Jagged:
    by_name = {name: codes[rows][mask].int() for name, codes in events.items()}
    return Jagged.from_lengths(ids[mask].int(), mask.sum(dim=1), by_name)


def model_scores(model: nn.Module, to_inputs, requests: Requests) -> np.ndarray:
    """Scores of the model itself, (R, C), by the door through which it was trained.

    Rows come twice: DIEN fails on a batch with one history.
    """
    rows = len(requests.batch)
    with torch.no_grad():
        scores = model(to_inputs(requests.batch.take(torch.arange(2 * rows) % rows)))["y_pred"]
    return scores[:rows].view(requests.shape).numpy()


def graph_scores(servable: Servable, requests: Requests) -> np.ndarray:
    """Scores of the graph, (R, C)."""
    with torch.no_grad():
        return servable.graph(*requests.inputs.values()).numpy()


def onnx_session(servable: Servable, example: Requests, path: Path):
    """The graph, traced with free sizes and opened in ONNX Runtime."""
    import onnxruntime

    program = traced(servable, example)
    names = [given.name for given in servable.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # `optimize` takes the `+ 1e-12` of an average for `+ 0`.
        torch.onnx.export(
            program,
            input_names=names,
            output_names=["scores"],
            optimize=False,
            verbose=False,
            custom_translation_table=translations(),
        ).save(path)
    return onnxruntime.InferenceSession(path)


def traced(servable: Servable, example: Requests) -> torch.export.ExportedProgram:
    """The graph with free sizes."""
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(given.dims) if isinstance(size, str)}
        for given in servable.inputs
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return torch.export.export(servable.graph, tuple(example.inputs.values()), dynamic_shapes=(free,))


def onnx_scores(session, requests: Requests) -> np.ndarray:
    """Scores of ONNX Runtime, (R, C)."""
    read = {given.name for given in session.get_inputs()}
    return session.run(None, {name: v.numpy() for name, v in requests.inputs.items() if name in read})[0]


def check_scores(
    servable: Servable,
    feature_map: FeatureMap,
    model: nn.Module,
    to_inputs,
    path: Path,
    *,
    sizes: Iterable[tuple[int, int, int]],
    traced_slots: int,
    onnx_atol: float,
) -> None:
    """Graph and ONNX Runtime give the scores of the model, for all (requests, candidates, slots)."""
    example = draw_requests(servable, feature_map, requests=2, candidates=3, slots=traced_slots)
    session = onnx_session(servable, example, path)
    for seed, (requests, candidates, slots) in enumerate(sizes):
        drawn = draw_requests(servable, feature_map, requests=requests, candidates=candidates, slots=slots, seed=seed)
        expected = model_scores(model, to_inputs, drawn)
        np.testing.assert_allclose(graph_scores(servable, drawn), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(onnx_scores(session, drawn), expected, rtol=1e-5, atol=onnx_atol)
    assert expected.std() > 1e-3


def stirred(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """The model in eval mode with weights and statistics that make every input count, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.data.normal_(0, 0.4, generator=generator)
            if module.padding_idx is not None:
                module.weight.data[module.padding_idx] = 0
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()
