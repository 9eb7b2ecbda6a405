"""Which GPU indices a command may name: those that PyTorch sees on this machine, and -1 for the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fuxictr_multimodal.errors import ConfigError


def visible_gpus() -> int:
    """How many GPUs PyTorch can use here; imports torch."""
    import torch

    return torch.cuda.device_count()


def check_gpus(indices: Iterable[int], *, count: Callable[[], int] = visible_gpus) -> None:
    """Refuse a GPU that does not exist, which FuxiCTR would silently replace by the CPU.

    Args:
        indices: of `--gpu`, one per slot.
        count: tells how many GPUs there are; not called where only the CPU is named.

    Raises:
        ConfigError: naming the index and the number of GPUs.

    >>> check_gpus([-1, 0, 1], count=lambda: 2)
    >>> check_gpus([0], count=lambda: 0)
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: --gpu 0: this machine has no GPU that PyTorch can use (0 GPUs); -1 is the CPU
    """
    there = None
    for index in indices:
        if index == -1:
            continue
        there = count() if there is None else there
        if not 0 <= index < there:
            found = {
                0: "no GPU that PyTorch can use (0 GPUs)",
                1: "1 GPU, with index 0",
            }.get(there, f"{there} GPUs, with indices 0 to {there - 1}")
            raise ConfigError(f"--gpu {index}: this machine has {found}; -1 is the CPU")


def gpu_of_rank(indices: Sequence[int], local_rank: int, local_world_size: int) -> int:
    """The GPU of one of the processes of this machine that train together; -1 is the CPU.

    Args:
        indices: of `--gpu`: that of the first process, whose others take the next ones; or one for each.
        local_rank: number of the process on this machine.
        local_world_size: number of these processes.

    Raises:
        ConfigError: a process would have none, or two the same.

    >>> [gpu_of_rank([0], rank, 2) for rank in range(2)], gpu_of_rank([-1], 1, 2), gpu_of_rank([3, 1], 1, 2)
    ([0, 1], -1, 1)
    """
    if len(indices) == 1:
        (first,) = indices
        return first if first < 0 else first + local_rank
    if len(indices) != local_world_size:
        raise ConfigError(
            f"--gpu names {len(indices)} GPUs for the {local_world_size} processes of this machine: name the first "
            "one, or one for each"
        )
    if set(indices) != {-1} and (len(set(indices)) < len(indices) or -1 in indices):
        raise ConfigError(f"--gpu {' '.join(map(str, indices))}: each process needs a GPU of its own, or all the CPU")
    return indices[local_rank]
