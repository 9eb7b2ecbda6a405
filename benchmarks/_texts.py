"""Random tokens with the lengths of item texts: mostly titles, some descriptions."""

from __future__ import annotations

import numpy as np

from bilingual_embedding.model.tokens import TokenTable


def item_texts(count: int, vocabulary: int) -> TokenTable:
    """Log-normal lengths: median 16 tokens, cut to 4 and 256."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.exp(generator.normal(np.log(16), 0.8, count)), 4, 256).astype(int)
    return TokenTable.from_lists([generator.integers(4, vocabulary, length) for length in lengths])
