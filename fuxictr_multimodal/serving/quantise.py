"""Dense products of an ONNX graph in 8 bits, their activations scaled a row at a time.

    W = s_w q_w, one s_w an output, q_w in -127..127;    x = s_x (q_x - 128), one s_x a row, q_x in 1..255
    x W = s_x s_w (q_x - 128) q_w

ONNX Runtime's own dynamic quantisation has one s_x for the whole tensor: it is a sixth faster, but errs two to ten
times as much, and the score of a candidate then depends on which others are ranked with it. Activations are unsigned
because processors multiply unsigned by signed bytes; of two signed ones the product is twenty times slower.

Only products with a row a candidate are rewritten: those of a request or of its history cost little beside them, and
their errors would be shared by all candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.writing import writing
from fuxictr_multimodal.zoo.servable import CANDIDATES

# Smaller products cost little, and what is left of their accuracy is kept. A product with few outputs is the last
# Linear, which makes the logit.
LEAST_INPUTS, LEAST_OUTPUTS = 32, 32
ZERO_POINT, LARGEST = 128, 127
# A row of zeros has a scale too.
SMALLEST = 1e-30


def quantise_products(path: Path) -> int:
    """Rewrite the dense products of candidates with constant weights of `model.onnx` in 8 bits.

    Returns:
        How many products were rewritten.

    Raises:
        ConfigError: there is none that is large enough.
    """
    import onnx

    model = onnx.load(path)
    rewriting = _Rewriting(model.graph)
    if rewriting.products == 0:
        raise ConfigError(
            f"--quantise int8: this model has no dense product of at least {LEAST_INPUTS} x {LEAST_OUTPUTS} with "
            "constant weights: export it without --quantise"
        )
    weights = path.with_name(f"{path.name}.data")
    external = weights.exists()
    # onnx appends to a file of weights that is there.
    weights.unlink(missing_ok=True)
    with writing(path):
        onnx.save(model, path, save_as_external_data=external, location=weights.name)
    return rewriting.products


def _has_candidates(value: Any) -> bool:
    """Whether a size of a value, such as `requests*candidates`, grows with the candidates."""
    return any(CANDIDATES in dim.dim_param for dim in value.type.tensor_type.shape.dim)


class _Rewriting:
    """One pass over the nodes of a graph, which is changed in place."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._numpy = numpy_helper
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.value_info, *graph.input)
        self._of_candidates = {value.name for value in values if _has_candidates(value)}
        self._new: dict[str, NDArray] = {}
        self._rows: dict[str, tuple[str, str]] = {}
        self._nodes: list[Any] = []
        self.products = 0
        for node in graph.node:
            weight = self._dense_weight(node)
            if weight is None:
                self._nodes.append(node)
            else:
                self._rewrite(node, weight)
                self.products += 1
        del graph.node[:]
        graph.node.extend(self._nodes)
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self._new.items())

    def _dense_weight(self, node: Any) -> NDArray | None:
        """Weights (inputs, outputs) of a product that is worth it, else None."""
        settings = {setting.name: setting for setting in node.attribute}
        if node.op_type == "Gemm":
            plain = all(settings[name].f == 1.0 for name in ("alpha", "beta") if name in settings)
            if not plain or ("transA" in settings and settings["transA"].i):
                return None
        elif node.op_type != "MatMul":
            return None
        tensor = self._weights.get(node.input[1])
        if tensor is None or len(tensor.dims) != 2 or node.input[0] not in self._of_candidates:
            return None
        transposed = "transB" in settings and settings["transB"].i == 1
        inputs, outputs = reversed(tensor.dims) if transposed else tensor.dims
        if inputs < LEAST_INPUTS or outputs < LEAST_OUTPUTS:
            return None
        weight = self._numpy.to_array(tensor)
        return weight.T if transposed else weight

    def _rewrite(self, node: Any, weight: NDArray) -> None:
        # A name of its own, whatever the exporter called its values.
        prefix = f"int8.{self.products}"
        rows, largest = self._quantised_rows(node.input[0])
        scale = np.abs(weight).max(axis=0) / LARGEST
        scale[scale == 0] = 1
        quantised = self._constant(f"{prefix}.weight", np.rint(weight / scale).astype(np.int8))
        # The activations' scale is (largest of the row) / 127.
        scales = self._constant(f"{prefix}.scale", (scale / LARGEST).astype(np.float32))
        product = self._node("MatMulInteger", [rows, quantised, self._zero_point()], f"{prefix}.product")
        product = self._node("Cast", [product], f"{prefix}.float", to=1)
        product = self._node("Mul", [product, scales], f"{prefix}.columns")
        with_bias = len(node.input) > 2 and node.input[2]
        product = self._node("Mul", [product, largest], f"{prefix}.rows" if with_bias else node.output[0])
        if with_bias:
            self._node("Add", [product, node.input[2]], node.output[0])

    def _quantised_rows(self, name: str) -> tuple[str, str]:
        """Activations in 8 bits and the largest magnitude of each row, made once for all products that read them."""
        if name not in self._rows:
            prefix = f"int8.input_{len(self._rows)}"
            last = self._constant("int8.last_axis", np.array([-1], np.int64))
            smallest = self._constant("int8.smallest", np.array(SMALLEST, np.float32))
            step = self._constant("int8.step", np.array(1 / LARGEST, np.float32))
            found = self._node("Abs", [name], f"{prefix}.magnitude")
            found = self._node("ReduceMax", [found, last], f"{prefix}.row_largest", keepdims=1)
            largest = self._node("Max", [found, smallest], f"{prefix}.largest")
            found = self._node("Div", [name, largest], f"{prefix}.scaled")
            found = self._node("QuantizeLinear", [found, step, self._zero_point()], f"{prefix}.quantised")
            self._rows[name] = (found, largest)
        return self._rows[name]

    def _zero_point(self) -> str:
        return self._constant("int8.zero_point", np.array(ZERO_POINT, np.uint8))

    def _constant(self, name: str, value: NDArray) -> str:
        self._new.setdefault(name, value)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **settings: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **settings))
        return output
