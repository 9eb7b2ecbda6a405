"""Attention of a whole unpadded batch in one kernel, by PyTorch's flex attention; compiled on a GPU.

Legend: T tokens, H heads, E width of a head.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from bilingual_embedding.model.packing import Packed
from fuxictr_multimodal.data.jagged import row_numbers

BLOCK = 128  # tokens of a block of queries or keys; PyTorch's own


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
    """Which blocks of queries and keys have tokens of one row in common.

    Rows lie one after the other, so the blocks follow from their lengths, on the host; PyTorch's `create_block_mask`
    would go through tokens x tokens for it.
    """
    device = packed.ids_T.device
    lengths = np.array([length for count, length in packed.groups for _ in range(count)])
    rows = row_numbers(lengths)
    rows_T = torch.from_numpy(rows).to(device)

    def same_row(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return rows_T[query] == rows_T[key]

    some, whole = block_pairs(lengths, rows)
    return BlockMask.from_kv_blocks(
        *_listed(some, device), *_listed(whole, device), BLOCK, same_row, seq_lengths=(len(rows), len(rows))
    )


def block_pairs(lengths: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of blocks, each (blocks, blocks): where some pairs of tokens are of one row, and where all are.

    Args:
        lengths: of the rows, at least 1.
        rows: of each token.

    >>> some, whole = block_pairs(np.array([100, 300]), np.repeat([0, 1], [100, 300]))
    >>> some.astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    >>> whole.astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    tokens = len(rows)
    starts = np.arange(0, tokens, BLOCK)
    first, last = rows[starts], rows[np.minimum(starts + BLOCK, tokens) - 1]
    ends = np.cumsum(lengths)
    low, high = (ends - lengths)[first] // BLOCK, (ends[last] - 1) // BLOCK
    blocks = np.arange(len(starts))
    reached = (blocks >= low[:, None]) & (blocks <= high[:, None])
    of_one_row = (first == last) & (starts + BLOCK <= tokens)
    whole = reached & of_one_row[:, None] & of_one_row & (first[:, None] == first)
    return reached & ~whole, whole


def _listed(pairs: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, (1, 1, blocks), and which, first in (1, 1, blocks, blocks)."""
    which = np.argsort(~pairs, axis=1, kind="stable")
    counts, places = (torch.from_numpy(each.astype(np.int32)).to(device) for each in (pairs.sum(axis=1), which))
    return counts[None, None], places[None, None]
