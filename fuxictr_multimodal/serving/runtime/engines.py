"""Runs a graph: ONNX Runtime for model.onnx, a package of AOTInductor for model.pt2, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import FolderError

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
DTYPES = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}
_OF_ONNX = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(bool)": "bool"}


@dataclass(frozen=True)
class Input:
    """One tensor that a graph reads.

    Attributes:
        name: as model.json has it.
        dtype: `float32`, `int64` or `bool`.
        dims: a number where the size is fixed, else the name of the size.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]


class Engine(Protocol):
    """A graph that several threads may run at once."""

    def run(self, arrays: Mapping[str, NDArray]) -> list[NDArray]:
        """The graph's outputs, in their order."""
        ...


def engine_of(path: Path, inputs: Sequence[Input], threads: int | None) -> Engine:
    """Load a graph.

    Args:
        path: of the graph; its suffix says the engine.
        inputs: what model.json says that it reads, in the order of its arguments.
        threads: that one run uses; None leaves it to the engine.

    Raises:
        FolderError: the file is missing or damaged, reads something else, or its engine is not installed.
    """
    if not path.is_file():
        raise FolderError(f"{path} is missing: export the model again")
    return _Onnx(path, inputs, threads) if path.suffix == SUFFIXES["onnx"] else _Torch(path, inputs, threads)


class _Onnx:
    def __init__(self, path: Path, inputs: Sequence[Input], threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise FolderError(f"{path} needs onnxruntime: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        # Threads that wait in a loop take the cores of other requests: a call is 0.2 ms faster with them where the
        # machine is idle, and its 90th percentile is twice as long where it is not.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not has_dot_products():
            # Such a processor adds pairs of 8 bit products in 16 bits, which overflow. This avoids it, and is slower.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            reads = [(read.name, read.type, read.shape) for read in self._session.get_inputs()]
            # A graph may have lost an input that changes nothing. A name that is not UTF-8 fails here.
            self._names = [name for name, _, _ in reads]
        # Its errors have no common class but Exception.
        except Exception as error:
            raise _damaged(path, error) from None
        known = {one.name: one for one in inputs}
        for name, kind, shape in reads:
            # A dimension without a name is any size.
            same = name in known and _OF_ONNX.get(kind) == known[name].dtype
            if not same or not _fit(shape, known[name].dims):
                raise FolderError(
                    f"{path}: it reads {name} ({kind}, {shape}), which model.json does not say: export the model again"
                )
        self._path = path

    def run(self, arrays: Mapping[str, NDArray]) -> list[NDArray]:
        try:
            return self._session.run(None, {name: arrays[name] for name in self._names})
        except Exception as error:
            raise _fault(self._path, error) from None


class _Torch:
    def __init__(self, path: Path, inputs: Sequence[Input], threads: int | None) -> None:
        try:
            import torch
            from torch._inductor import aoti_load_package
        except ImportError:
            raise FolderError(f"{path} needs torch: pip install torch") from None
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._graph: Any = aoti_load_package(str(path))
        # A damaged package fails in many ways.
        except Exception as error:
            raise _damaged(path, error) from None
        self._torch, self._threads, self._path = torch, threads, path
        self._names = [one.name for one in inputs]

    def run(self, arrays: Mapping[str, NDArray]) -> list[NDArray]:
        torch = self._torch
        if self._threads is not None and torch.get_num_threads() != self._threads:
            # OpenMP keeps the number by thread.
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                found = self._graph(*(torch.from_numpy(arrays[name]) for name in self._names))
        except Exception as error:
            raise _fault(self._path, error) from None
        return [one.numpy() for one in (found if isinstance(found, list | tuple) else [found])]


def has_dot_products(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor adds products of 8 bits in 32; False where the system does not say."""
    try:
        flags = next(line for line in cpu.read_text(encoding="utf-8").splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags.split())


def _fit(found: Sequence[int | str | None], said: Sequence[int | str]) -> bool:
    if len(found) != len(said):
        return False
    return all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(found, said, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _damaged(path: Path, error: Exception) -> FolderError:
    return FolderError(f"{path} cannot be loaded ({_first_line(error)}): export the model again")


def _fault(path: Path, error: Exception) -> FolderError:
    return FolderError(f"{path}: the graph failed ({_first_line(error)})")
