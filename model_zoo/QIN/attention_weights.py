"""From scores to attention weights: ReLU as published, softmax, and a ReLU that starts as the mean.

With s the score of a history item and n the number of items in its history:

    relu       ReLU(s)           published; small initial embeddings start with weights, and gradients, near 0
    softmax    exp(s) / sum      never 0
    relu_mean  ReLU(1 + s) / n   starts as the mean of the history; 0 where s <= -1; not normalised afterwards

Shape legend: B rows, T padded slots, N history slots of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Jagged

ACTIVATIONS = ("relu", "softmax", "relu_mean")
# Weights of these are 0 for some items, which need not be touched.
SPARSE = ("relu", "relu_mean")


def weights_of_slots(score_N: Tensor, slots: Jagged, activation: str) -> Tensor:
    """The weight of every slot of jagged histories, (N,)."""
    if activation == "softmax":
        return segment_softmax(score_N, slots)
    if activation == "relu":
        return score_N.relu()
    share_B = 1 / slots.lengths.to(score_N.dtype)
    return (1 + score_N).relu() * share_B[slots.row_index()]


def weights_of_padded(score: Tensor, mask: Tensor, activation: str) -> Tensor:
    """The weight of every slot of padded histories, in the last dimension; 0 on padding.

    Args:
        score: (..., T).
        mask: of a shape that broadcasts to it; True on real items.
        activation: one of `ACTIVATIONS`.
    """
    if activation == "softmax":
        # The mask goes before the softmax; a row without items has weights 0, not 0/0.
        least = torch.finfo(score.dtype).min
        return score.masked_fill(~mask, least).softmax(dim=-1) * mask
    if activation == "relu":
        return score.relu() * mask
    return (1 + score).relu() * mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)


def segment_softmax(score_N: Tensor, slots: Jagged) -> Tensor:
    """Softmax over the slots of each row, (N,)."""
    row_N = slots.row_index()
    peak_B = score_N.new_zeros(len(slots)).scatter_reduce(0, row_N, score_N.detach(), "amax", include_self=False)
    exp_N = (score_N - peak_B[row_N]).exp()
    total_B = score_N.new_zeros(len(slots)).index_add(0, row_N, exp_N)
    return exp_N / total_B[row_N]
