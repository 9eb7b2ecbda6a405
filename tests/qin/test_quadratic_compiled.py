"""The compiled quadratic layer: traced for every option, and compiled to machine code once."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN import quadratic_compiled
from model_zoo.QIN.quadratic import QuadraticNetwork
from tests.helpers.reference_qin import small_qin
from tests.helpers.small_compile import small_compile

WIDTH = 6

# Raised inside PyTorch's compiler, and silenced there unless warnings are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _compiler(tmp_path, monkeypatch):
    """Everything is traced anew, one compiler at a time, and nothing is left behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.reset()
    quadratic_compiled._compiled.cache_clear()
    yield
    torch._dynamo.reset()
    quadratic_compiled._compiled.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    """Trace as for compiling, forward and backward, and run the graphs as they are: this takes no compiler."""
    monkeypatch.setattr(quadratic_compiled, "BACKEND", "aot_eager")


def both(dtype=torch.float64, **options) -> tuple[QuadraticNetwork, QuadraticNetwork]:
    torch.manual_seed(0)
    fast = QuadraticNetwork(WIDTH, **{"num_layers": 2, "num_row": 3, "dropout": 0.25, **options}).to(dtype)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    compiled = copy.deepcopy(fast)
    compiled.compiled = True
    return fast, compiled


def step(network: QuadraticNetwork, *, rows: int) -> list[torch.Tensor]:
    """Logits, the gradients of the input and of every parameter, and the buffers afterwards."""
    torch.manual_seed(rows)
    dtype = network.fc.weight.dtype
    x = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    network.zero_grad()
    logit = network(x)
    (logit * torch.randn(rows, 1, dtype=dtype)).sum().backward()
    return [logit.detach(), x.grad, *(p.grad for p in network.parameters()), *network.buffers()]


def assert_equal_steps(fast, compiled, *, sizes, **tolerance):
    for rows in sizes:
        for one, other in zip(step(compiled, rows=rows), step(fast, rows=rows), strict=True):
            torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(
    ("options", "training"),
    [({}, True), ({}, False), ({"dropout": 0.0}, True), ({"batch_norm": False, "activation": "relu"}, True)],
    ids=str,
)
def test_equals_the_block_written_by_hand(options, training, traced):
    fast, compiled = (network.train(training) for network in both(num_layers=1, **options))
    assert_equal_steps(fast, compiled, sizes=(10,), rtol=1e-9, atol=1e-9)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), fast.eval()(x), rtol=1e-9, atol=1e-9)


def test_batches_of_all_sizes_share_two_graphs(traced):
    """One for the first size, one for any: the last batch of an epoch must not compile anew each time."""
    fast, compiled = both(num_layers=1)
    torch._dynamo.utils.counters.clear()
    assert_equal_steps(fast, compiled, sizes=(10, 7, 8, 9, 11), rtol=1e-9, atol=1e-9)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_equals_it_in_bfloat16(traced):
    """Both round the same factors; the products of the R maps are added up in another order."""
    fast, compiled = both(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(20, WIDTH)
        logits = []
        for network in (fast, compiled):
            torch.manual_seed(1)
            logits.append(network(x))
        torch.testing.assert_close(*logits, rtol=0.02, atol=0.02)
        assert logits[1].dtype == torch.float32
        assert not torch.equal(logits[1], both(torch.float32)[1].float()(x))


@pytest.mark.slow
def test_machine_code_equals_the_block_written_by_hand():
    """Where there is no C++ compiler to compile with, PyTorch says so."""
    fast, compiled = both(torch.float32)
    if shutil.which("g++") is None:
        with pytest.raises(Exception, match=r"C\+\+ compiler"):
            compiled(torch.randn(33, WIDTH))
        return
    with small_compile():
        assert_equal_steps(fast, compiled, sizes=(33,), rtol=1e-4, atol=1e-5)


def test_a_model_is_compiled_by_its_configuration(traced):
    model = small_qin(compile=True)
    assert model.qnn.compiled
    assert not small_qin().qnn.compiled
    for wrong in ({"form": "plain"}, {"interaction": "mlp"}):
        with pytest.raises(ConfigError, match="compile is for the optimized implementation"):
            small_qin(compile=True, **wrong)
