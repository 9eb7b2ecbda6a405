"""Losses of arXiv 2402.17016: symmetric InfoNCE, InfoNCE with hard negatives, negative Pearson correlation;
and distillation.

Legend: B rows of the batch, N candidates, D width. All are computed in float32 (float64 for float64 vectors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.05


def cosine_BN(left_BD: Tensor, right_ND: Tensor) -> Tensor:
    """Cosine of each row with each candidate."""
    return F.normalize(_exact(left_BD), dim=-1) @ F.normalize(_exact(right_ND), dim=-1).mT


def info_nce(query_BD: Tensor, candidates_ND: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """L_NCE = -mean_i log( e^(cos(q_i, c_i) / t) / sum_n e^(cos(q_i, c_n) / t) ).

    Candidate i is the positive of query i; all others, later ones included, are negatives.

    >>> info_nce(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.3133)
    """
    logits_BN = cosine_BN(query_BD, candidates_ND) / temperature
    return F.cross_entropy(logits_BN, torch.arange(len(query_BD), device=logits_BN.device))


def pairs_loss(left_BD: Tensor, right_BD: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """L_pairs(B) = L_NCE(B) + L_NCE(B swapped): the sum, where sentence-transformers takes the average."""
    return info_nce(left_BD, right_BD, temperature=temperature) + info_nce(right_BD, left_BD, temperature=temperature)


def retrieval_loss(
    query_BD: Tensor, positive_BD: Tensor, negative_ND: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """InfoNCE over the batch's positives and the hard negatives of all rows, plus positive to query in the batch."""
    forward = info_nce(query_BD, torch.cat([positive_BD, negative_ND]), temperature=temperature)
    return forward + info_nce(positive_BD, query_BD, temperature=temperature)


def correlation_loss(left_BD: Tensor, right_BD: Tensor, score_B: Tensor) -> Tensor:
    """L_corr = -cov(s, t) / (sigma_s sigma_t) with s the cosine of each pair and t its human score."""
    return -pearson(pair_cosine_B(left_BD, right_BD), score_B)


def squared_error_loss(left_BD: Tensor, right_BD: Tensor, score_B: Tensor) -> Tensor:
    """Mean squared error of the cosine against a score from 0 to 1: the control of the ablation."""
    cosine_B = pair_cosine_B(left_BD, right_BD)
    return F.mse_loss(cosine_B, score_B.to(cosine_B.dtype))


def distillation_loss(vectors_ND: Tensor, teacher_NE: Tensor) -> Tensor:
    """mean_i sum_j (cos(v_i, v_j) - cos(t_i, t_j))^2, over all texts i and j of the batch.

    The widths D and E may differ. It is zero where the texts lie to each other as the teacher's do, so texts with one
    teacher vector, such as translations, are drawn together. A sum over j, as in InfoNCE, so that both losses have
    gradients of one size in a stage of several tasks.

    >>> distillation_loss(torch.eye(2), torch.ones(2, 1))
    tensor(1.)
    """
    student_NN, teacher_NN = cosine_BN(vectors_ND, vectors_ND), cosine_BN(teacher_NE, teacher_NE)
    return (student_NN - teacher_NN.to(student_NN.dtype)).square().sum(dim=1).mean()


def pair_cosine_B(left_BD: Tensor, right_BD: Tensor) -> Tensor:
    """Cosine of row i on the left with row i on the right."""
    return F.cosine_similarity(_exact(left_BD), _exact(right_BD), dim=-1)


def pearson(s_B: Tensor, t_B: Tensor) -> Tensor:
    """Sample Pearson correlation; 0 with zero gradient where one side does not vary.

    >>> [round(float(pearson(torch.arange(4.0), t)), 6) for t in (torch.arange(4.0) ** 2, torch.ones(4))]
    [0.958315, 0.0]
    """
    s_B = _exact(s_B)
    t_B = t_B.to(s_B.dtype)
    tiny = 4 * torch.finfo(s_B.dtype).eps
    # Rounding of the mean leaves a constant with a variance just above zero: compare with its own size.
    varies = (s_B.var() > (tiny * s_B.abs().max()) ** 2) & (t_B.var() > (tiny * t_B.abs().max()) ** 2)
    s_B, t_B = s_B - s_B.mean(), t_B - t_B.mean()
    # Scaled to unit spread before the products, so that small spreads do not underflow.
    s_norm, t_norm = (torch.where(varies, x_B.square().sum(), 1.0).sqrt() for x_B in (s_B, t_B))
    return torch.where(varies, ((s_B / s_norm) * (t_B / t_norm)).sum(), 0.0)


def at_widths(loss: Callable[..., Tensor], vectors: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    """Matryoshka (arXiv 2205.13147): the mean of a loss on the first w entries of the vectors, for each w.

    >>> at_widths(pairs_loss, [torch.eye(4), torch.eye(4)], [2, 4]).shape
    torch.Size([])
    """
    return torch.stack([loss(*(vector[:, :width] for vector in vectors)) for width in widths]).mean()


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
