"""Item vectors: the features of items, embedded by FuxiCTR's layer, for every slot or once for each item.

Shape legend: B rows, T padded slots, N real history items of all rows, U item vectors, D item width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from fuxictr.pytorch.layers import FeatureEmbedding, MaskedAveragePooling
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from model_zoo.QIN.attention import JaggedHistory, PaddedHistory
from model_zoo.QIN.row_items import RowItems

if TYPE_CHECKING:
    from fuxictr_multimodal.data.item_table import ItemTable

# The vectors of a whole table are kept for scoring up to this size.
MAX_TABLE_BYTES = 2 << 30
NOTHING_HIDDEN: Mapping[str, Tensor] = MappingProxyType({})


class ItemVectors:
    """Turns ids or flat item features into a target vector and a history.

    x = [embedding of each feature], in the order of the feature map: ids by lookup, tags by the mean of the
    non-padding tag embeddings, pretrained embeddings by a linear map. Targets and history items share the weights.

    Args:
        embedding: FuxiCTR's layer; its parameters are the only ones.
        features: names of the item features, in the order of the feature map.
    """

    def __init__(self, embedding: FeatureEmbedding, features: Sequence[str]) -> None:
        self.embedding = embedding
        self.features = tuple(features)
        self.forget()

    def forget(self) -> None:
        """Drop the vectors kept for scoring; call it where weights change."""
        self._table_UD: Tensor | None = None
        self._kept_for: tuple = ()
        self._ids_seen = 0

    def padded(
        self, item_dict: Mapping[str, Tensor], mask_BT: Tensor, shown: Mapping[str, Tensor] = NOTHING_HIDDEN
    ) -> tuple[Tensor, PaddedHistory]:
        """The reference implementation: embed all B (T + 1) slots, history then target, padding included.

        Args:
            item_dict: FuxiCTR's flat item features.
            mask_BT: other than 0 on real items.
            shown: of `FeatureDropout.of_items`, as in the other methods.
        """
        batch, slots = mask_BT.shape
        item_dict = _hide({name: item_dict[name] for name in self.features}, shown)
        vectors = self.embedding(item_dict, flatten_emb=True).view(batch, slots + 1, -1)
        return vectors[:, -1], PaddedHistory(vectors[:, :-1], mask_BT != 0)

    def jagged(self, items: RowItems, shown: Mapping[str, Tensor] = NOTHING_HIDDEN) -> tuple[Tensor, JaggedHistory]:
        """The optimized implementation for flat item features: embed real history items and targets only."""
        count = len(items.history.values)
        real = torch.cat([items.history.values, items.target])
        items_UD = self.embed({name: items.features[name].index_select(0, real) for name in self.features}, shown)
        history = Jagged(torch.arange(count, device=real.device), items.history.offsets)
        return items_UD[count:], JaggedHistory(items_UD, history)

    def of_batch(
        self, batch: Batch, table: ItemTable, shown: Mapping[str, Tensor] = NOTHING_HIDDEN
    ) -> tuple[Tensor, JaggedHistory]:
        """The optimized implementation for ids: embed each distinct item once, or the whole table where that is less.

        Without gradients the vectors of the table are kept, once as many ids were asked for as it has items.
        """
        ids = torch.cat([batch.history.values, batch.target]).long()
        scoring = not torch.is_grad_enabled()
        if not scoring:
            self.forget()
        rowwise = self._rowwise()
        # How many distinct ids there are, a GPU has to tell the host, and the step would wait for it. So items are
        # embedded there up to a number that the host knows; only row-wise updates need to know which, and wait.
        unknown = _on_gpu(ids) and not rowwise
        if scoring and not shown and (items_UD := self._whole_table(table, len(ids))) is not None:
            index = ids
        elif len(ids) >= (1 if unknown else 2) * table.num_items and not rowwise:
            items_UD, index = self.embed(table.features, shown), ids
        else:
            distinct, index = padded_unique(ids, table.num_items) if unknown else torch.unique(ids, return_inverse=True)
            items_UD = self.embed(table.gather(distinct), shown)
        count = len(batch.history.values)
        history = Jagged(index[:count], batch.history.offsets)
        return items_UD.index_select(0, index[count:]), JaggedHistory(items_UD, history)

    def embed(self, item_dict: Mapping[str, Tensor], shown: Mapping[str, Tensor] = NOTHING_HIDDEN) -> Tensor:
        """Embed the items of flat features, (U, D)."""
        item_dict = _hide(item_dict, shown)
        layers = self.embedding.embedding_layer
        encoders = dict(layers.feature_encoders.items())
        parts = []
        for name in self.features:
            lookup = layers.embedding_layers[name]
            if isinstance(lookup, nn.Embedding) and type(encoders.get(name)) is MaskedAveragePooling:
                parts.append(_mean_of_tags(lookup, item_dict[name].long()))
            else:
                parts.append(layers({name: item_dict[name]})[name])
        return torch.cat(parts, dim=-1)

    def _rowwise(self) -> bool:
        """Whether a step updates what it looks up, so that only items of the batch may be embedded."""
        return any(
            getattr(layer, "sparse", False) for layer in self.embedding.embedding_layer.embedding_layers.values()
        )

    def _whole_table(self, table: ItemTable, ids: int) -> Tensor | None:
        # In-place changes of the weights count up their version; fused optimizers do not, hence `forget`.
        kept_for = (id(table), *(p._version for p in self.embedding.parameters()))
        if kept_for != self._kept_for:
            self.forget()
            self._kept_for = kept_for
        self._ids_seen += ids
        # Until then looking up distinct items has cost less than the whole table would have.
        if self._table_UD is None and self._ids_seen >= table.num_items:
            one = self.embed({name: table.features[name][:1] for name in self.features})
            if one.nbytes * table.num_items <= MAX_TABLE_BYTES:
                self._table_UD = self.embed(table.features)
        return self._table_UD


def padded_unique(ids: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """`torch.unique` with the inverse, at a size that the host knows: min(N, most) ids, filled up with 0 at the end.

    Args:
        ids: (N,).
        most: there are no more different ids than this.

    >>> padded_unique(torch.tensor([7, 3, 7, 7]), 9)
    (tensor([3, 7, 0, 0]), tensor([1, 0, 1, 1]))
    """
    sorted_N, order_N = ids.sort()
    new_N = torch.ones_like(sorted_N)
    new_N[1:] = sorted_N[1:] != sorted_N[:-1]
    place_N = new_N.cumsum(0) - 1
    distinct = ids.new_zeros(min(len(ids), most)).scatter_(0, place_N, sorted_N)
    return distinct, torch.empty_like(ids).scatter_(0, order_N, place_N)


def _hide(item_dict: Mapping[str, Tensor], shown: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Item features with 0, unknown, in place of the values that are not shown."""
    return {name: ids * shown[name][ids.long()] if name in shown else ids for name, ids in item_dict.items()}


def _on_gpu(ids: Tensor) -> bool:
    return ids.device.type == "cuda"


def _mean_of_tags(lookup: nn.Embedding, tags_UT: Tensor) -> Tensor:
    """`MaskedAveragePooling` of the embedded tags, (U, d), without the (U, T, d) tensor.

    A tag counts when its embedding does not add up to 0, which is decided once for each tag of the vocabulary.
    """
    if lookup.sparse and torch.is_grad_enabled():
        # A step may not visit the whole table: look up each tag of the batch once and continue with these. The row of
        # padding is zero and takes no gradient, by the lookup.
        distinct_V, tags_UT = torch.unique(tags_UT, return_inverse=True)
        weight_VD, padding = lookup(distinct_V), None
    else:
        weight_VD, padding = lookup.weight, lookup.padding_idx
    counts_V = weight_VD.detach().sum(dim=-1) != 0
    count_U1 = counts_V[tags_UT].float().sum(dim=-1, keepdim=True) + 1e-12
    offsets = torch.arange(len(tags_UT) + 1, device=tags_UT.device) * tags_UT.shape[1]
    total_UD = F.embedding_bag(
        tags_UT.reshape(-1),
        weight_VD,
        offsets,
        mode="sum",
        padding_idx=padding,
        include_last_offset=True,
    )
    return total_UD / count_U1
