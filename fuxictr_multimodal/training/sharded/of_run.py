"""The sharded tables of a run, as its settings say; most runs have none and import nothing of this."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system import ranks

if TYPE_CHECKING:
    from fuxictr.pytorch.models import BaseModel

    from fuxictr_multimodal.training.sharded.tables import ShardedTables

SETTING = "shard_min_rows"


@contextlib.contextmanager
def group_for_tables(params: Mapping[str, Any]) -> Iterator[None]:
    """Within the block there is a process group if tables are sharded: torchrec needs one of a single process too.

    Processes that were launched together have joined theirs before. One alone gets a group that no network knows, so
    that what a run computes does not depend on the number of processes.

    Args:
        params: of the run.

    Raises:
        ConfigError: torchrec is not installed, or does not fit; before anything is trained.
    """
    if params.get(SETTING) is None:
        yield
        return
    from fuxictr_multimodal.training.sharded.library import load_library

    load_library()
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if params.get("gpu", -1) >= 0 else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard_tables(model: BaseModel, params: Mapping[str, Any]) -> ShardedTables | None:
    """Spread the large tables of a model, as it is now, over the processes, if `shard_min_rows` is set.

    Returns:
        The tables, which `model.sharded_tables` is too.

    Raises:
        ConfigError: see `ShardedTables`; or `weight_averaging` is set.
    """
    min_rows = params.get(SETTING)
    if min_rows is None:
        return None
    if params.get("weight_averaging"):
        raise ConfigError(
            f"{SETTING} does not go with weight_averaging, which averages all rows of a table in each step: leave one "
            "of them out"
        )
    from torch import distributed

    from fuxictr_multimodal.training.sharded.tables import ShardedTables

    here = ranks.current()
    tables = ShardedTables(
        model,
        min_rows=min_rows,
        updates=params.get("sharded_optimizer"),
        group=ranks.layer_group() if here.several else distributed.group.WORLD,
        local_size=here.local_world_size,
    )
    model.sharded_tables = tables
    return tables
