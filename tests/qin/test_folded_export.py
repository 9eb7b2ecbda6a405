"""The folded graph and the encoder of items leave PyTorch: `torch.export`, and ONNX Runtime with sizes left open."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from tests.helpers.flat_qin import feature_map_of_items, qin_of, table_of
from tests.helpers.folded_samples import as_trained, in_float32, onnx_feeds, requests_of, scores_of, tensors_of
from tests.helpers.reference_qin import small_qin

TERMS = ["likes_level", "item_id", "likes_level*item_tags"]
OPTIONS = {
    "published": {},
    "everything": {
        "attention_activation": "softmax",
        "attention_similarity": True,
        "first_order": TERMS,
        "first_order_loss": "own",
    },
    "mlp and mean": {"interaction": "mlp", "pooling": "mean", "mlp_hidden_units": [6]},
}
# Weights of order 1 make large numbers in between, so that float32 shows; test_folded.py compares in float64.
CLOSE = {"rtol": 1e-4, "atol": 5e-5}
# requests, candidates, slots; of one slot all histories are empty
SIZES = [(1, 1, 1), (1, 7, 5), (3, 1, 6), (3, 7, 1), (2, 4, 11)]


def example(name: str):
    if name == "events":
        features = feature_map_of_items(behaviours=("history", "carts"), events=True)
        model = qin_of(features, table=table_of(np.random.default_rng(0)), event_features="all")
    else:
        model = small_qin(**OPTIONS[name])
    return in_float32(as_trained(model))


def samples(model, requests: int, candidates: int, slots: int):
    rng = np.random.default_rng(candidates)
    return requests_of(model, rng, requests=requests, candidates=candidates, longest=min(slots, 4), empty=slots == 1)


def dynamic_shapes(inputs):
    sizes: dict[str, torch.export.Dim] = {}
    for each in inputs:
        sizes.update({dim: torch.export.Dim(dim, min=1) for dim in each.dims if isinstance(dim, str)})
    return (tuple({k: sizes[dim] for k, dim in enumerate(each.dims) if isinstance(dim, str)} for each in inputs),)


@pytest.mark.parametrize("name", [*OPTIONS, "events"])
def test_onnx_runtime_ranks_as_the_model_scores(name, tmp_path):
    model = example(name)
    found = model.fold().servable()
    traced = tensors_of(found, samples(model, 2, 3, 5), requests=2, slots=5)
    program = torch.export.export(found.graph, traced, dynamic_shapes=dynamic_shapes(found.inputs))
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that the exporter unifies
        torch.onnx.export(
            program, (), path, input_names=[each.name for each in found.inputs], dynamo=True, verbose=False
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == [each.name for each in found.inputs]
    for requests, candidates, slots in SIZES:
        batch = samples(model, requests, candidates, slots)
        tensors = tensors_of(found, batch, requests=requests, slots=slots)
        expected = scores_of(model, batch, requests=requests)
        torch.testing.assert_close(program.module()(*tensors), expected, **CLOSE)
        (scores,) = session.run(None, onnx_feeds(found, tensors))
        np.testing.assert_allclose(scores, expected.numpy(), **CLOSE)


@pytest.mark.parametrize("name", ["published", "everything"])
def test_the_encoder_of_items_runs_in_onnx_runtime(name, tmp_path):
    model = example(name)
    found = model.fold().servable()
    table = model.item_table.features
    features = [table[each.name].long() if each.dtype == "int64" else table[each.name] for each in found.item_inputs]
    shapes = dynamic_shapes(found.item_inputs)
    program = torch.export.export(found.encode_items, tuple(each[:3] for each in features), dynamic_shapes=shapes)
    path = tmp_path / "items.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            (),
            path,
            input_names=[each.name for each in found.item_inputs],
            output_names=list(found.items),
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 9):
        feeds = {e.name: values[:count].numpy() for e, values in zip(found.item_inputs, features, strict=True)}
        for name_of, array in zip(found.items, session.run(list(found.items), feeds), strict=True):
            np.testing.assert_allclose(array, found.items[name_of][:count].numpy(), rtol=1e-5, atol=1e-6)
