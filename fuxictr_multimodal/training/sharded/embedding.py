"""The module that stands in for the `nn.Embedding` of a sharded table."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuxictr_multimodal.training.sharded.table import ShardedTable


class ShardedEmbedding(nn.Module):
    """Looks ids up in a `ShardedTable`: called like `nn.Embedding`, on all ranks equally often.

    Each distinct id is exchanged once. The table is none of its parameters, so that neither the optimizer of the model,
    nor its penalties, nor the exchange of gradients sees it.

    Attributes:
        gradient_norm: a number that is never trained; its gradient is the norm of the table's, see `steps.py`.
        sparse: as of an `nn.Embedding`: a step is to look up what it needs, and not the whole table.
        sharded: a lookup is an exchange, so no rank may look up at its own discretion.
    """

    sparse = True
    sharded = True

    def __init__(self, table: ShardedTable) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, which `nn.Module` does not look into
        self.num_embeddings, self.embedding_dim, self.padding_idx = table.rows, table.width, table.padding
        self.gradient_norm = nn.Parameter(torch.zeros((), device=table.weight.device), requires_grad=False)

    @property
    def table(self) -> ShardedTable:
        """What is looked up in."""
        return self._table[0]

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (..., D) of ids (...)."""
        distinct_U, place = torch.unique(ids.long(), return_inverse=True)
        return F.embedding(place, self.table.look_up(distinct_U))

    def _save_to_state_dict(self, *_: Any) -> None:
        """Nothing: rows are kept by `rows_files.py`, and by `ShardedTables.weights`."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Nothing, as it is saved."""

    def extra_repr(self) -> str:
        """As `nn.Embedding`'s."""
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}, sharded"
