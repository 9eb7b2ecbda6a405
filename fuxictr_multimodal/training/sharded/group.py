"""The processes that hold the tables: those of the training, or this one alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from fuxictr_multimodal.system import ranks


@contextlib.contextmanager
def one_process_group(*, needed: bool, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block there is a process group, which torchrec needs of one process too.

    A process that was launched with others has joined them before. One alone gets a group of its own, which no network
    knows: what a run computes does not depend on how it was started.

    Args:
        needed: whether tables are sharded; nothing happens otherwise.
        device: of the tables.
    """
    if not needed or ranks.current().several:
        yield
        return
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
