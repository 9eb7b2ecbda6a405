"""Masked language modelling: whole words hidden, and the head that guesses them.

Legend: T tokens of a batch, M masked ones, D width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bilingual_embedding.model.encoder import LAYER_NORM_EPS, Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.tokenizer import SPECIAL_TOKENS
from bilingual_embedding.model.tokens import TokenTable, batches_by_length
from fuxictr_multimodal.data.jagged import row_numbers
from fuxictr_multimodal.system.progress import followed

MASK_ID = SPECIAL_TOKENS.index("<mask>")


@dataclass(frozen=True)
class Masked:
    """A table whose chosen tokens are hidden; `chosen` (T,) bool, `originals` (T,) the tokens before."""

    table: TokenTable
    chosen: NDArray[np.bool_]
    originals: NDArray[np.int32]

    def parts(self, max_tokens: int) -> Iterator[Masked]:
        """The same in parts of at most `max_tokens` tokens (or one row)."""
        if len(self.originals) <= max_tokens:
            yield self
            return
        for rows in batches_by_length(self.table.lengths, max_tokens=max_tokens):
            keep = self.table.places(rows)
            yield Masked(table=self.table.take(rows), chosen=self.chosen[keep], originals=self.originals[keep])


def mask_words(table: TokenTable, generator: np.random.Generator, *, rate: float = 0.3, vocabulary_size: int) -> Masked:
    """Choose whole words with probability `rate`; of their tokens 80 % become <mask>, 10 % any token, 10 % stay.

    Special tokens are never chosen.
    """
    rows = row_numbers(table.lengths)
    # A word begins where the row or the word's number changes.
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = (rows[1:] != rows[:-1]) | (table.words[1:] != table.words[:-1])
    word_of_token = np.cumsum(begins) - 1
    chosen_words = generator.random(word_of_token[-1] + 1) < rate
    chosen = chosen_words[word_of_token] & (table.words >= 0)
    fate = generator.random(len(rows))
    ids = np.where(chosen & (fate < 0.8), MASK_ID, table.ids)
    random_ids = generator.integers(len(SPECIAL_TOKENS), vocabulary_size, len(rows))
    ids = np.where(chosen & (fate >= 0.9), random_ids, ids).astype(np.int32)
    return Masked(
        table=TokenTable(ids=ids, words=table.words, offsets=table.offsets), chosen=chosen, originals=table.ids
    )


class MaskedLanguageModel(nn.Module):
    """Encoder and BERT's head: dense, gelu, layer norm, then the token table again as output weights."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        width = encoder.config.hidden
        self.encoder = encoder
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocabulary_size))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, masked: Masked) -> tuple[Tensor, Tensor]:
        """Logits (M, V) of the masked tokens only, and what they were (M,)."""
        device = self.encoder.device
        packed = Packed.from_table(masked.table, device)
        order = packed.token_order_T.cpu().numpy()
        chosen_T = torch.from_numpy(masked.chosen[order]).to(device)
        targets_M = torch.from_numpy(masked.originals[order][masked.chosen[order]].astype(np.int64)).to(device)
        hidden_MD = self.norm(F.gelu(self.dense(self.encoder(packed)[chosen_T])))
        return F.linear(hidden_MD, self.encoder.token_embedding.weight, self.bias), targets_M


def masked_loss(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """Mean cross-entropy of the masked tokens; 0 where none was masked."""
    return F.cross_entropy(logits_MV.float(), targets_M, reduction="sum") / max(len(targets_M), 1)


@torch.no_grad()
def masked_accuracy(
    model: MaskedLanguageModel, table: TokenTable, *, seed: int, rate: float = 0.3, progress: bool = False
) -> float | None:
    """Fraction of masked tokens that the model predicts, row by row; None where none was masked."""
    generator = np.random.default_rng(seed)
    size = model.encoder.config.vocabulary_size
    model.eval()
    right = total = 0
    for row in followed(range(len(table)), total=len(table), what="masked words", shown=progress):
        logits_MV, targets_M = model(mask_words(table.take([row]), generator, rate=rate, vocabulary_size=size))
        right += int((logits_MV.argmax(dim=-1) == targets_M).sum())
        total += len(targets_M)
    return right / total if total else None


def accuracy_by_length(
    model: MaskedLanguageModel,
    table: TokenTable,
    lengths: Sequence[int],
    *,
    seed: int,
    progress: bool = False,
) -> dict[str, float | None]:
    """Accuracy in percent on the same long rows, read in windows of each length.

    Rows below the longest window are left out, and all windows but whole ones, so that a length means itself. Where
    nothing is left, the accuracy is None and a logged line says so.
    """
    found = {}
    long_rows = table.take(np.flatnonzero(table.lengths >= max(lengths)))
    for length in lengths:
        windows = long_rows.windows(length)
        whole = windows.take(np.flatnonzero(windows.lengths == length))
        name = f"masked words at {length}"
        share = masked_accuracy(model, whole, seed=seed, progress=progress)
        found[name] = None if share is None else 100 * share
        if share is None:
            logging.warning("%s: no value: no text of the masked source has %d tokens", name, max(lengths))
    return found
