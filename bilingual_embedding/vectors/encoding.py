"""Texts to vectors: each distinct text once, sorted by length, in unpadded batches, with its speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.tokens import TokenTable, batches_by_length
from bilingual_embedding.training.gradient_cache import autocast
from fuxictr_multimodal.system.progress import Line

if TYPE_CHECKING:
    from bilingual_embedding.model.tokenizer import BilingualTokenizer

BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Encoded:
    """Vectors (N, D) float32 of length 1, one row per text, and what it took; tokens count distinct texts."""

    vectors: NDArray[np.float32]
    distinct: int
    tokens: int
    truncated: int
    seconds: float

    @property
    def texts_per_s(self) -> float:
        """Rows returned per second."""
        return len(self.vectors) / max(self.seconds, 1e-9)

    @property
    def tokens_per_s(self) -> float:
        """Tokens encoded per second."""
        return self.tokens / max(self.seconds, 1e-9)


def encode_texts(
    encoder: Encoder,
    tokenizer: BilingualTokenizer,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: str = "float32",
    progress: bool = False,
) -> Encoded:
    """Encode texts, equal texts only once. Longer ones are cut at `max_length` (the encoder's by default)."""
    started = time.perf_counter()
    max_length = max_length or encoder.config.max_length
    place: dict[str, int] = {}
    row_of_text = np.array([place.setdefault(text, len(place)) for text in texts], dtype=np.int64)
    table = tokenizer.encode(list(place), max_length=max_length)
    found = encode_table(encoder, table, batch_tokens=batch_tokens, precision=precision, progress=progress)
    return Encoded(
        vectors=found[row_of_text],
        distinct=len(place),
        tokens=int(table.offsets[-1]),
        truncated=int((table.lengths == max_length).sum()),
        seconds=time.perf_counter() - started,
    )


def embedding_of(
    encoder: Encoder,
    tokenizer: BilingualTokenizer,
    *,
    max_length: int | None = None,
    precision: str = "float32",
    progress: bool = False,
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Texts (N) to vectors (N, D) alone, by `encode_texts`."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        found = encode_texts(encoder, tokenizer, texts, max_length=max_length, precision=precision, progress=progress)
        return found.vectors

    return embed


@torch.no_grad()
def encode_table(
    encoder: Encoder,
    table: TokenTable,
    *,
    batch_tokens: int = BATCH_TOKENS,
    precision: str = "float32",
    progress: bool = False,
) -> NDArray[np.float32]:
    """Vectors (N, D) of length 1, one row per row of the table."""
    was_training = encoder.training
    encoder.eval()
    vectors = np.zeros((len(table), encoder.config.width), dtype=np.float32)
    with Line(len(table), "encode", unit="text", shown=progress) as line:
        for rows in batches_by_length(table.lengths, max_tokens=batch_tokens):
            with autocast(encoder.device, precision):
                found = encoder.embed(Packed.from_table(table.take(rows), encoder.device))
            vectors[rows] = torch.nn.functional.normalize(found, dim=-1).cpu().numpy()
            line.update(len(rows))
    encoder.train(was_training)
    return vectors
