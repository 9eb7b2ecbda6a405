"""Attention over an unpadded batch: one function, `attend`, with backends of equal values and gradients.

Legend: T tokens, H heads, E width of a head, n rows of l tokens.

| backend | what it does | memory beside the tokens |
|---|---|---|
| `eager` | the formula, written out: the reference | H l^2 for each of several steps |
| `sdpa` | fused attention, the bias a view of 2 l numbers per head | bounded on CPU; GPU kernels copy the bias |
| `blocked` | `sdpa` for a block of queries at a time, recomputed in the backward pass | H x block x l |
| `flex` | one compiled kernel for the whole batch on a GPU | bounded |
| `auto` | `flex` on a GPU, else `sdpa` | |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bilingual_embedding.model import alibi
from bilingual_embedding.model.packing import Packed

BACKENDS = ("auto", "eager", "sdpa", "blocked", "flex")
QUERY_BLOCK = 512


def attend(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, *, packed: Packed, slopes: Tensor, backend: str) -> Tensor:
    """softmax(q k^T / sqrt(E) - m_h |i - j|) v within each row of the batch.

    Args:
        q_THE, k_THE, v_THE: tokens in the order of `packed`.
        packed: the batch.
        slopes: (H,) m_h; zeros for attention without a bias.
        backend: one of `BACKENDS`.

    Returns:
        (T, H, E).
    """
    if backend == "auto":
        backend = "flex" if q_THE.is_cuda else "sdpa"
    if backend == "flex":
        # Its import compiles and takes seconds: only where it is asked for.
        from bilingual_embedding.model.attention_flex import attend_flex

        return attend_flex(q_THE, k_THE, v_THE, packed=packed, slopes=slopes)
    backend_function = {"eager": _eager, "sdpa": _sdpa, "blocked": _blocked}[backend]
    parts = [
        backend_function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), slopes).transpose(1, 2).flatten(0, 1)
        for q, k, v in zip(packed.split(q_THE), packed.split(k_THE), packed.split(v_THE), strict=True)
    ]
    return torch.cat(parts)


def _eager(q_nHlE: Tensor, k_nHlE: Tensor, v_nHlE: Tensor, slopes: Tensor) -> Tensor:
    logits_nHll = q_nHlE @ k_nHlE.mT * q_nHlE.shape[-1] ** -0.5
    logits_nHll = logits_nHll + alibi.bias_HQL(slopes, q_nHlE.shape[2])
    return torch.softmax(logits_nHll.float(), dim=-1).to(v_nHlE.dtype) @ v_nHlE


def _sdpa(q_nHlE: Tensor, k_nHlE: Tensor, v_nHlE: Tensor, slopes: Tensor) -> Tensor:
    # In a lower precision the bias is rounded to it: at 8 bits of mantissa by 0.4 % of itself at most.
    bias_HLL = alibi.reversed_bias_HLL(slopes, q_nHlE.shape[2]).to(q_nHlE.dtype)
    return F.scaled_dot_product_attention(q_nHlE.flip(2), k_nHlE, v_nHlE, attn_mask=bias_HLL[None]).flip(2)


def _blocked(q_nHlE: Tensor, k_nHlE: Tensor, v_nHlE: Tensor, slopes: Tensor) -> Tensor:
    def block(q_nHQE: Tensor, k_nHlE: Tensor, v_nHlE: Tensor, start: int) -> Tensor:
        bias_HQL = alibi.bias_HQL(slopes, k_nHlE.shape[2], start, start + q_nHQE.shape[2]).to(q_nHQE.dtype)
        return F.scaled_dot_product_attention(q_nHQE, k_nHlE, v_nHlE, attn_mask=bias_HQL[None])

    parts = []
    for start in range(0, q_nHlE.shape[2], QUERY_BLOCK):
        arguments = (q_nHlE[:, :, start : start + QUERY_BLOCK], k_nHlE, v_nHlE, start)
        # Recomputed when gradients come, so that the bias of one block lives at a time.
        parts.append(checkpoint(block, *arguments, use_reentrant=False) if q_nHlE.requires_grad else block(*arguments))
    return torch.cat(parts, dim=2)
