"""Cases for the Triton kernels of ReLU attention; `test_sparse_attend_triton.py` runs them in Triton's interpreter.

They need TRITON_INTERPRET=1 before Triton is imported, hence their own process; pytest does not collect this file
by itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN import sparse_attend, sparse_attend_triton
from model_zoo.QIN.attention import JaggedHistory, PaddedHistory, SparseTargetAttention

# float32: sums of a few hundred products in another order; relative to the largest number of the tensor.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    """Pieces of 4 slots, so that an item of a small batch takes several programs as a popular one does."""
    before = sparse_attend_triton.PIECE
    sparse_attend_triton.PIECE = 4
    yield
    sparse_attend_triton.PIECE = before


def example(lengths, *, items, width, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    slots = Jagged(torch.from_numpy(rng.integers(0, items, int(offsets[-1]))), offsets)
    query, vectors, weight = (
        torch.from_numpy(rng.standard_normal((count, width))).to(dtype) for count in (len(lengths), items, len(lengths))
    )
    return query.requires_grad_(), vectors.requires_grad_(), slots, weight


def plain(query, vectors, slots, keep=None):
    """Every score and every product written out; the sum in float64, so that only the kernel rounds."""
    row = slots.row_index()
    weight = (query.double()[row] * vectors.double()[slots.values]).sum(1).relu()
    weight = weight if keep is None else weight * keep.double()
    return torch.zeros_like(query, dtype=torch.float64).index_add(
        0, row, weight[:, None] * vectors.double()[slots.values]
    )


def values_and_gradients(found, weight, inputs):
    return [found, *torch.autograd.grad((found * weight.to(found.dtype)).sum(), inputs)]


def assert_equal_to_plain(lengths, *, keep=None, **options):
    query, vectors, slots, weight = example(lengths, **options)
    keep = None if keep is None else keep[: len(slots.values)].to(query.dtype)
    found = sparse_attend_triton.attend_relu(query, vectors, slots, keep)
    expected = plain(query, vectors, slots, keep)
    pairs = zip(*(values_and_gradients(f, weight, (query, vectors)) for f in (found, expected)), strict=True)
    for name, (one, other) in zip(("value", "query", "items"), pairs, strict=True):
        assert one.dtype == query.dtype
        if not other.numel():
            assert one.shape == other.shape
            continue
        error = (one.double() - other).abs().max().item() / max(other.abs().max().item(), 1e-30)
        assert error <= TOLERANCE[query.dtype], f"{name}: {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "lengths",
    [[0, 0, 0], [1], [64, 0, 64], [3, 0, 20, 1, 0, 64, 2], [], [8, 16, 7, 9]],
    ids=["empty", "one", "full", "mixed", "no rows", "edges"],
)
def test_equals_plain(lengths, dtype):
    for items, width in ((5, 6), (40, 16), (1, 1)):
        assert_equal_to_plain(lengths, items=items, width=width, dtype=dtype)


@given(
    lengths=st.lists(st.integers(0, 20), max_size=6),
    items=st.integers(1, 9),
    width=st.integers(1, 40),
    seed=st.integers(0, 99),
    dropout=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_equals_plain_on_any_shape(lengths, items, width, seed, dropout):
    keep = (torch.arange(120) % 3 > 0) * 1.5 if dropout else None
    assert_equal_to_plain(lengths, items=items, width=width, seed=seed, keep=keep)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_pytorch_form_at_the_published_width(dtype):
    query, vectors, slots, weight = example([0, 64, 5, 19], items=30, width=384, dtype=dtype)
    one, other = (
        values_and_gradients(found, weight, (query, vectors))
        for found in (
            sparse_attend_triton.attend_relu(query, vectors, slots),
            sparse_attend.attend(query, vectors, slots, activation="relu"),
        )
    )
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= TOLERANCE[dtype] * b.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_layer_equals_its_reference(dropout, monkeypatch):
    """The whole attention, gradients of its parameters included."""
    monkeypatch.setattr(sparse_attend, "_kernels_run_on", lambda *_: True)
    called = []
    attend_relu = sparse_attend_triton.attend_relu
    monkeypatch.setattr(sparse_attend_triton, "attend_relu", lambda *a: called.append(a) or attend_relu(*a))
    torch.manual_seed(0)
    layer = SparseTargetAttention(6, attention_dim=12, dropout=dropout).double()
    target, vectors, slots, weight = example([3, 0, 7, 1], items=9, width=6)
    padded = Jagged(slots.values + 1, slots.offsets).to_padded()
    found = []
    for history in (
        JaggedHistory(vectors, slots),
        PaddedHistory(vectors[(padded - 1).clamp(min=0)], padded > 0),
    ):
        torch.manual_seed(1)
        found.append(values_and_gradients(layer(target, history), weight, (target, vectors, *layer.parameters())))
    assert len(called) == 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_only_wanted_gradients_and_none_in_scoring():
    query, vectors, slots, weight = example([4, 2], items=3, width=5)
    found = sparse_attend_triton.attend_relu(query, vectors.detach(), slots)
    assert torch.autograd.grad((found * weight).sum(), query)[0].shape == query.shape
    with torch.no_grad():
        assert not sparse_attend_triton.attend_relu(query, vectors, slots).requires_grad


def test_a_popular_item_is_the_same_bits_every_time():
    query, vectors, slots, weight = example([20] * 4, items=2, width=7, dtype=torch.float32)
    runs = [
        values_and_gradients(sparse_attend_triton.attend_relu(query, vectors, slots), weight, (query, vectors))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_what_is_not_a_number_stays_so():
    query, vectors, slots, _ = example([4, 2], items=3, width=5)
    with torch.no_grad():
        query[1] = torch.nan
        found = sparse_attend_triton.attend_relu(query, vectors, slots)
    assert found[1].isnan().all()
    assert found[0].isfinite().all()


def test_the_example_of_the_first_use_agrees():
    for dtype in (torch.float32, torch.float64):
        assert sparse_attend_triton._error_on_example(torch.device("cpu"), dtype, 12) < TOLERANCE[dtype]
