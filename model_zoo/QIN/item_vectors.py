"""Item vectors: the features of items, embedded by FuxiCTR's layer, for every slot or once for each item.

Where event features are read, the vector of a history item ends with what was known at its event, such as its age, and
that of the target with the same of the sample.

Shape legend: B rows, T padded slots, N real history items of all rows, U item vectors, D width of a target's vector,
V values of an event feature, E width of its embedding.
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
from fuxictr_multimodal.errors import InputError, did_you_mean
from model_zoo.QIN.attention import JaggedHistory, PaddedHistory
from model_zoo.QIN.fields import FIRST, Fields
from model_zoo.QIN.row_items import RowItems
from model_zoo.QIN.sparse_attend import Part

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
        fields: which features items and events have.
    """

    def __init__(self, embedding: FeatureEmbedding, fields: Fields) -> None:
        self.embedding = embedding
        self.features = fields.items
        self.events = fields.events
        self.behaviours = tuple(behaviour.name for behaviour in fields.behaviours)
        self._read = fields.target
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
            item_dict: FuxiCTR's flat item features, and event features in the same layout.
            mask_BT: other than 0 on real items.
            shown: of `FeatureDropout.of_items`, as in the other methods.
        """
        batch, slots = mask_BT.shape
        item_dict = _hide({name: item_dict[name] for name in self._read if name in item_dict}, shown)
        vectors = self.embedding(item_dict, flatten_emb=True).view(batch, slots + 1, -1)
        return vectors[:, -1], PaddedHistory(vectors[:, :-1], mask_BT != 0)

    def jagged(self, items: RowItems, shown: Mapping[str, Tensor] = NOTHING_HIDDEN) -> tuple[Tensor, JaggedHistory]:
        """The optimized implementation for flat item features: embed real history items and targets only."""
        count = len(items.history.values)
        real = torch.cat([items.history.values, items.target])
        read = [name for name in self._read if name in items.features]
        items_UD = self.embed({name: items.features[name].index_select(0, real) for name in read}, shown)
        history = Jagged(torch.arange(count, device=real.device), items.history.offsets)
        return items_UD[count:], JaggedHistory(items_UD, history)

    def of_batch(
        self, batch: Batch, table: ItemTable, shown: Mapping[str, Tensor] = NOTHING_HIDDEN
    ) -> tuple[Tensor, JaggedHistory]:
        """The target's vectors and the first history of `of_behaviours`."""
        return self.of_behaviours(batch, table, shown)[0]

    def of_behaviours(
        self, batch: Batch, table: ItemTable, shown: Mapping[str, Tensor] = NOTHING_HIDDEN
    ) -> list[tuple[Tensor, JaggedHistory]]:
        """The optimized implementation for ids: embed each distinct item once, or the whole table where that is less.

        The target's vectors are the same for every behaviour. Without gradients the vectors of the table are kept, once
        as many ids were asked for as it has items.

        Raises:
            InputError: the batch lacks a behaviour.
        """
        histories = [history_of(batch, name) for name in self.behaviours]
        ids = torch.cat([*(history.values for history in histories), batch.target]).long()
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
        *places, target_B = index.split([*(len(history.values) for history in histories), len(batch.target)])
        target_BD = items_UD.index_select(0, target_B)
        if not self.events:
            events: list[list[Part]] = [[] for _ in histories]
        else:
            columns = [event_columns(batch, history, self.events) for history in histories]
            events, targets = self._events(columns, shown)
            target_BD = torch.cat([target_BD, *targets], dim=-1)
        return [
            (target_BD, JaggedHistory(items_UD, Jagged(place, history.offsets), parts))
            for place, history, parts in zip(places, histories, events, strict=True)
        ]

    def _events(
        self, columns: Sequence[Mapping[str, tuple[Tensor, Tensor]]], shown: Mapping[str, Tensor]
    ) -> tuple[list[list[Part]], list[Tensor]]:
        """Parts of each history by event feature, and the target's vectors (B, E); each value is embedded once."""
        events: list[list[Part]] = [[] for _ in columns]
        targets = []
        layers = self.embedding.embedding_layer
        for name in self.events:
            values = [of_history[name][0].long() for of_history in columns]
            target_B = columns[0][name][1].long()
            lookup = layers.embedding_layers[name]
            size = getattr(lookup, "num_embeddings", None)
            if size is None or size > sum(map(len, values)) + len(target_B) or getattr(lookup, "sparse", False):
                distinct_V, index = torch.unique(torch.cat([*values, target_B]), return_inverse=True)
                *values, target_B = index.split([*map(len, values), len(target_B)])
            else:
                distinct_V = torch.arange(size, device=target_B.device)
            vectors_VE = layers(_hide({name: distinct_V}, shown))[name]
            targets.append(vectors_VE.index_select(0, target_B))
            for parts, index_N in zip(events, values, strict=True):
                parts.append((vectors_VE, index_N))
        return events, targets

    def embed(self, item_dict: Mapping[str, Tensor], shown: Mapping[str, Tensor] = NOTHING_HIDDEN) -> Tensor:
        """Embed items by their features, those of the dataset that are given, (U, width of these)."""
        item_dict = _hide(item_dict, shown)
        layers = self.embedding.embedding_layer
        encoders = dict(layers.feature_encoders.items())
        parts = []
        for name in (name for name in self._read if name in item_dict):
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

    def _sharded(self) -> bool:
        """Whether a lookup is an exchange of several processes, so that all of them have to look up equally often."""
        return any(
            getattr(layer, "sharded", False) for layer in self.embedding.embedding_layer.embedding_layers.values()
        )

    def _whole_table(self, table: ItemTable, ids: int) -> Tensor | None:
        if self._sharded():
            return None
        # In-place changes of the weights count up their version; fused optimizers do not, hence `forget`.
        kept_for = (id(table), *(p._version for p in self.embedding.parameters()))
        if kept_for != self._kept_for:
            self.forget()
            self._kept_for = kept_for
        self._ids_seen += ids
        # Until then looking up distinct items has cost less than the whole table would have.
        if self._table_UD is None and self._ids_seen >= table.num_items:
            features = {name: table.features[name] for name in self.features}
            one = self.embed({name: values[:1] for name, values in features.items()})
            if one.nbytes * table.num_items <= MAX_TABLE_BYTES:
                self._table_UD = self.embed(features)
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


def history_of(batch: Batch, name: str) -> Jagged:
    """The history of a behaviour by its name.

    Raises:
        InputError: the batch has none.
    """
    if name == FIRST:
        return batch.history
    if name not in batch.behaviours:
        raise InputError(f"a batch lacks the behaviour {name!r}. {did_you_mean(name, [FIRST, *batch.behaviours])}")
    return batch.behaviours[name]


def event_columns(batch: Batch, history: Jagged, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Event features of a history (N,) and of the targets (B,) by name; 0, unknown, where one of them has none."""

    def of_targets(name: str) -> Tensor:
        return batch.features[name] if name in batch.features else torch.zeros_like(batch.target)

    def of_history(name: str) -> Tensor:
        return history.events[name] if name in history.events else torch.zeros_like(history.values)

    return {name: (of_history(name), of_targets(name)) for name in names}


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
