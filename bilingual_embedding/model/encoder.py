"""The encoder of arXiv 2402.17016: token vectors, post-layer-norm blocks with symmetric ALiBi and GEGLU, mean pooling.

Legend: T tokens of an unpadded batch, N rows, D width, H heads, E width of a head.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bilingual_embedding.model import alibi
from bilingual_embedding.model.attention import BACKENDS, attend
from bilingual_embedding.model.ngrams import NgramChannel
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.presets import EncoderConfig, preset
from bilingual_embedding.model.tokens import TokenTable
from fuxictr_multimodal.data.jagged import row_numbers
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

LAYER_NORM_EPS = 1e-12  # BERT's
LEAST_WEIGHT = 0.05  # of a token that every text has, such as <cls>


class Block(nn.Module):
    """x <- LN(x + Drop(W_o attention(x))); x <- LN(x + Drop(W_2 (gelu(a) * b))), [a, b] = W_1 x without bias.

    With `blocks: zero_start` x <- x + Drop(W_o attention(LN(x))) and likewise the second; W_o and W_2 start at zero.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner = config.hidden, config.inner
        self.heads = config.heads
        self.zero_start = config.blocks == "zero_start"
        self.query_key_value = nn.Linear(width, 3 * width)
        self.query_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if config.query_key_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if config.query_key_norm else nn.Identity()
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.gated = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_TD: Tensor, packed: Packed, slopes: Tensor, backend: str) -> Tensor:
        if self.zero_start:
            x_TD = x_TD + self.dropout(self._attention(self.attention_norm(x_TD), packed, slopes, backend))
            return x_TD + self.dropout(self._feed_forward(self.feed_forward_norm(x_TD)))
        x_TD = self.attention_norm(x_TD + self.dropout(self._attention(x_TD, packed, slopes, backend)))
        return self.feed_forward_norm(x_TD + self.dropout(self._feed_forward(x_TD)))

    def _attention(self, x_TD: Tensor, packed: Packed, slopes: Tensor, backend: str) -> Tensor:
        q_TD, k_TD, v_TD = self.query_key_value(x_TD).chunk(3, dim=-1)
        q_TD, k_TD = self.query_norm(q_TD).to(v_TD.dtype), self.key_norm(k_TD).to(v_TD.dtype)
        q_THE, k_THE, v_THE = (part.unflatten(-1, (self.heads, -1)) for part in (q_TD, k_TD, v_TD))
        return self.output(attend(q_THE, k_THE, v_THE, packed=packed, slopes=slopes, backend=backend).flatten(1))

    def _feed_forward(self, x_TD: Tensor) -> Tensor:
        gate_TI, value_TI = self.gated(x_TD).chunk(2, dim=-1)
        return self.down(F.gelu(gate_TI) * value_TI)


class Encoder(nn.Module):
    """Token rows to contextual token vectors (`forward`) and to one vector per row (`embed`).

    Args:
        config: sizes.
        backend: how attention is computed, one of `attention.BACKENDS`.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping it.
    """

    def __init__(self, config: EncoderConfig, *, backend: str = "auto", gradient_checkpointing: bool = False) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ConfigError(f"attention backend {backend!r} is unknown. {did_you_mean(backend, BACKENDS)}")
        self.config = config
        self.backend = backend
        self.gradient_checkpointing = gradient_checkpointing
        width = config.hidden
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.type_embedding = nn.Embedding(2, width)  # only type 0 is used
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.max_length, width) if learned else None
        self.embedding_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.pooler = nn.Linear(width, width)  # published with the model and counted; mean pooling is used
        slopes = torch.zeros(config.heads) if learned else alibi.slopes_H(config.heads)
        self.slopes: Tensor
        self.register_buffer("slopes", slopes, persistent=False)
        self.log_token_weight = (
            nn.Parameter(torch.zeros(config.vocabulary_size)) if config.pooling == "weighted" else None
        )
        self.ngrams = NgramChannel(config.ngram_buckets, config.ngram_width) if config.ngram_buckets else None
        self.apply(_initialise)

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        vocabulary_size: int | None = None,
        dropout: float | None = None,
        positions: str | None = None,
        backend: str = "auto",
        gradient_checkpointing: bool = False,
    ) -> Encoder:
        """A freshly initialised encoder of a named size; see `presets.preset`.

        >>> sum(p.numel() for p in Encoder.from_preset("nano").parameters())
        38624
        """
        config = preset(name, vocabulary_size=vocabulary_size, dropout=dropout, positions=positions)
        return cls(config, backend=backend, gradient_checkpointing=gradient_checkpointing)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.slopes.device

    def forward(self, packed: Packed) -> Tensor:
        """Token vectors (T, D), in the order of the packed batch.

        Raises:
            DataError: if a row is longer than `max_length`.
        """
        if packed.longest > self.config.max_length:
            raise DataError(f"a text of {packed.longest} tokens is longer than max_length {self.config.max_length}")
        x_TD = self.token_embedding(packed.ids_T) + self.type_embedding.weight[0]
        if self.position_embedding is not None:
            x_TD = x_TD + self.position_embedding(packed.positions_T())
        x_TD = self.dropout(self.embedding_norm(x_TD))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_TD = checkpoint(block, x_TD, packed, self.slopes, self.backend, use_reentrant=False)
            else:
                x_TD = block(x_TD, packed, self.slopes, self.backend)
        return x_TD

    def embed(self, packed: Packed) -> Tensor:
        """(N, width) float32, the mean of each row's token vectors, rows as given to `Packed`; not normalised.

        With n-grams: that mean at length 1, beside the vector of the n-grams at its learnt length.

        Raises:
            DataError: the encoder reads n-grams, and the batch has none.
        """
        weights_T = None if self.log_token_weight is None else self.log_token_weight[packed.ids_T].exp()
        mean_ND = packed.mean_ND(self(packed), weights_T)
        if self.ngrams is None:
            return mean_ND
        if packed.ngrams is None:
            raise DataError("this encoder reads n-grams, but the texts have none: encode them by its own tokenizer")
        return torch.cat([F.normalize(mean_ND, dim=-1), self.ngrams(*packed.ngrams)], dim=-1)

    @torch.no_grad()
    def start_weights(self, table: TokenTable) -> None:
        """Let weighted pooling start at ln((1 + N) / (1 + n)), at least 0.05: n of the N texts have the token."""
        assert self.log_token_weight is not None
        size = self.config.vocabulary_size
        # One number a text and token, so that a token counts once a text.
        counts_V = np.bincount(np.unique(row_numbers(table.lengths) * size + table.ids) % size, minlength=size)
        idf_V = np.log((1 + len(table)) / (1 + counts_V))
        self.log_token_weight.copy_(torch.from_numpy(np.log(np.maximum(idf_V, LEAST_WEIGHT))))


def _initialise(module: nn.Module) -> None:
    """BERT's: normal with standard deviation 0.02, biases zero, norms the identity."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, Block) and module.zero_start:
        nn.init.zeros_(module.output.weight)
        nn.init.zeros_(module.down.weight)
