"""Attention of a whole unpadded batch in one kernel, by PyTorch's flex attention; compiled on a GPU.

Legend: T tokens, H heads, E width of a head.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bilingual_embedding.model.packing import Packed
from fuxictr_multimodal.data.jagged import row_numbers


@functools.cache
def _compiled():
    # Batches differ in their number of tokens: one kernel for all of them.
    return torch.compile(flex_attention, dynamic=True)


def attend_flex(q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, *, packed: Packed, slopes: Tensor) -> Tensor:
    """`attention.attend`; off a GPU it runs uncompiled, slow and without gradients, which is enough to check it."""
    mask = _row_mask(packed)

    def score(logit: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Both tokens are of one row, so the distance of their places in the batch is theirs in the row.
        return logit - slopes[head] * (query - key).abs()

    kernel = _compiled() if q_THE.is_cuda else flex_attention
    q, k, v = (tokens.transpose(0, 1)[None] for tokens in (q_THE, k_THE, v_THE))
    return kernel(q, k, v, score_mod=score, block_mask=mask)[0].transpose(0, 1)


@functools.lru_cache(maxsize=1)  # the layers of one forward pass share it
def _row_mask(packed: Packed) -> BlockMask:
    device = packed.ids_T.device
    lengths = np.array([length for count, length in packed.groups for _ in range(count)])
    rows_T = torch.from_numpy(row_numbers(lengths)).to(device)
    tokens = len(rows_T)

    def same_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return rows_T[query] == rows_T[key]

    # Compiled, it does not write out tokens x tokens first.
    compiled = device.type == "cuda"
    return create_block_mask(
        same_row, B=None, H=None, Q_LEN=tokens, KV_LEN=tokens, device=str(device), _compile=compiled
    )
