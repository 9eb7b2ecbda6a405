"""Sparse target attention: formula, identities, dropout, and rows without items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN import sparse_attend
from model_zoo.QIN.attention import JaggedHistory, MeanPooling, PaddedHistory, SparseTargetAttention
from model_zoo.QIN.attention_weights import ACTIVATIONS, segment_softmax

EXACT = {"rtol": 1e-9, "atol": 1e-9}
ROWS, ITEMS, WIDTH = 13, 17, 5


def history(*, seed: int = 0) -> tuple[torch.Tensor, JaggedHistory]:
    """Targets and histories; rows 0 and 7 are empty, and items are shared between rows."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 8, ROWS)
    lengths[[0, 7]] = 0
    offsets = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))
    slots = Jagged(torch.from_numpy(rng.integers(0, ITEMS, int(offsets[-1]))), offsets)
    items = torch.from_numpy(rng.standard_normal((ITEMS, WIDTH))).requires_grad_()
    target = torch.from_numpy(rng.standard_normal((ROWS, WIDTH))).requires_grad_()
    return target, JaggedHistory(items, slots)


def padded(jagged: JaggedHistory, *, length: int = 9) -> PaddedHistory:
    """The same history; padding slots hold item 0, as FuxiCTR's triple does."""
    index = Jagged(jagged.slots.values + 1, jagged.slots.offsets).to_padded(length)
    return PaddedHistory(jagged.items_UD[(index - 1).clamp(min=0)], index > 0)


def attention(activation: str = "relu", *, dropout: float = 0.0, attention_dim: int = 10) -> SparseTargetAttention:
    torch.manual_seed(1)
    return SparseTargetAttention(WIDTH, attention_dim=attention_dim, activation=activation, dropout=dropout).double()


def values_and_gradients(layer, target, items, found) -> list[torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn_like(found)
    parameters = list(layer.parameters())
    grads = torch.autograd.grad((found * weight).sum(), [target, items, *parameters], allow_unused=True)
    return [found, *grads]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("attention_dim", [3, 10])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fast_equals_plain(activation, attention_dim, dropout, monkeypatch):
    monkeypatch.setattr(sparse_attend, "_CHUNK", 4)
    layer = attention(activation, dropout=dropout, attention_dim=attention_dim)
    target, jagged = history()
    torch.manual_seed(2)
    fast = values_and_gradients(layer, target, jagged.items_UD, layer(target, jagged))
    torch.manual_seed(2)
    plain = values_and_gradients(layer, target, jagged.items_UD, layer(target, padded(jagged)))
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_identity_of_the_absorbed_projections():
    """q.k_s = h_s.(W_k^T W_q x) and W_o sum a_s W_v h_s = W_o W_v sum a_s h_s."""
    layer = attention()
    target, jagged = history()
    w_q, w_k, w_v, w_o = (getattr(layer, f"W_{name}").weight.detach().numpy() for name in "qkvo")
    x, h = target.detach().numpy()[1], jagged.items_UD.detach().numpy()
    np.testing.assert_allclose((w_q @ x) @ (w_k @ h.T), h @ (w_k.T @ w_q @ x), **EXACT)
    a = np.maximum(h @ x, 0)
    np.testing.assert_allclose(w_o @ sum(a[s] * (w_v @ h[s]) for s in range(ITEMS)), (w_o @ w_v) @ (a @ h), **EXACT)


def test_identity_of_the_skipped_items():
    """Items with a score of 0 or less, and padding, change neither the value nor a gradient."""
    layer = attention()
    target, jagged = history()
    full = values_and_gradients(layer, target, jagged.items_UD, layer(target, jagged))
    query = torch.nn.functional.linear(target, layer.W_k.weight.t() @ layer.W_q.weight)
    row = jagged.slots.row_index()
    keep = (query[row] * jagged.items_UD[jagged.slots.values]).sum(1) > 0
    assert 0 < keep.sum() < len(keep)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(row[keep], minlength=ROWS).cumsum(0)])
    less = JaggedHistory(jagged.items_UD, Jagged(jagged.slots.values[keep], offsets))
    for one, other in zip(full, values_and_gradients(layer, target, less.items_UD, layer(target, less)), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_empty_history_gives_the_target(activation):
    target, jagged = history()
    for form in (jagged, padded(jagged)):
        out = attention(activation)(target, form)
        assert torch.equal(out[[0, 7]], target[[0, 7]])
        assert torch.isfinite(out).all()


def test_softmax_weights_add_up_to_one_and_survive_large_scores():
    _, jagged = history()
    scores = torch.linspace(-2000, 2000, len(jagged.slots.values), dtype=torch.float64)
    weights = segment_softmax(scores, jagged.slots)
    sums = torch.zeros(ROWS, dtype=torch.float64).index_add(0, jagged.slots.row_index(), weights)
    assert sums.tolist() == pytest.approx((jagged.slots.lengths > 0).double().tolist())


def test_mean_pooling_is_the_mean_of_real_items():
    target, jagged = history()
    layer = MeanPooling()
    for form in (jagged, padded(jagged)):
        out = layer(target, form)
        assert torch.equal(out[0], torch.zeros(WIDTH, dtype=torch.float64))
        first, last = jagged.slots.offsets[1:3].tolist()
        expected = jagged.items_UD[jagged.slots.values[first:last]].mean(0)
        torch.testing.assert_close(out[1], expected, **EXACT)


def test_dropout_keeps_the_mean():
    """With attention dropout the mean over many draws is the value without."""
    layer = attention(dropout=0.3)
    target, jagged = history()
    with torch.no_grad():
        draws = torch.stack([layer(target, jagged) for _ in range(3000)])
        expected = layer.eval()(target, jagged)
    error = (draws.mean(0) - expected).abs()
    assert (error < 5 * draws.std(0) / len(draws) ** 0.5 + 1e-12).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'gelu'"):
        SparseTargetAttention(4, attention_dim=8, activation="gelu")
    with pytest.raises(ValueError, match="at least 1"):
        SparseTargetAttention(4, attention_dim=0)
