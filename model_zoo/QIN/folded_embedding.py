"""FuxiCTR's embedding layer for some of its features, in a graph that is exported.

Shape legend: B rows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from fuxictr.pytorch.layers import FeatureEmbedding, MaskedAveragePooling
from torch import Tensor, nn


class FeatureVectors(nn.Module):
    """Embeds some features of a network; other tables are left out, so that an export does not carry them.

    Args:
        embedding: FuxiCTR's layer; the weights are shared with it.
        names: features that are embedded, in this order.
    """

    def __init__(self, embedding: FeatureEmbedding, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        whole = embedding.embedding_layer
        self.layers = copy.copy(whole)
        self.layers._modules = dict(whole._modules)
        for kind in ("embedding_layers", "feature_encoders"):
            known = getattr(whole, kind)
            chosen = {name: known[name] for name in names if name in known}
            setattr(self.layers, kind, nn.ModuleDict({name: _exportable(layer) for name, layer in chosen.items()}))

    def forward(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The vectors side by side, (B, width); of categorical features any shape of codes."""
        return torch.cat([self.layers({name: columns[name]})[name] for name in self.names], dim=-1)


class MeanOfTags(nn.Module):
    """`MaskedAveragePooling` with max(count, 1) for its count + 1e-12, which the export to ONNX takes for the count."""

    def forward(self, vectors_BTd: Tensor) -> Tensor:
        """The mean of the vectors that do not add up to 0, (B, d)."""
        count_B1 = (vectors_BTd.sum(dim=2) != 0).sum(dim=1, keepdim=True)
        return vectors_BTd.sum(dim=1) / count_B1.clamp(min=1)


def _exportable(layer: nn.Module) -> nn.Module:
    return MeanOfTags() if type(layer) is MaskedAveragePooling else layer
