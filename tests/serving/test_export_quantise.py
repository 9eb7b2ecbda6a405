"""Products in 8 bits: the formula computed by numpy, rows that do not depend on each other, and what stays float32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.serving.graphs import write_graph
from fuxictr_multimodal.serving.quantise import quantise_products
from tests.helpers.made_servable import made_inputs, made_servable

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(48, 64)).astype(np.float32)
BIAS = RNG.normal(size=64).astype(np.float32)


def write(path, nodes, weights, *, rank=3):
    rows = ["requests", "candidates"] if rank == 3 else ["requests*candidates"]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*rows, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*rows, 64])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def session(path):
    """As `serving.runtime.engines` opens it where 8 bit products would overflow: exact on every processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options)


def run(path, x):
    return session(path).run(None, {"x": x})[0]


def by_numpy(x, weight):
    """The documented formula."""
    column = np.abs(weight).max(axis=0) / 127
    quantised = np.rint(weight / column)
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-30)
    rows = np.clip(np.rint(x / largest * 127), -127, 127)
    return (rows @ quantised) * (column / 127) * largest


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transposed"])
def test_a_product_is_the_formula(tmp_path, kind):
    gemm = kind != "MatMul"
    weight = np.ascontiguousarray(WEIGHT.T) if kind.endswith("transposed") else WEIGHT
    settings = {"transB": 1} if kind.endswith("transposed") else {}
    inputs = ["x", "w", "b"] if gemm else ["x", "w"]
    nodes = [helper.make_node(kind.split()[0], inputs, ["y"], **settings)]
    path = write(tmp_path / "x.onnx", nodes, {"w": weight, "b": BIAS} if gemm else {"w": weight}, rank=2 if gemm else 3)
    x = RNG.normal(size=(20, 48) if gemm else (2, 10, 48)).astype(np.float32)
    # Rows of very different magnitudes, and one of zeros.
    x *= np.logspace(-4, 4, 20, dtype=np.float32).reshape(*x.shape[:-1], 1)
    x.reshape(-1, 48)[3] = 0
    exact = run(path, x)
    assert quantise_products(path) == 1
    onnx.checker.check_model(onnx.load(path))
    found, expected = run(path, x), by_numpy(x, WEIGHT) + (BIAS if gemm else 0)
    magnitude = np.maximum(np.abs(expected).max(axis=-1, keepdims=True), 1e-30)
    assert (np.abs(found - expected) / magnitude).max() < 1e-5
    assert 1e-4 < (np.abs(found - exact) / magnitude).max() < 0.03
    assert not np.array_equal(found, exact)


def test_the_score_of_a_candidate_does_not_depend_on_the_others(tmp_path):
    path = write(tmp_path / "x.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT})
    quantise_products(path)
    x = RNG.normal(size=(1, 9, 48)).astype(np.float32)
    beside_large = x.copy()
    beside_large[:, 1:] *= 1000
    assert np.array_equal(run(path, x)[:, 0], run(path, beside_large)[:, 0])


def test_a_model_keeps_what_is_small_and_what_is_of_requests(tmp_path):
    """Of the made-up model one product is of candidates and large: its float32 weights go."""
    servable, path = made_servable(), tmp_path / "model.onnx"
    write_graph("onnx", servable.graph, servable.inputs, ["scores"], path, model="Made")
    before = path.stat().st_size
    tensors = made_inputs(servable, requests=3, candidates=20, slots=(4, 2))
    assert quantise_products(path) == 1
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == 1
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    assert weights.keys() <= read
    assert (40, 40) not in [shape for name, shape in weights.items() if not name.startswith("int8.")]
    assert path.stat().st_size < before
    found = session(path).run(None, {name: tensor.numpy() for name, tensor in tensors.items()})[0]
    difference = np.abs(found - servable.graph(*tensors.values()).numpy())
    assert 0 < difference.max() < 0.02


def test_weights_beside_the_file_stay_there(tmp_path, monkeypatch):
    from fuxictr_multimodal.serving import graphs

    monkeypatch.setattr(graphs, "ONE_FILE_BYTES", 1000)
    servable, path = made_servable(), tmp_path / "model.onnx"
    write_graph("onnx", servable.graph, servable.inputs, ["scores"], path, model="Made")
    large = (tmp_path / "model.onnx.data").stat().st_size
    assert quantise_products(path) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size < large
    onnx.checker.check_model(path)


@pytest.mark.parametrize("shape", [(48, 16), (8, 64)])
def test_a_model_without_large_products_is_refused(tmp_path, shape):
    nodes = [
        helper.make_node("Slice", ["x", "zero", "end", "last"], ["cut"]),
        helper.make_node("MatMul", ["cut", "w"], ["y"]),
    ]
    weights = {"w": np.ones(shape, np.float32), "zero": np.array([0]), "end": np.array([shape[0]])}
    path = write(tmp_path / "x.onnx", nodes, weights | {"last": np.array([2])})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"no dense product of at least 32 x 32 with constant weights"):
        quantise_products(path)
    assert path.read_bytes() == before
