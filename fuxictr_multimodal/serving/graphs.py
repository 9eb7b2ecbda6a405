"""A traced graph as a file: ONNX for ONNX Runtime, or a package that torch compiled ahead of time (AOTInductor)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.serving.onnx_operators import translations
from fuxictr_multimodal.serving.runtime.engines import SUFFIXES
from fuxictr_multimodal.system.writing import refused_write, unwritable, writing
from fuxictr_multimodal.zoo.servable import CANDIDATES, ITEMS, REQUESTS, GraphInput

ENGINES = tuple(SUFFIXES)
# What ONNX Runtime 1.20 and later compute.
OPSET = 18
# Protocol buffers end at 2 GiB: the weights of a larger graph lie beside it.
ONE_FILE_BYTES = 1_900_000_000
# Sizes of the traced example. They differ from each other, so that no two of them are taken for one, and none is 0 or
# 1, which torch would take for fixed.
EXAMPLE = {REQUESTS: 2, CANDIDATES: 100, ITEMS: 50}
EXAMPLE_SLOTS = 20
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
# Freezing packs weights for the products of oneDNN: half the time of a compiled graph on a CPU. Without dynamic
# threads the number of threads of this machine would be in the code.
INDUCTOR = {"freezing": True, "cpp.dynamic_threads": True}
LONGEST_REASON = 240
# Nodes that hand on what they get.
OF_SHAPE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})


def check_engine(engine: str) -> None:
    """Refuse an engine whose packages, or whose compiler, are not there.

    Raises:
        ConfigError: saying what to install.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--to {engine}: choose one of {', '.join(ENGINES)}")
    try:
        import safetensors  # noqa: F401

        if engine == "onnx":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"an export needs {error.name}: pip install 'fuxictr-multimodal[export]'") from None
    compiler = os.environ.get("CXX", "g++")
    if engine == "torch" and shutil.which(compiler) is None:
        raise ConfigError(
            f"--to torch compiles the graph, which needs the C++ compiler {compiler}: install it, or --to onnx"
        )


def write_graph(
    engine: str, graph: nn.Module, inputs: Sequence[GraphInput], outputs: Sequence[str], path: Path, *, model: str
) -> None:
    """Trace a graph with sizes that stay open, and write it.

    Args:
        engine: one of `ENGINES`.
        graph: reads the tensors of `inputs` in their order; in eval mode, on the CPU.
        inputs: names, types and sizes.
        outputs: names of what it returns.
        path: file to write, with the suffix of the engine.
        model: name of the model, for the error.

    Raises:
        InputError: torch cannot trace the graph, with torch's reason.
    """
    example = tuple(_example(given) for given in inputs)
    sizes = {dim: torch.export.Dim(dim) for given in inputs for dim in given.dims if isinstance(dim, str)}
    shapes = tuple({axis: sizes[dim] for axis, dim in enumerate(given.dims) if dim in sizes} for given in inputs)
    # A graph takes its inputs one by one, or as `*inputs`: torch wants the shapes in the same form.
    with torch.no_grad(), _quiet():
        try:
            if engine == "onnx":
                _write_onnx(_Positional(graph), example, shapes, inputs, outputs, path)
            else:
                program = torch.export.export(
                    _Positional(graph),
                    example,
                    dynamic_shapes={"tensors": shapes},
                    # Its solver does not see that 192 <= 192 + 192 T, which a model needs; at run time it holds.
                    prefer_deferred_runtime_asserts_over_guards=True,
                )
                torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=INDUCTOR)
        except (MemoryError, OSError):
            raise
        except Exception as error:
            if (number := refused_write(error)) is not None:
                raise unwritable(path, number) from None
            raise InputError(
                f"{model} cannot be exported to {engine}: torch does not trace it: {_reason(error)}"
            ) from error


class _Positional(nn.Module):
    """A graph whose inputs have one form whatever its signature."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        # torch.fx has an attribute `graph` of its own.
        self.servable = graph

    def forward(self, *tensors: Tensor) -> Any:
        return self.servable(*tensors)


def _write_onnx(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple[Any, ...],
    inputs: Sequence[GraphInput],
    outputs: Sequence[str],
    path: Path,
) -> None:
    from onnxscript import optimizer

    program = torch.onnx.export(
        graph,
        example,
        dynamo=True,
        dynamic_shapes={"tensors": shapes},
        input_names=[given.name for given in inputs],
        output_names=list(outputs),
        opset_version=OPSET,
        custom_translation_table=translations(),
        verbose=False,
        # Its rewriting takes the `+ 1e-12` of an average for `+ 0`, so that an empty history has none.
        optimize=False,
    )
    assert program is not None
    for given, value in zip(inputs, program.model.graph.inputs, strict=True):
        for dim, size in zip(given.dims, value.shape or given.dims, strict=True):
            if isinstance(dim, str) and isinstance(size, int):
                raise ValueError(f"the number of {dim} is {size} in {given.name}, whatever the example")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    _spread_sigmoid(program.model.graph)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    with writing(path):
        program.save(path, external_data=weights > ONE_FILE_BYTES)


def _spread_sigmoid(graph: Any) -> None:
    """Compute the sigmoid of the scores as 1 / (1 + exp(-x)).

    ONNX Runtime's own ends at x = -18, so that scores below 2e-8, which the trained model orders, would be equal.
    """
    import onnx_ir as ir

    last = graph.outputs[0].producer()
    while last is not None and last.op_type in OF_SHAPE:
        last = last.inputs[0].producer()
    if last is None or last.op_type != "Sigmoid":
        return
    one = ir.node("Constant", [], attributes={"value_float": 1.0})
    negative = ir.node("Neg", [last.inputs[0]])
    power = ir.node("Exp", negative.outputs)
    total = ir.node("Add", [power.outputs[0], one.outputs[0]])
    graph.insert_before(last, [one, negative, power, total])
    last.op_type = "Reciprocal"
    last.replace_input_with(0, total.outputs[0])


def _example(given: GraphInput) -> Tensor:
    """A tensor of an input; the code 0 is in every vocabulary."""
    shape = [dim if isinstance(dim, int) else _example_size(dim) for dim in given.dims]
    dtype = DTYPES[given.dtype]
    if dtype == torch.float32:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return torch.ones(shape, dtype=dtype) if dtype == torch.bool else torch.zeros(shape, dtype=dtype)


def _example_size(dim: str) -> int:
    if dim in EXAMPLE:
        return EXAMPLE[dim]
    return EXAMPLE_SLOTS + int(dim.rpartition("_")[2])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report each step and warn of themselves, on every stream; errors are raised in any case."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """The first line of what torch says at the root of an error.

    >>> _reason(ValueError("no such operator\\n\\nlong explanation"))
    'ValueError: no such operator'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
