"""The state of a training that a killed run resumes from: one file of tensors, numbers and torch's random state."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fuxictr_multimodal.errors import DataError, InputError, Unwritable
from fuxictr_multimodal.system.files import replace_atomically

# What reading a file raises that is cut, empty, or of something else than it should be.
DAMAGE = (OSError, pickle.UnpicklingError, EOFError, RuntimeError, LookupError, TypeError, ValueError, AttributeError)


def write_state(path: Path | None, state: Mapping[str, Any]) -> None:
    """Write a state; where that is impossible, a warning says so and the training continues.

    Args:
        path: None writes nothing.
        state: tensors, and what JSON has.
    """
    if path is None:
        return
    try:
        with replace_atomically(path) as temporary:
            torch.save(dict(state), temporary)
    except Unwritable as error:
        logging.warning("%s cannot be written (%s): the run cannot be resumed from here", path, error.strerror)


def read_state(path: Path) -> dict[str, Any] | None:
    """Read a state, None where there is none; no code from the file is run.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return None
    with damage_named(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__} in place of a state")
    return state


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged state raises, while it is read or taken up, into the error that names its file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}): --overwrite starts the run over") from None


def random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Torch's random state on the CPU and on each GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def set_random_state(cpu: torch.Tensor, gpus: list[torch.Tensor]) -> None:
    """Take up a `random_state`; that of GPUs only where there are any."""
    torch.set_rng_state(cpu)
    if torch.cuda.is_available() and gpus:
        torch.cuda.set_rng_state_all(gpus)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
