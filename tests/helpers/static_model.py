"""A small model in the form of sentence-transformers: the mean of random word vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WIDTH = 200


def save(folder: Path, words: str) -> SentenceTransformer:
    """Write a model that knows these words, and return it."""
    # The import of the library asks whether it may use the network.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import sentence_transformers
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    numbers = {word: number for number, word in enumerate(["[UNK]", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    model = sentence_transformers.SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=WIDTH)], device="cpu"
    )
    model.save(str(folder), create_model_card=False)
    return model
