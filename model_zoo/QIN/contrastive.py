"""A loss beside the click loss that ties a history to the item clicked next: InfoNCE (arXiv 1807.03748).

A click reaches the vector of an item through the whole network, so that one which few rows have learns little. Here
target and history meet directly, and items that the same users like come to lie together. Recommenders that retrieve
items are trained so (arXiv 2005.12964); beside a click loss, on other pairs: CL4CTR (arXiv 2212.00522).

Shape legend: B rows, P positive rows with a history, D item width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fuxictr_multimodal.data.batch import Share
from fuxictr_multimodal.system.rank_sums import stacked

TEMPERATURE = 0.1


def history_contrast(target_BD: Tensor, mean_BD: Tensor, label_B: Tensor, share: Share | None = None) -> Tensor:
    """Mean over i of -log(exp(c_ii / 0.1) / sum_j exp(c_ij / 0.1)), c_ij = cos(mean history of i, target of j).

    i and j are the positive rows with a history; 0 if there are none. Another row with the same target counts as any
    other. Computed in float32 at least; on a GPU the host waits for the number of these rows.

    Args:
        target_BD: vector of each row's target item.
        mean_BD: mean vector of its history; zeros for an empty one.
        label_B: above 0.5 for a positive row.
        share: the part of a global batch that the rows are. Then j are the positive rows of the global batch, and the
            result is such that its mean over the ranks, weighted by their rows, is that of the global batch. Gradients
            flow to the targets of other ranks too; every rank calls this.

    >>> items = torch.eye(2)
    >>> [round(history_contrast(items, means, torch.ones(2)).item(), 4) for means in (items, items.flip(0))]
    [0.0, 10.0]
    """
    dtype = torch.promote_types(target_BD.dtype, torch.float32)
    positive_B = label_B > 0.5
    if share is not None and not share.rows:
        positive_B = torch.zeros_like(positive_B)
    rows_P = (positive_B & (mean_BD != 0).any(dim=-1)).nonzero().squeeze(-1)
    if share is None and not len(rows_P):
        return target_BD.new_zeros((), dtype=dtype)
    mean_PD, target_PD = (F.normalize(vectors_BD[rows_P].to(dtype), dim=-1) for vectors_BD in (mean_BD, target_BD))
    own_P = torch.arange(len(rows_P), device=rows_P.device)
    if share is None:
        return F.cross_entropy(mean_PD @ target_PD.T / TEMPERATURE, own_P)
    all_QD, before = stacked(target_PD)
    total = F.cross_entropy(mean_PD @ all_QD.T / TEMPERATURE, own_P + before, reduction="sum")
    return total * (share.of / max(share.rows, 1) / max(len(all_QD), 1))
