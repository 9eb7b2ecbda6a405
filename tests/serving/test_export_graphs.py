"""Graphs as files: equal to the model at every size in both engines, and one sentence where a model does not trace."""

import builtins
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.serving import graphs
from fuxictr_multimodal.serving.graphs import check_engine, write_graph
from fuxictr_multimodal.serving.runtime.engines import SUFFIXES, Input, engine_of
from fuxictr_multimodal.zoo.servable import REQUESTS, GraphInput
from tests.helpers.folded_samples import as_trained, in_float32
from tests.helpers.made_servable import ITEM_ROWS, TEXT, made_inputs, made_servable
from tests.helpers.reference_qin import small_qin
from tests.helpers.small_compile import UNCHECKED, small_compile

SIZES = [(1, 1, (1, 1)), (3, 1, (4, 2)), (2, 30, (1, 17)), (1, 300, (64, 3))]


def opened(path, inputs):
    return engine_of(path, [Input(given.name, given.dtype, given.dims) for given in inputs], threads=1)


def assert_equal_at_every_size(path, servable):
    engine = opened(path, servable.inputs)
    for requests, candidates, slots in SIZES:
        tensors = made_inputs(servable, requests=requests, candidates=candidates, slots=slots)
        expected = servable.graph(*tensors.values()).numpy()
        (found,) = engine.run({name: tensor.numpy() for name, tensor in tensors.items()})
        assert found.shape == (requests, candidates)
        assert np.abs(found - expected).max() < 2e-6, (requests, candidates, slots)


def test_onnx_equals_the_graph_at_every_size_and_says_nothing(tmp_path, capfd):
    servable, path = made_servable(), tmp_path / "model.onnx"
    write_graph("onnx", servable.graph, servable.inputs, ["scores"], path, model="Made")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert_equal_at_every_size(path, servable)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_names_and_open_sizes_are_in_the_onnx_file(tmp_path):
    import onnx

    servable, path = made_servable(), tmp_path / "model.onnx"
    write_graph("onnx", servable.graph, servable.inputs, ["scores"], path, model="Made")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    found = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    assert found == {given.name: tuple(given.dims) for given in servable.inputs}
    assert [output.name for output in model.graph.output] == ["scores"]
    assert {entry.version for entry in model.opset_import if not entry.domain} == {graphs.OPSET}


def test_the_encoder_of_items_is_a_graph_too(tmp_path):
    servable, path = made_servable(), tmp_path / "item_model.onnx"
    write_graph("onnx", servable.encode_items, servable.item_inputs, ["vector"], path, model="Made")
    text, tag = torch.randn(3, TEXT), torch.tensor([0, 6, 2])
    (found,) = opened(path, servable.item_inputs).run({"text": text.numpy(), "tag": tag.numpy()})
    assert np.abs(found - servable.encode_items(text, tag).numpy()).max() < 1e-6
    assert len(servable.items["vector"]) == ITEM_ROWS


def test_codes_that_an_encoder_hands_on_keep_the_names_of_inputs(tmp_path):
    """In ONNX, one value has one name: an input that is an output too would have that of the output."""
    model = small_qin(first_order=["likes_level", "likes_level*item_tags", "views_level*item_id"])
    found = in_float32(as_trained(model)).fold().servable()
    outputs = [f"items.{name}" for name in found.items]
    path = tmp_path / "item_model.onnx"
    write_graph("onnx", found.encode_items, found.item_inputs, outputs, path, model="QIN")
    inputs = [Input(each.name, each.dtype, tuple(each.dims)) for each in found.item_inputs]
    table = {each.name: model.item_table.features[each.name].numpy().astype(each.dtype) for each in inputs}
    arrays = engine_of(path, inputs, threads=1).run(table)
    assert [name for name in found.items if name.startswith("code_")] == ["code_item_id", "code_item_tags"]
    for array, expected in zip(arrays, found.items.values(), strict=True):
        np.testing.assert_allclose(array, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_weights_above_the_limit_of_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "ONE_FILE_BYTES", 1000)
    servable, path = made_servable(), tmp_path / "model.onnx"
    write_graph("onnx", servable.graph, servable.inputs, ["scores"], path, model="Made")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert_equal_at_every_size(path, servable)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
def test_a_compiled_package_equals_the_graph_and_loads_with_torch_alone(tmp_path):
    servable, path = made_servable(), tmp_path / "model.pt2"
    with small_compile():
        write_graph("torch", servable.graph, servable.inputs, ["scores"], path, model="Made")
    assert_equal_at_every_size(path, servable)
    tensors = made_inputs(servable, requests=1, candidates=3, slots=(2, 2))
    torch.save(list(tensors.values()), tmp_path / "tensors.pt")
    code = (
        "import sys, json, torch\n"
        "sys.modules.update(dict.fromkeys(['fuxictr', 'fuxictr_multimodal', 'model_zoo', 'ray', 'onnx']))\n"
        "package = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "print(json.dumps(package(*torch.load(sys.argv[2])).tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "tensors.pt"],
        cwd="/", env={**os.environ, **UNCHECKED}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert np.abs(np.array(json.loads(done.stdout)) - servable.graph(*tensors.values()).numpy()).max() < 2e-6


def test_scores_near_0_and_1_keep_their_order(tmp_path):
    """ONNX Runtime's own sigmoid takes all of the low ones for one."""

    class Saturated(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x.reshape(-1, 1)).reshape(x.shape)

    inputs = [GraphInput("x", "float32", (REQUESTS, "candidates"))]
    write_graph("onnx", Saturated(), inputs, ["scores"], tmp_path / "x.onnx", model="Own")
    x = torch.tensor([[-200.0, -100, -80, -40, -30, -20, -19, -18, 0, 5, 14, 15, 16, 200]])
    (found,) = opened(tmp_path / "x.onnx", inputs).run({"x": x.numpy()})
    expected = torch.sigmoid(x).numpy()
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-38)
    assert (np.diff(found[0, 1:-1]) > 0).all()


class Branching(nn.Module):
    """A branch on a value, which has no graph."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("engine", sorted(SUFFIXES))
def test_a_model_that_does_not_trace_is_one_sentence(tmp_path, engine, capfd):
    if engine == "torch" and shutil.which("g++") is None:
        pytest.skip("AOTInductor compiles with g++")
    inputs = [GraphInput("x", "float32", (REQUESTS,))]
    with pytest.raises(
        InputError, match=rf"^Own cannot be exported to {engine}: torch does not trace it: \w+: "
    ) as found:
        write_graph(engine, Branching(), inputs, ["scores"], tmp_path / f"x{SUFFIXES[engine]}", model="Own")
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 400
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_a_model_fixes_is_named(tmp_path):
    """A graph that only works for one number of requests must not be written as one for any."""

    class Fixed(nn.Module):
        def forward(self, x):
            return x + torch.zeros(graphs.EXAMPLE[REQUESTS])

    inputs = [GraphInput("x", "float32", (REQUESTS,))]
    with pytest.raises(InputError, match="torch does not trace it"):
        write_graph("onnx", Fixed(), inputs, ["scores"], tmp_path / "x.onnx", model="Own")


def test_missing_packages_and_compilers_are_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"--to tensorrt: choose one of onnx, torch"):
        check_engine("tensorrt")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "c++-99")
    with pytest.raises(ConfigError, match=r"needs the C\+\+ compiler c\+\+-99: install it, or --to onnx"):
        check_engine("torch")
    check_engine("onnx")
    real = builtins.__import__

    def without_onnxscript(name, *rest):
        if name == "onnxscript":
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_onnxscript)
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install 'fuxictr-multimodal\[export\]'"):
        check_engine("onnx")


def test_examples_have_sizes_that_differ():
    """Two equal sizes would be taken for one, and 0 or 1 for fixed."""
    servable = made_servable()
    sizes = [graphs._example_size(dim) for given in servable.inputs for dim in given.dims if isinstance(dim, str)]
    assert min(sizes) > 1
    assert len(set(sizes)) == 4
    wide = replace(servable.inputs[0], dims=("slots_9",))
    assert graphs._example(wide).shape == (graphs.EXAMPLE_SLOTS + 9,)
