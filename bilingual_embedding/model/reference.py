"""The reference implementation of the encoder, padded, which reads like the paper; for tests and benchmarks.

Legend: N rows, L tokens of the longest, D width, H heads, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bilingual_embedding.model import alibi
from bilingual_embedding.model.encoder import Block, Encoder
from bilingual_embedding.model.tokens import TokenTable


def pad(table: TokenTable) -> tuple[Tensor, Tensor]:
    """Ids (N, L), 0 on padding, and a mask (N, L), true on tokens."""
    rows = [torch.from_numpy(table.row(i)).long() for i in range(len(table))]
    ids_NL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids_NL, torch.arange(ids_NL.shape[1]) < torch.from_numpy(table.lengths)[:, None]


def embed_padded(encoder: Encoder, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
    """`Encoder.embed` (N, D) by way of padding, a mask and a bias of L x L; without dropout."""
    config = encoder.config
    x_NLD = encoder.token_embedding(ids_NL) + encoder.type_embedding.weight[0]
    if encoder.position_embedding is not None:
        x_NLD = x_NLD + encoder.position_embedding.weight[: ids_NL.shape[1]]
    x_NLD = encoder.embedding_norm(x_NLD)
    bias_HLL = alibi.bias_HQL(encoder.slopes, ids_NL.shape[1])
    hidden_N11L = ~mask_NL[:, None, None, :]
    for block in encoder.blocks:
        assert isinstance(block, Block)
        before = config.blocks == "zero_start"
        y_NLD = block.attention_norm(x_NLD) if before else x_NLD
        q, k, v = block.query_key_value(y_NLD).chunk(3, dim=-1)
        q, k = block.query_norm(q), block.key_norm(k)
        q_NHLE, k_NHLE, v_NHLE = (part.unflatten(-1, (config.heads, -1)).transpose(1, 2) for part in (q, k, v))
        logits_NHLL = q_NHLE @ k_NHLE.mT / q_NHLE.shape[-1] ** 0.5 + bias_HLL
        weights_NHLL = torch.softmax(logits_NHLL.masked_fill(hidden_N11L, -torch.inf), dim=-1)
        mixed_NLD = (weights_NHLL @ v_NHLE).transpose(1, 2).flatten(2)
        x_NLD = x_NLD + block.output(mixed_NLD)
        x_NLD = x_NLD if before else block.attention_norm(x_NLD)
        y_NLD = block.feed_forward_norm(x_NLD) if before else x_NLD
        gate, value = block.gated(y_NLD).chunk(2, dim=-1)
        x_NLD = x_NLD + block.down(F.gelu(gate) * value)
        x_NLD = x_NLD if before else block.feed_forward_norm(x_NLD)
    real_NL1 = mask_NL[:, :, None].float()
    if encoder.log_token_weight is not None:
        real_NL1 = real_NL1 * encoder.log_token_weight.exp()[ids_NL][:, :, None]
    return (x_NLD * real_NL1).sum(dim=1) / real_NL1.sum(dim=1)
