"""Adaptive sparse target attention (arXiv 2504.17699) over padded or jagged histories.

Shape legend: B rows, T padded slots, N real history items of all rows, U distinct item vectors, D item width,
A attention width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN.attention_weights import ACTIVATIONS, weights_of_padded, weights_of_slots
from model_zoo.QIN.dropout import Dropout
from model_zoo.QIN.products import linear
from model_zoo.QIN.sparse_attend import Part, attend, bag, scores


@dataclass(frozen=True)
class PaddedHistory:
    """Item vectors `vectors_BTD` with `mask_BT`, True on real items, and the cosines with the target, if read."""

    vectors_BTD: Tensor
    mask_BT: Tensor
    cosines_BTE: Tensor | None = None


@dataclass(frozen=True)
class JaggedHistory:
    """Item vectors `items_UD`, and which of them each row has: `slots.values` (N,) indexes `items_UD`.

    `events` are further parts of the history's vectors, behind the items': vectors (V, E) of the values of an event
    feature, and which of them each slot has, (N,). `cosines_NE` are those of target and slot, where they are read.
    """

    items_UD: Tensor
    slots: Jagged
    events: Sequence[Part] = ()
    cosines_NE: Tensor | None = None

    @property
    def parts(self) -> list[Part]:
        """The parts of the vectors, the items' first."""
        return [(self.items_UD, self.slots.values), *self.events]


class SparseTargetAttention(nn.Module):
    """One query, the target; as published, weights are not normalised, so they carry the strength of an interest.

    q = W_q x_t, k_s = W_k h_s, v_s = W_v h_s;
    a_s = ReLU(m_s q.k_s / sqrt(A)), m_s = 0 on padding;
    out = W_o (sum_s a_s v_s) + x_t.

    A `PaddedHistory` is computed as written. A `JaggedHistory` is computed with two exact identities: scores are
    h_s.(W_k^T W_q x_t) and out is W_o W_v (sum_s a_s h_s) + x_t, so history items are never projected, and items with
    a_s = 0 are skipped. Both split over the parts of h_s, an item and its event features. Both ways give the same
    values and gradients up to rounding (in float32 about 1e-6 relative).
    An empty history gives out = x_t. With `similarities`, g.r_s is added to each score: r_s the E cosines of target
    and item in pretrained embeddings, g learnt numbers that start at 1 (the second term of SA-TA, arXiv 2512.07216).

    NOTE[DIFF] The residual x_t is in the published code, not in the paper's formula.

    Args:
        width: D.
        attention_dim: A; the published one is 2 D.
        activation: from scores to weights, `relu`, `softmax` or `relu_mean` (`attention_weights.py`).
        dropout: rate on the weights a_s.
        similarities: E, 0 for none.

    Raises:
        ValueError: unknown activation, widths below 1.

    >>> attention = SparseTargetAttention(4, attention_dim=8)
    >>> nobody = JaggedHistory(torch.ones(1, 4), Jagged(torch.zeros(0, dtype=torch.long), torch.tensor([0, 0])))
    >>> attention(torch.ones(1, 4), nobody).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        width: int,
        *,
        attention_dim: int,
        activation: str = "relu",
        dropout: float = 0.0,
        similarities: int = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"attention_activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if width < 1 or attention_dim < 1:
            raise ValueError(f"attention widths must be at least 1, got {width} and {attention_dim}")
        self.activation = activation
        self.scale = attention_dim**-0.5
        self.W_q = nn.Linear(width, attention_dim, bias=False)
        self.W_k = nn.Linear(width, attention_dim, bias=False)
        self.W_v = nn.Linear(width, attention_dim, bias=False)
        self.W_o = nn.Linear(attention_dim, width, bias=False)
        self.dropout = Dropout(dropout)
        self.similarity = nn.Parameter(torch.ones(similarities)) if similarities else None

    def forward(self, target_BD: Tensor, history: PaddedHistory | JaggedHistory) -> Tensor:
        """Pool the history for the target, (B, D)."""
        if isinstance(history, PaddedHistory):
            return self._reference(target_BD, history)
        return self._optimized(target_BD, history)

    def weights(self, target_BD: Tensor, history: JaggedHistory) -> Tensor:
        """The weight a_s of every history item, (N,), without dropout."""
        slots = history.slots
        query_BD = _two_maps(target_BD, self.W_q.weight, self.W_k.weight.t(), scale=self.scale)
        score_N = scores(query_BD, slots.row_index(), history.parts)
        if self.similarity is not None:
            score_N = score_N + self._of_cosines(history.cosines_NE)
        return weights_of_slots(score_N, slots, self.activation)

    def _of_cosines(self, cosines: Tensor | None) -> Tensor:
        """What is added to the scores, (..., E) to (...)."""
        assert self.similarity is not None
        assert cosines is not None
        return cosines.to(self.similarity.dtype) @ self.similarity

    def _reference(self, target_BD: Tensor, history: PaddedHistory) -> Tensor:
        history_BTD, mask_BT = history.vectors_BTD, history.mask_BT
        query_BA = self.W_q(target_BD)
        key_BTA = self.W_k(history_BTD)
        value_BTA = self.W_v(history_BTD)
        score_BT = torch.einsum("ba,bta->bt", query_BA, key_BTA) * self.scale
        if self.similarity is not None:
            score_BT = score_BT + self._of_cosines(history.cosines_BTE)
        weight_BT = weights_of_padded(score_BT, mask_BT, self.activation)
        if self.dropout.active:
            # One draw a real item: padding neither uses up random numbers nor changes the result.
            keep_BT = torch.zeros_like(weight_BT)
            keep_BT[mask_BT] = self.dropout.draw((int(mask_BT.sum()),), mask_BT.device).to(keep_BT.dtype)
            weight_BT = weight_BT * keep_BT * self.dropout.scale
        return self.W_o(torch.einsum("bt,bta->ba", weight_BT, value_BTA)) + target_BD

    def _optimized(self, target_BD: Tensor, history: JaggedHistory) -> Tensor:
        items_UD, slots = history.items_UD, history.slots
        query_BD = _two_maps(target_BD, self.W_q.weight, self.W_k.weight.t(), scale=self.scale)
        keep_N = None
        if self.dropout.active:
            keep_N = self.dropout.draw((len(slots.values),), items_UD.device).to(items_UD.dtype) * self.dropout.scale
        pooled_BD = attend(
            query_BD,
            items_UD,
            slots,
            activation=self.activation,
            bias_N=None if self.similarity is None else self._of_cosines(history.cosines_NE),
            keep_N=keep_N,
            events=history.events,
        )
        return _two_maps(pooled_BD, self.W_v.weight, self.W_o.weight) + target_BD


class MeanPooling(nn.Module):
    """The ablation without attention: out is the mean of the real history items, 0 for an empty history.

    NOTE[DIFF] The paper reports this ablation without a formula; here it has neither projection nor residual.
    """

    def forward(self, target_BD: Tensor, history: PaddedHistory | JaggedHistory) -> Tensor:
        """Pool the history, (B, D); the target is not used."""
        if isinstance(history, PaddedHistory):
            mask_BT1 = history.mask_BT[:, :, None]
            count_B1 = mask_BT1.sum(dim=1).clamp(min=1)
            return (history.vectors_BTD * mask_BT1).sum(dim=1) / count_B1
        offsets = history.slots.offsets
        parts = [bag(vectors, Jagged(index_N, offsets), mode="mean") for vectors, index_N in history.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def weights(self, target_BD: Tensor, history: JaggedHistory) -> Tensor:
        """The weight of every history item, (N,)."""
        return (1 / history.slots.lengths.to(target_BD.dtype))[history.slots.row_index()]


def _two_maps(x_BI: Tensor, first_MI: Tensor, second_OM: Tensor, *, scale: float = 1.0) -> Tensor:
    """second (first x) for every row: maps one after the other, or their product first where that is less work."""
    (middle, width), out = first_MI.shape, second_OM.shape[0]
    rows = len(x_BI)
    if middle * width * out + rows * width * out < rows * middle * (width + out):
        return linear(x_BI, linear(second_OM * scale, first_MI.t()))
    return linear(linear(x_BI, first_MI), second_OM * scale)
