"""The items of a batch's rows, targets and histories, whichever of the two layouts the batch has.

Shape legend: B rows, T padded history slots, N real history items of all rows, S items that features are at hand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch, Jagged

if TYPE_CHECKING:
    from fuxictr_multimodal.data.item_table import ItemTable


@dataclass(frozen=True)
class RowItems:
    """Which items each row has.

    Attributes:
        features: by name, ids (S,), tags (S, T') or embeddings (S, d), of items whose row 0 may be padding.
        target: (B,), indexes into the features.
        history: `values` (N,) index the features; padding is not among them.
    """

    features: Mapping[str, Tensor]
    target: Tensor
    history: Jagged

    @classmethod
    def of_batch(cls, batch: Batch, table: ItemTable) -> RowItems:
        """Items of a `Batch`: its ids index the item table."""
        return cls(table.features, batch.target, batch.history)

    @classmethod
    def of_triple(cls, item_dict: Mapping[str, Tensor], mask_BT: Tensor) -> RowItems:
        """Items of FuxiCTR's LongCTR triple, whose features are flat: history then target, row after row.

        >>> items = RowItems.of_triple({"item_id": torch.tensor([0, 7, 3, 8, 9, 3])}, torch.tensor([[0, 1], [1, 1]]))
        >>> items.of_targets("item_id").tolist(), items.features["item_id"][items.history.values].tolist()
        ([3, 3], [7, 8, 9])
        """
        rows, slots = mask_BT.shape
        row_N, slot_N = (mask_BT != 0).nonzero(as_tuple=True)
        history = Jagged.from_lengths(row_N * (slots + 1) + slot_N, torch.bincount(row_N, minlength=rows))
        target = torch.arange(rows, device=mask_BT.device) * (slots + 1) + slots
        return cls(item_dict, target, history)

    def of_targets(self, name: str) -> Tensor:
        """A feature of the targets, (B, ...)."""
        return self.features[name].index_select(0, self.target)
