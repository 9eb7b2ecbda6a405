"""The processes of one training: who this one is among them, and the few things that they do together.

`torchrun` starts the processes and names them in the environment; `joined` connects them. One process alone is rank 0
of 1: everything here works for it and needs no torch.distributed. Results of sums and decisions are the same on every
rank.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.rank_board import START_SECONDS, Board, board, losses_named

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")

# A rank that does not answer for so long is lost: longer than rank 0 needs to write a state or to compute metrics.
TIMEOUT_SECONDS = 600.0
# What torchrun and other launchers set for each process; all four are there, or the process is alone.
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """Who a process is.

    Attributes:
        rank: its number, from 0.
        world_size: number of processes.
        local_rank: its number on its machine, which is that of its GPU.
        local_world_size: processes on its machine, which share its memory.

    >>> Ranks().first, Ranks().several, Ranks(rank=1, world_size=2).part_of(5)
    (True, False, range(2, 5))
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes files and logs."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def part_of(self, count: int) -> range:
        """This rank's contiguous part of `count` rows; the parts of all ranks are all rows, in order."""
        start, stop = (place * count // self.world_size for place in (self.rank, self.rank + 1))
        return range(start, stop)


ALONE = Ranks()


def launched() -> Ranks:
    """What the environment says of this process, before any connection.

    Raises:
        ConfigError: a variable of the launcher is not a number, or they contradict each other.
    """
    if not all(os.environ.get(name) for name in _NEEDED):
        return ALONE
    world_size = _number("WORLD_SIZE", 1)
    local_rank = _number("LOCAL_RANK", 0)
    found = Ranks(
        _number("RANK", 0), world_size, local_rank, _number("LOCAL_WORLD_SIZE", min(local_rank + 1, world_size))
    )
    if not (0 <= found.rank < world_size and 0 <= local_rank < found.local_world_size <= world_size):
        raise ConfigError(
            f"RANK={found.rank}, WORLD_SIZE={world_size}, LOCAL_RANK={local_rank} and LOCAL_WORLD_SIZE="
            f"{found.local_world_size} of the environment contradict each other: start the processes with torchrun"
        )
    return found


def current() -> Ranks:
    """Who this process is in the group that it has joined; alone, if it has joined none."""
    # Who has not imported it is in no group, and importing it takes seconds.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return ALONE
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if world_size == 1:
        return ALONE
    return Ranks(rank, world_size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", world_size))


@contextlib.contextmanager
def joined(*, gpu: int = -1, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Connect the processes that were launched together within the block; one alone is connected to nobody.

    Tensors on the host travel by gloo, those on a GPU by nccl.

    Args:
        gpu: index of the GPU of this rank, -1 for the CPU.
        timeout_seconds: how long a rank waits for another one before both end with an error.

    Raises:
        ConfigError: the environment of the launcher is not complete, or the processes do not reach each other.
        RankLost: another process has ended, or does not answer.
    """
    found = launched()
    if not found.several or current().several:
        yield current()
        return
    import torch
    from torch import distributed

    global _timeout_seconds
    _timeout_seconds = timeout_seconds
    own = board(found.rank, found.world_size)
    # What waits at it later, such as a new group, waits as long as every exchange does.
    own.store.set_timeout(timedelta(seconds=timeout_seconds))
    try:
        own.meet("start")
        options: dict[str, Any] = {"backend": "gloo"}
        if gpu >= 0:
            torch.cuda.set_device(gpu)
            options = {"backend": "cpu:gloo,cuda:nccl", "device_id": torch.device("cuda", gpu)}
        try:
            distributed.init_process_group(
                store=distributed.PrefixStore("group", own.store),
                rank=found.rank,
                world_size=found.world_size,
                timeout=timedelta(seconds=timeout_seconds),
                **options,
            )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"rank {found.rank} does not reach the other processes ({str(error).splitlines()[0]}): see "
                "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, which name the network interface"
            ) from None
        with losses_named(lambda: own):
            yield found
    except BaseException as error:
        own.fail(error)
        raise
    finally:
        _groups.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def own_board() -> Board | None:
    """The board of the processes that this one was launched with; None where it is alone."""
    found = launched()
    return board(found.rank, found.world_size) if found.several else None


def all_started() -> None:
    """Wait until every process that was launched with this one runs: before one works long while others wait for it.

    Raises:
        InputError: one does not start, or has ended.
    """
    if (own := own_board()) is not None:
        own.meet("launch", seconds=START_SECONDS)


# Of the group that was joined last.
_timeout_seconds = TIMEOUT_SECONDS
# Made at the first call of `layer_group`, one for each default group.
_groups: dict[str, ProcessGroup] = {}


def layer_group() -> ProcessGroup:
    """A group of all ranks for what layers exchange within forward and backward.

    It is apart from the default one, so that such an exchange cannot be taken for one of gradients, which runs at the
    same time. The first call waits for all ranks.
    """
    from torch import distributed

    if "layers" not in _groups:
        # A new group does not take over the timeout of the default one.
        _groups["layers"] = distributed.new_group(timeout=timedelta(seconds=_timeout_seconds))
    return _groups["layers"]


def sum_over_ranks(values: Tensor, *, group: ProcessGroup | None = None) -> Tensor:
    """The sum of a tensor over all ranks, in its own type: exact for integers. Every rank calls it, with one shape.

    Args:
        values: of this rank.
        group: by which they travel, such as `layer_group`.
    """
    if not current().several:
        return values
    import torch
    from torch import distributed

    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total, group=group)
    return total


def largest_over_ranks(values: Tensor) -> Tensor:
    """The largest of each element of a tensor over all ranks."""
    if not current().several:
        return values
    from torch import distributed

    largest = values.clone()
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return largest


def all_of(value: Result) -> list[Result]:
    """A small object of each rank, by rank, on all of them."""
    ranks = current()
    if not ranks.several:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * ranks.world_size
    distributed.all_gather_object(found, value)
    return found


def sent_by_first(value: Result | None = None) -> Result:
    """What rank 0 has, on every rank: dicts, lists and tuples of tensors and small objects; others pass anything.

    Tensors travel by themselves, so that no rank holds them twice; elsewhere they arrive on the host.
    """
    ranks = current()
    if not ranks.several:
        return value  # type: ignore[return-value]
    from torch import distributed

    tensors: list[Tensor] = []
    form: list[Any] = [_form_of(value, tensors) if ranks.first else None]
    distributed.broadcast_object_list(form, src=0)
    found = _filled(form[0], tensors)
    return value if ranks.first else found  # type: ignore[return-value]


@dataclass(frozen=True)
class _Place:
    """Where a tensor belongs."""

    shape: tuple[int, ...]
    dtype: Any


def _form_of(value: Any, tensors: list[Tensor]) -> Any:
    """The value with places instead of its tensors, which are added to the list."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _Place(tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {name: _form_of(part, tensors) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_form_of(part, tensors) for part in value)
    return value


def _filled(form: Any, tensors: list[Tensor]) -> Any:
    """The form with its tensors, which rank 0 takes from the list and the others receive."""
    import torch
    from torch import distributed

    if isinstance(form, _Place):
        if tensors:
            tensor = tensors.pop(0)
            # As bytes: gloo does not know every type.
            distributed.broadcast(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8), src=0)
            return tensor
        tensor = torch.empty(form.shape, dtype=form.dtype)
        distributed.broadcast(tensor.reshape(-1).view(torch.uint8), src=0)
        return tensor
    if isinstance(form, dict):
        return {name: _filled(part, tensors) for name, part in form.items()}
    if type(form) in (list, tuple):
        return type(form)(_filled(part, tensors) for part in form)
    return form


def decided_by_first(decide: Callable[[], Result]) -> Result:
    """What `decide` returns or raises on rank 0, on every rank: a small object. The other ranks do not call it."""
    ranks = current()
    if not ranks.several:
        return decide()
    from torch import distributed

    outcome: list[Any] = [None, None]
    if ranks.first:
        try:
            outcome[0] = decide()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"{name}={text!r} of the environment is not a number: start the processes with torchrun"
        ) from None
