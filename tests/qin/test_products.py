"""Products of wide maps: the same values and gradients by either library, and the same rows in blocks of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fuxictr_multimodal.system.processor import Processor
from model_zoo.QIN import products, quadratic_block
from model_zoo.QIN.quadratic import QuadraticNetwork

ROWS, NARROW, WIDE = 400, 24, products.WIDE


@pytest.fixture
def by_onednn(monkeypatch):
    """oneDNN computes what is wide, whatever processor this is."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


@pytest.fixture
def used(by_onednn, monkeypatch) -> list[torch.Size]:
    """Shapes of the weights whose products oneDNN computed."""
    shapes, onednn = [], products._onednn

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shapes.append(weight.shape)
        return onednn(x, weight, bias)

    monkeypatch.setattr(products, "_onednn", spy)
    return shapes


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes]


@pytest.mark.parametrize("with_bias", [True, False])
def test_wide_maps_have_the_values_and_gradients_of_torch(with_bias, used):
    x, weight, grad, bias = tensors((ROWS, WIDE), (WIDE + 8, WIDE), (ROWS, WIDE + 8), (WIDE + 8,))
    inputs = [x, weight, bias][: 2 + with_bias]
    results = []
    for function, dtype in ((F.linear, torch.float64), (products.linear, torch.float32)):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        out = function(*leaves)
        out.backward(grad.to(dtype))
        results.append([out, *(leaf.grad for leaf in leaves)])
    assert len(used) >= 2, "forward and gradients"
    for exact, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_products_are_added_up(used):
    total, left, right = tensors((ROWS, WIDE), (ROWS, WIDE), (WIDE, WIDE))
    expected = total.double() + left.double() @ right.double()
    products.add_product(total, left, right)
    assert used
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)


def test_narrow_maps_and_other_types_stay_with_torch(used, monkeypatch):
    x, weight = tensors((ROWS, NARROW), (WIDE, NARROW))
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    x, weight = tensors((ROWS, WIDE), (WIDE, WIDE))
    assert torch.equal(products.linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    assert not used


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", ""])
def test_the_library_is_a_function_of_the_processor(vendor, monkeypatch):
    monkeypatch.setattr(products, "processor", lambda: Processor(vendor, ("avx2",), 1 << 20, 0))
    has_both = torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert products.onednn_is_faster.__wrapped__() == (vendor == "AuthenticAMD" and has_both)


def network(width: int) -> QuadraticNetwork:
    torch.manual_seed(0)
    return QuadraticNetwork(width, num_layers=2, num_row=2, dropout=0.1)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_scores_do_not_depend_on_the_rows_of_a_block(width, by_onednn, monkeypatch):
    net = network(width).eval()
    (x,) = tensors((ROWS, width))
    scores = []
    for rows in (1024, 64, 33, 16):
        monkeypatch.setattr(quadratic_block, "BLOCK_ROWS", rows)
        with torch.no_grad():
            scores.append(net(x))
    for other in scores[1:]:
        assert torch.equal(other, scores[0])


@pytest.mark.parametrize("rows", [1024, 33])
def test_a_wide_network_trains_as_its_reference_implementation(rows, used, monkeypatch):
    monkeypatch.setattr(quadratic_block, "BLOCK_ROWS", rows)
    (x,) = tensors((ROWS, WIDE))
    found = {}
    for form, dtype in (("plain", torch.float64), ("fast", torch.float32)):
        net = network(WIDE).to(dtype).train()
        torch.manual_seed(1)
        logit = net(x.to(dtype), form=form)
        logit.square().mean().backward()
        found[form] = [logit, *(parameter.grad for parameter in net.parameters())]
    assert used
    for exact, fast in zip(*found.values(), strict=True):
        assert torch.linalg.vector_norm(fast - exact) <= 1e-4 * torch.linalg.vector_norm(exact) + 1e-6
