"""How alike a target and its history items are in pretrained embeddings: cosines, for the scores of the attention.

    r_s = cos(e_t - m, e_s - m), of each pretrained embedding, for each history item s

A network has to learn from clicks alone that two pretrained embeddings are alike, through the projection that it shares
with everything else; their cosine is known before the first click. m is the mean embedding of all items: pretrained
embeddings mostly share one direction, and without it all cosines are alike.

Shape legend: B rows, N real history items of all rows, E pretrained embeddings, d width of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.sparse_attend import dots


class Similarity(nn.Module):
    """The cosines of targets and their history items; it has no weights, and no gradient passes through it.

    Args:
        specs: of the feature map, by name; items' pretrained embeddings are compared.

    Attributes:
        names: of these, E.

    Raises:
        ConfigError: no pretrained embedding.
    """

    fitted: Tensor

    def __init__(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        pretrained = {
            n: spec for n, spec in specs.items() if spec["type"] == "embedding" and spec.get("source") == "item"
        }
        if not pretrained:
            raise ConfigError(
                "attention_similarity compares pretrained embeddings: no item feature has `type: embedding`"
            )
        self.names = tuple(pretrained)
        for name, spec in pretrained.items():
            self.register_buffer(f"mean_{name}", torch.zeros(spec["pretrain_dim"]))
        # Whether the means are set: those of a checkpoint stay, also with another item table.
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, features: Mapping[str, Tensor]) -> None:
        """Set the means m once, from the items of a table that have an embedding; row 0, padding, has none."""
        if self.fitted:
            return
        for name in self.names:
            values_Nd = features[name].float()
            there_N = (values_Nd != 0).any(dim=1)
            mean = values_Nd.sum(dim=0) / there_N.sum().clamp(min=1)
            getattr(self, f"mean_{name}").copy_(mean)
        self.fitted.fill_(True)

    @torch.no_grad()
    def forward(self, items: RowItems) -> Tensor:
        """The cosines of the first history, (N, E); 0 where one of the two has an embedding of zeros."""
        row_N, index_N = items.history.row_index(), items.history.values.long()
        found = []
        for name in self.names:
            values_Sd, mean_d = items.features[name].float(), getattr(self, f"mean_{name}").float()
            target_Bd = values_Sd.index_select(0, items.target)
            query_Bd = directions(target_Bd, mean_d)
            # (e_s - m).q / |e_s - m|, without a centred copy of the table.
            length_N = _lengths(values_Sd, mean_d, index_N)
            dot_N = dots(query_Bd, row_N, values_Sd, index_N) - (query_Bd @ mean_d)[row_N]
            there_N = (length_N > 0) & (query_Bd != 0).any(dim=-1)[row_N]
            found.append(dot_N / length_N.clamp(min=1e-12) * there_N)
        return torch.stack(found, dim=1)


def directions(values: Tensor, mean_d: Tensor) -> Tensor:
    """Values (..., d) without the mean, of length 1; zeros stay zeros."""
    return F.normalize(_centred(values, mean_d), dim=-1)


def _centred(values_Bd: Tensor, mean_d: Tensor) -> Tensor:
    """values - mean; zeros stay zeros."""
    return (values_Bd - mean_d) * (values_Bd != 0).any(dim=-1, keepdim=True)


def _lengths(values_Sd: Tensor, mean_d: Tensor, index_N: Tensor) -> Tensor:
    """|values - mean| of the history items, (N,); 0 where there is no embedding."""
    if len(index_N) < len(values_Sd):
        return _centred(values_Sd.index_select(0, index_N), mean_d).norm(dim=-1)
    return _centred(values_Sd, mean_d).norm(dim=-1)[index_N]
