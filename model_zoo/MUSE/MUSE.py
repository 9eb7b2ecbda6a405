"""MUSE (arXiv 2512.07216): target attention that knows how alike two items are by their pretrained embeddings.

    r_es  = cos(v_e(t), v_e(s))                                   e a pretrained embedding, s a history item
    s_s   = (W_q x_t) . (W_k x_s) / sqrt(A)
    a     = softmax_s(g1 s_s + sum_e (g2_e r_es + g3_e s_s r_es)) SA-TA, with learnt scalars g
    c_ek  = number of s with r_es in the k-th of K equal parts of [-1, 1]     SimTier (arXiv 2407.19467)
    y     = sigmoid(MLP([context, x_t, sum_s a_s x_s, log(1 + c)]))

Shape legend: B rows, T history slots, D width of an item, E pretrained embeddings, V the sum of their widths, K tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from fuxictr.pytorch.layers import FeatureEmbedding
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.peers.peer import Peer
from model_zoo.peers.pooling import pooled, softmax_over
from model_zoo.peers.settings import check_counts

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


class WithVectors(FeatureEmbedding):
    """FuxiCTR's embeddings of items, and beside them the pretrained ones, at length 1: (..., D + V).

    The vectors stand in the output of the layer because it alone sees each item of a batch once.

    Args:
        feature_map: of the dataset.
        embedding_dim: width of an embedded feature.
        vectors: names of the pretrained embeddings.
    """

    def __init__(self, feature_map: FeatureMap, embedding_dim: int, vectors: Sequence[str]) -> None:
        super().__init__(feature_map, embedding_dim)
        self.vectors = tuple(vectors)

    def forward(self, X: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Embeddings; those of columns of the context are FuxiCTR's alone."""
        embedded = super().forward(X, *args, **kwargs)
        if any(name not in X for name in self.vectors):
            return embedded
        return torch.cat([embedded, *(F.normalize(X[name].float(), dim=-1) for name in self.vectors)], dim=-1)


class MUSE(Peer):
    """SimTier and SA-TA over the history, then an MLP.

    NOTE[DIFF] The paper first searches a history of up to 100,000 items for the most alike; here all of a history takes
    part, since it has tens. It has one pretrained embedding; here each adds its terms to the score. Queries, keys and
    values are of all embedded features of an item, the projected embeddings among them, not of ids alone. The MLP reads
    log(1 + count), which is on the scale of everything else.

    Args:
        feature_map: of the dataset; items must have a feature of `type: embedding`.
        embedding_dim: width of each embedded feature that does not set its own.
        attention_dim: A, of queries and keys.
        similarity_tiers: K.
        hidden_units: widths of the MLP.
        net_dropout: its dropout rate.
        batch_norm: whether its layers normalise over the batch.
        learning_rate: of the optimizer at the start.
        optimizer: name of a torch optimizer.
        loss: name of a torch loss on probabilities.
        **params: of FuxiCTR's `BaseModel`.

    Raises:
        ConfigError: no pretrained embedding, or a value that a setting does not take.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        embedding_dim: int = 32,
        attention_dim: int = 32,
        similarity_tiers: int = 20,
        hidden_units: Sequence[int] = (256, 128),
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        **params: Any,
    ) -> None:
        super().__init__(feature_map, embedding_dim=embedding_dim, **params)
        check_counts(attention_dim=attention_dim, similarity_tiers=similarity_tiers)
        self.tiers = similarity_tiers
        embeddings = len(self.vector_widths)
        self.query = nn.Linear(self.item_dim, attention_dim, bias=False)
        # W_k from the right: the query goes to the items, which are many, instead of the items to the query.
        self.key = nn.Linear(attention_dim, self.item_dim, bias=False)
        self.score = nn.Parameter(torch.ones(1))
        self.similarity = nn.Parameter(torch.ones(embeddings))
        self.product = nn.Parameter(torch.ones(embeddings))
        self.mlp = self.make_mlp(
            self.context_dim + 2 * self.item_dim + embeddings * similarity_tiers,
            hidden_units=hidden_units,
            net_dropout=net_dropout,
            batch_norm=batch_norm,
        )
        self.finish(optimizer=optimizer, loss=loss, learning_rate=learning_rate)

    def make_embedding(self, feature_map: FeatureMap, embedding_dim: int) -> FeatureEmbedding:
        """Embeddings with the pretrained ones beside them."""
        specs = {name: feature_map.features[name] for name in self.item_widths}
        vectors = {name: spec["pretrain_dim"] for name, spec in specs.items() if spec["type"] == "embedding"}
        if not vectors:
            raise ConfigError("MUSE compares pretrained embeddings: no item feature has `type: embedding`")
        self.vector_widths = list(vectors.values())
        return WithVectors(feature_map, embedding_dim, list(vectors))

    def interest(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """The pooled history and the histogram, (B, D + E K); target and history have their vectors beside them."""
        widths = [self.item_dim, *self.vector_widths]
        target_BD, *vectors_BV = target_BD.split(widths, dim=-1)
        history_BTD, *vectors_BTV = history_BTD.split(widths, dim=-1)
        cosines = [_dots(history, target) for target, history in zip(vectors_BV, vectors_BTV, strict=True)]
        cosine_BTE = torch.stack(cosines, dim=-1)
        score_BT = _dots(history_BTD, self.key(self.query(target_BD))) / self.query.out_features**0.5
        weight_BT = softmax_over(
            self.score * score_BT + cosine_BTE @ self.similarity + score_BT * (cosine_BTE @ self.product),
            mask_BT,
        )
        there = [(t != 0).any(-1)[:, None] & (s != 0).any(-1) for t, s in zip(vectors_BV, vectors_BTV, strict=True)]
        count_BEK = self._histogram(cosine_BTE, torch.stack(there, dim=-1))
        return torch.cat([pooled(weight_BT, history_BTD), count_BEK.log1p().flatten(1)], dim=-1)

    def predict(self, context_BC: Tensor, target_BD: Tensor, interest_BI: Tensor) -> Tensor:
        """`y_pred`, (B, 1); the vectors beside the target are for the comparison alone."""
        return super().predict(context_BC, target_BD[:, : self.item_dim], interest_BI)

    def _histogram(self, cosine_BTE: Tensor, there_BTE: Tensor) -> Tensor:
        """Real items a tier, (B, E, K); an item without a vector is similar to none."""
        tier_BTE = ((cosine_BTE.detach() + 1) * (self.tiers / 2)).long().clamp(0, self.tiers - 1)
        each_K = torch.arange(self.tiers, device=tier_BTE.device)
        return ((tier_BTE.unsqueeze(-1) == each_K) & there_BTE.unsqueeze(-1)).sum(dim=1).to(cosine_BTE.dtype)


def _dots(history_BTD: Tensor, query_BD: Tensor) -> Tensor:
    """Dot product of each item with the query, (B, T)."""
    return (history_BTD @ query_BD.unsqueeze(-1)).squeeze(-1)
