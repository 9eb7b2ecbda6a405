"""Embed each distinct item of a batch once for a LongCTR model, where FuxiCTR embeds every slot.

Shape legend: B rows, T history slots, S = B (T + 1) slots, U distinct items.
"""

from __future__ import annotations

from typing import Any

import torch
from fuxictr.pytorch.layers import FeatureEmbedding
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.zoo.layouts import longctr_slots


class DistinctItems:
    """Turns a `Batch` into the LongCTR triple with the features of U items, and spreads their embeddings to S slots.

    Four of five slots are padding and popular items repeat, so U is a small part of S. The embedding layer sees U rows;
    a hook on it hands the model the S rows that it expects. Values are the same, and gradients up to the order of
    their sums.

    Args:
        model: calls `embedding_layer` once with the item features, as all models of LongCTR do.
        item_table: on the model's device.
        max_len: T, the longest history of the batch where None.
        padding: `pre` or `post`.
    """

    def __init__(self, model: BaseModel, item_table: ItemTable, *, max_len: int | None, padding: str) -> None:
        self._table = item_table
        self._max_len = max_len
        self._padding = padding
        self._items: dict[str, Tensor] = {}
        self._place_S: Tensor | None = None
        model.embedding_layer.register_forward_hook(self._spread, with_kwargs=True)

    @classmethod
    def of(cls, model: BaseModel, item_table: ItemTable, *, max_len: int | None, padding: str) -> DistinctItems | None:
        """For a model whose embedding layer treats every row alike; None for another."""
        if not rows_alike(getattr(model, "embedding_layer", None)):
            return None
        return cls(model, item_table, max_len=max_len, padding=padding)

    def __call__(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The triple `(batch_dict, item_dict, mask)`; the model must read it before the next one is made."""
        table, batch = (self._table, batch) if batch.fold is None else self._table.of_batch(batch)
        slots_BT1, mask_BT = longctr_slots(batch, max_len=self._max_len, padding=self._padding)
        ids_S = slots_BT1.flatten().long()
        there = torch.zeros(table.num_items, dtype=torch.bool, device=ids_S.device)
        there[ids_S] = True
        self._place_S = (there.cumsum(0) - 1)[ids_S]
        self._items = table.gather(there.nonzero().flatten())
        return dict(batch.features), self._items, mask_BT

    def _spread(self, _: nn.Module, args: tuple, kwargs: dict[str, Any], output_UD: Tensor) -> Tensor:
        if not args or args[0] is not self._items or self._place_S is None:
            return output_UD
        return output_UD.index_select(0, self._place_S)


def rows_alike(layer: Any) -> bool:
    """Whether this is an embedding layer of FuxiCTR that treats every row alike."""
    if not isinstance(layer, FeatureEmbedding):
        return False
    return not any(isinstance(part, nn.Dropout | nn.modules.batchnorm._NormBase) for part in layer.modules())
