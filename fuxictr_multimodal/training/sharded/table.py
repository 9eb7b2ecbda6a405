"""One embedding table whose rows are spread over the processes: a block of them for each rank, torchrec the exchange.

A lookup sends each id to the rank of its row, and the rows back. Gradients wait where they arise until the optimizer
of the model takes a step: then they go to the ranks of their rows, those of one row are added up there, and the row is
updated. So a step is one update, however often it looked the table up, and the order of the exchanges does not depend
on what the samples of a rank need.

Shape legend: V rows of the table, R rows of this rank, U ids of a lookup, G rows that a lookup of all ranks takes from
this one, D width, P width as stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fuxictr_multimodal.training.sharded.library import load_library
from fuxictr_multimodal.training.sharded.row_updates import AdamRows, FusedRows, RowUpdates, fused_parameters
from fuxictr_multimodal.training.sharded.scattered import Scattered

_NAME = "table"
_AT_ONCE = 1 << 18  # rows copied at a time
_DRAWN = 1 << 16  # rows drawn at a time: another number draws others
_MULTIPLE = 4  # FBGEMM's rows are a multiple of four numbers


class _Lookup(NamedTuple):
    """What a step needs of a lookup: its vectors as torchrec returned and as the model read them, the same of the
    rows that this rank gave for it, and torchrec's context."""

    sent_UP: Tensor
    read_UP: Tensor
    rows_G: Tensor
    given_GP: Tensor
    context: Any


class ShardedTable:
    """A table of V rows of width D, all zero at first.

    Args:
        name: of the table, for messages and files.
        rows, width: V and D.
        padding: the row that no step changes, or None.
        updates: one of `UPDATES`.
        group: the processes; each of them makes the table.
        local_size: processes of the group on this machine.
        device: of the rows.

    Attributes:
        first: number of the first row of this rank, see `Scattered`.
        weight: the rows of this rank (R, P).
        names: of the weights of the model that are this table.
        waiting: rows of this rank (U,), each once, and their gradients (U, P), for the next step; None without lookups.
        resumed: the same, as a state had it, until the window is continued.
        on_gradient: called in a backward pass when the gradient of a lookup has arrived.
    """

    def __init__(
        self,
        name: str,
        *,
        rows: int,
        width: int,
        padding: int | None,
        updates: str,
        group: dist.ProcessGroup,
        local_size: int,
        device: torch.device,
    ) -> None:
        self.name, self.rows, self.width, self.padding, self.group = name, rows, width, padding, group
        self.scattered = Scattered(rows)
        self._padding_row = -1 if padding is None else int(self.scattered.rows_of(torch.tensor(padding)))
        self._library = library = load_library()
        stored = -(-width // _MULTIPLE) * _MULTIPLE
        config = library.EmbeddingConfig(
            num_embeddings=rows,
            embedding_dim=stored,
            name=_NAME,
            feature_names=[_NAME],
            init_fn=nn.init.zeros_,
        )
        whole = library.EmbeddingCollection(tables=[config], device=torch.device("meta"))
        sharder = library.EmbeddingCollectionSharder(fused_params=fused_parameters(updates))
        plan = library.construct_module_sharding_plan(
            whole,
            {_NAME: library.row_wise(compute_kernel="fused")},
            sharder=sharder,
            local_size=local_size,
            world_size=dist.get_world_size(group),
            device_type=device.type,
        )
        # The random numbers of a training do not depend on whether its tables are sharded, nor does its log hold what
        # torchrec and FBGEMM say of theirs.
        with _without_log(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._module = sharder.shard(whole, plan, library.ShardingEnv.from_process_group(group), device=device)
        (sharded,) = self._module.state_dict().values()
        shard = sharded.local_shards()[0]
        self.first: int = shard.metadata.shard_offsets[0]
        self.weight: Tensor = shard.tensor
        self.weight.zero_()
        self.on_gradient: Callable[[], None] = lambda: None
        self.names: list[str] = []
        self.waiting: tuple[Tensor, Tensor] | None = None
        self.resumed: tuple[Tensor, Tensor] | None = None
        self._pending: list[_Lookup] = []
        self.updates: RowUpdates
        if updates == "adam":
            self.updates = AdamRows(self.weight)
        else:
            self.updates = FusedRows(self._module.fused_optimizer, self._own_rows)

    @torch.no_grad()
    def take_rows(self, whole_VD: Tensor) -> None:
        """Take the rows of this rank from the whole table, whose rows are ids."""
        for start in range(0, len(self.weight), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self.weight))
            ids = self.scattered.ids_of(range(self.first + start, self.first + stop))
            self.weight[start:stop, : self.width] = whole_VD[ids.to(whole_VD.device)]

    @torch.no_grad()
    def draw_rows(self, initializer: Callable[[Tensor], object], seed: int) -> None:
        """Initialise the rows of this rank, a piece of the table at a time; the same for any number of ranks.

        Args:
            initializer: fills a tensor with initial weights.
            seed: of the run.
        """
        for number, start in enumerate(range(0, self.rows, _DRAWN)):
            stop = min(start + _DRAWN, self.rows)
            own = range(max(start, self.first), min(stop, self.first + len(self.weight)))
            if not own:
                continue
            piece = torch.empty(stop - start, self.width)
            with torch.random.fork_rng(devices=[]):
                digest = hashlib.sha256(f"{seed} {self.name} {number}".encode()).digest()
                torch.manual_seed(int.from_bytes(digest[:7], "little"))
                initializer(piece)
            here = slice(own.start - self.first, own.stop - self.first)
            self.weight[here, : self.width] = piece[own.start - start : own.stop - start].to(self.weight)
        if 0 <= self._padding_row - self.first < len(self.weight):
            self.weight[self._padding_row - self.first] = 0

    def look_up(self, ids_U: Tensor) -> Tensor:
        """The rows (U, D) of ids, int64. All ranks look up at the same time, each its own ids, maybe none.

        Raises:
            IndexError: an id is not of the table.
        """
        if len(ids_U) and not (int(ids_U.min()) >= 0 and int(ids_U.max()) < self.rows):
            raise IndexError(f"table {self.name} has {self.rows} rows, an id is outside: {int(ids_U.max())}")
        context = self._module.create_context()
        received = self._module.input_dist(context, self._features(self.scattered.rows_of(ids_U))).wait().wait()
        with torch.no_grad():
            (given_GP,) = self._module.compute(context, received)
        training = torch.is_grad_enabled()
        given_GP = given_GP.detach().requires_grad_(training)
        sent_UP = self._module.output_dist(context, [given_GP]).wait()[_NAME].values()
        read_UP = sent_UP.detach().requires_grad_(training)
        if training:
            read_UP.register_post_accumulate_grad_hook(lambda _: self.on_gradient())
            self._pending.append(_Lookup(sent_UP, read_UP, received[0].values(), given_GP, context))
        return read_UP[:, : self.width]

    def settle(self) -> tuple[Tensor, Tensor] | None:
        """Bring the gradients of all lookups since the last call to the ranks of their rows, where they wait.

        All ranks call it at the same time. A gradient is that of the sum of the losses of all ranks.

        Returns:
            What waits, see `waiting`.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return self.waiting
        for lookup in pending:
            torch.autograd.backward(lookup.sent_UP, _gradient(lookup.read_UP))
        rows = [lookup.rows_G for lookup in pending]
        gradients = [_gradient(lookup.given_GP) for lookup in pending]
        if self.waiting is not None:
            rows, gradients = [self.waiting[0], *rows], [self.waiting[1], *gradients]
        rows_G, grad_GP = torch.cat(rows), torch.cat(gradients)
        if self.padding is not None:
            real_G = rows_G != self._padding_row - self.first
            rows_G, grad_GP = rows_G[real_G], grad_GP[real_G]
        rows_U, place_G = torch.unique(rows_G, return_inverse=True)
        self._context = pending[-1].context
        self.waiting = rows_U, grad_GP.new_zeros(len(rows_U), grad_GP.shape[1]).index_add_(0, place_G, grad_GP)
        return self.waiting

    def forget(self) -> None:
        """Drop the gradients that wait, as `zero_grad` does."""
        self._pending.clear()
        self.waiting = None

    def _features(self, ids: Tensor) -> Any:
        lengths = torch.tensor([len(ids)], dtype=torch.int64, device=ids.device)
        return self._library.KeyedJaggedTensor(keys=[_NAME], values=ids, lengths=lengths)

    def _own_rows(self, rows_U: Tensor) -> Tensor:
        (vectors_UP,) = self._module.compute(self._context, self._library.KJTList([self._features(rows_U)]))
        return vectors_UP


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Within the block nothing is logged, as far as it is no warning."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
