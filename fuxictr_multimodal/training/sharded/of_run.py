"""The sharded tables of a run, as its settings say; most runs have none and import nothing of this."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.system.torch_files import all_finite

if TYPE_CHECKING:
    from fuxictr.pytorch.models import BaseModel

    from fuxictr_multimodal.data.loader import MultimodalDataLoader

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
        # The threads of a group do not survive a fork of this process: nothing of it may be left to be freed there.
        gc.collect()


def tables_to_shard(params: Mapping[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Within the block a model is built without the tables that no process could hold; see `stand_ins.py`."""
    if params.get(SETTING) is None:
        return contextlib.nullcontext()
    from fuxictr_multimodal.training.sharded.stand_ins import stand_ins

    return stand_ins(params[SETTING])


def refuse_warm_start(model: BaseModel) -> None:
    """Refuse to copy weights into tables that no process holds whole.

    Raises:
        ConfigError: the model has such a table.
    """
    if any(hasattr(part, "whole_rows") for part in model.modules()):
        raise ConfigError("warm_start: a table of this run is too large for one process: train without warm_start")


def shard_tables(model: BaseModel, params: Mapping[str, Any], state: Path) -> None:
    """Spread the large tables of a model, as it is now, over the processes, if `shard_min_rows` is set.

    `model.sharded_tables` has them then, and `model.spread` their part of a state.

    Args:
        model: compiled.
        params: of the run.
        state: file of its last state.

    Raises:
        ConfigError: see `ShardedTables`; or `weight_averaging` is set.
    """
    min_rows = params.get(SETTING)
    if min_rows is None:
        return
    if params.get("weight_averaging"):
        raise ConfigError(
            f"{SETTING} does not go with weight_averaging, which averages all rows of a table in each step: leave one "
            "of them out"
        )
    from torch import distributed

    from fuxictr_multimodal.training.sharded.states import TableStates
    from fuxictr_multimodal.training.sharded.tables import ShardedTables

    here = ranks.current()
    tables = ShardedTables(
        model,
        min_rows=min_rows,
        updates=params.get("sharded_update"),
        seed=params.get("seed", 0),
        group=ranks.layer_group() if here.several else distributed.group.WORLD,
        local_size=here.local_world_size,
    )
    model.sharded_tables, model.spread = tables, TableStates(tables, state)


def calls_to_score(model: BaseModel, loader: MultimodalDataLoader) -> int:
    """How often this rank calls the model to score its part of a split: with sharded tables as often as any other one.

    Raises:
        ConfigError: it has nothing to call the model on.
    """
    if getattr(model, "sharded_tables", None) is None or not loader.ranks.several:
        return len(loader)
    if not all(ranks.all_of(loader.own_samples > 0)):
        raise ConfigError(_too_few_rows(str(loader.data_path), loader.num_samples, loader.ranks.world_size))
    return int(ranks.largest_over_ranks(torch.tensor(len(loader))))


def refuse_few_rows(params: Mapping[str, Any], rows: Mapping[str, int]) -> None:
    """Refuse a split of which a process has no row, since scoring calls sharded tables on all of them.

    Args:
        params: of the run.
        rows: of each split.

    Raises:
        ConfigError: there is such a split.
    """
    count = ranks.current().world_size
    for split, found in rows.items():
        # The rows of a training step are dealt, and stand-ins fill what is empty.
        if params.get(SETTING) is not None and split != "train" and found < count:
            raise ConfigError(_too_few_rows(f"the split {split!r} of {params['dataset_id']}", found, count))


def _too_few_rows(what: str, rows: int, processes: int) -> str:
    return (
        f"{SETTING} needs a row of each split for every process, but {what} has {rows} for {processes}: start fewer "
        "processes, or leave it out"
    )


def finite_everywhere(model: BaseModel) -> bool:
    """Whether all weights of a model are, with its rows of sharded tables on all ranks."""
    tables = getattr(model, "sharded_tables", None)
    if tables is None:
        return all_finite(model)
    damaged = not (all_finite(model) and tables.all_finite())
    return not ranks.largest_over_ranks(torch.tensor(float(damaged))).item()
