"""A sharded table as one tensor on rank 0, for a checkpoint that one process can read."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fuxictr_multimodal.training.sharded.table import ShardedTable

_PIECE = 1 << 26  # bytes that travel at a time


@torch.no_grad()
def whole_table(table: ShardedTable) -> Tensor | None:
    """The weight (V, D) of a table, in the host's memory on rank 0, None on the others. All ranks call it."""
    group, rank = table.group, dist.get_rank(table.group)
    first = rank == 0
    own = table.weight.detach()
    whole = torch.empty(table.rows, table.width) if first else None
    piece = max(_PIECE // (own.shape[1] * own.element_size()), 1)
    size = -(-table.rows // dist.get_world_size(group))
    for source in range(dist.get_world_size(group)):
        for start in range(source * size, min((source + 1) * size, table.rows), piece):
            stop = min(start + piece, (source + 1) * size, table.rows)
            if rank not in (0, source):
                continue
            if rank == source:
                rows = own[start - table.first : stop - table.first]
            else:
                rows = own.new_empty(stop - start, own.shape[1])
                dist.recv(rows, group=group, group_src=source)
            if whole is not None:
                whole[table.scattered.ids_of(range(start, stop))] = rows[:, : table.width].cpu()
            elif source:
                dist.send(rows.contiguous(), group=group, group_dst=0)
    return whole
