"""A history pooled to one vector: its mean, and a softmax over its real items.

Shape legend: B rows, T history slots, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_of(history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the real items, (B, D); zeros for an empty history. Padded slots are zeros already."""
    return history_BTD.sum(dim=1) / mask_BT.sum(dim=1, keepdim=True).clamp(min=1)


def softmax_over(score_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Softmax over the real items, (B, T); 0 on padding, so that an empty history has no weight at all."""
    least = torch.finfo(score_BT.dtype).min
    return score_BT.masked_fill(~mask_BT, least).softmax(dim=1) * mask_BT


def pooled(weight_BT: Tensor, history_BTD: Tensor) -> Tensor:
    """Sum of the items by their weights, (B, D)."""
    return (weight_BT.unsqueeze(1) @ history_BTD).squeeze(1)
