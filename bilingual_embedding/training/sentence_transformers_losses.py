"""Our losses in the form of sentence-transformers, whose own have no Pearson objective and average both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from bilingual_embedding.training import losses


class CorrelationLoss(nn.Module):
    """Negative Pearson correlation of the pairs' cosines with `labels`; two text columns and a score."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        """Loss of a batch."""
        left_BD, right_BD = (self.model(features)["sentence_embedding"] for features in sentence_features)
        return losses.correlation_loss(left_BD, right_BD, labels)


class PairsLoss(nn.Module):
    """Symmetric InfoNCE, the sum of both directions; a third column and more are hard negatives."""

    def __init__(self, model: SentenceTransformer, *, temperature: float = losses.TEMPERATURE) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Loss of a batch."""
        left_BD, right_BD, *negatives = (self.model(features)["sentence_embedding"] for features in sentence_features)
        negative_ND = torch.cat([left_BD[:0], *negatives])
        return losses.retrieval_loss(left_BD, right_BD, negative_ND, temperature=self.temperature)
