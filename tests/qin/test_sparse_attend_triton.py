"""The Triton kernels of ReLU attention without a GPU: in the interpreter, and compiled for GPUs that are not here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN import sparse_attend

CASES = Path(__file__).resolve().parents[1] / "helpers/triton_cases.py"
INDICES = frozenset({"values", "offsets", "rows", "order", "owner", "starts", "pieces", "ends", "extra_ends"})


@pytest.fixture
def kernels():
    """The module of the kernels."""
    pytest.importorskip("triton", reason="Triton, which compiles for GPUs, has wheels for Linux on x86-64 only")
    from model_zoo.QIN import sparse_attend_triton

    return sparse_attend_triton


def test_values_and_gradients_in_the_interpreter(kernels):
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=CASES.parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["_pool", "_row_gradients", "_add_pieces", "_join_pieces"])
def test_compiles_for_a_gpu_that_is_not_here(name, capability, kernels, tmp_path, monkeypatch):
    """At the published width, with 16-byte reads; what it cannot show is that a GPU runs it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    tile = kernels._tile(torch.empty(0, 384), slots=8)
    fixed = {k: v for k, v in {**tile, "KEPT": True, "PIECE": kernels.PIECE}.items() if k in kernel.arg_names}
    types = {
        argument: "constexpr"
        if argument in fixed
        else "i32"
        if argument == "count_of_items"
        else "*i64"
        if argument in INDICES
        else "*fp32"
        for argument in kernel.arg_names
    }
    # Tensors of PyTorch begin at multiples of 16 bytes; Triton looks at each pointer and compiles for that.
    aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if types[a].startswith("*")}
    source = ASTSource(fn=kernel, signature=types, constexprs=fixed, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert len(compiled.asm["cubin"]) > 1000
    assert "ld.global.v4" in compiled.asm["ptx"]


def test_the_cpu_takes_the_pytorch_form_without_loading_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "model_zoo.QIN.sparse_attend_triton", None)  # importing it now fails
    slots = Jagged(torch.tensor([0, 1]), torch.tensor([0, 2]))
    found = sparse_attend.attend(torch.ones(1, 2), torch.eye(2), slots, activation="relu")
    assert found.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("capability", "example", "expected", "said"),
    [
        ((9, 0), lambda *_: 1e-6, True, ""),
        ((9, 0), lambda *_: 0.1, False, "off by 1.0e-01"),
        ((9, 0), lambda *_: float("nan"), False, "off by nan"),
        ((7, 5), lambda *_: 1e-6, False, ""),
    ],
)
def test_a_gpu_is_used_if_it_gives_the_right_numbers(capability, example, expected, said, kernels, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(kernels, "_error_on_example", example)
    with caplog.at_level(logging.WARNING):
        assert kernels.usable(torch.device("cuda", 0), torch.float32, 384) is expected
    assert said in caplog.text


def test_a_machine_without_a_compiler_is_logged_once(kernels, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels, "_error_on_example", fail)
    assert not kernels.usable(torch.device("cuda", 0), torch.float32, 384)
    assert "Failed to find C compiler" in caplog.text
    assert not kernels.usable(torch.device("cuda", 0), torch.float32, kernels.MAX_WIDTH + 1)
    assert not kernels.usable(torch.device("cuda", 0), torch.bfloat16, 384)
