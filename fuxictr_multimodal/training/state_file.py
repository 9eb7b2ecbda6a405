"""The state of a training that a killed run resumes from: a file of tensors, numbers and random states, and its
predecessor, to which a damaged one falls back."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuxictr_multimodal.errors import DataError, InputError, Unwritable
from fuxictr_multimodal.system.files import replace_atomically, sync
from fuxictr_multimodal.system.torch_files import DAMAGE, first_line, read_torch
from fuxictr_multimodal.training.run_names import existing_states, remove_states, states_of

REMEDY = "--overwrite starts the run over"


class StateFile:
    """The last two states of a training.

    Args:
        path: of the last one, None for none; that before it is beside it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._damaged = False

    def write(self, state: Mapping[str, Any]) -> bool:
        """Write a state; where that is impossible, a warning says so and the training continues.

        Args:
            state: tensors, and what JSON has.

        Returns:
            Whether it was written.
        """
        if self.path is None:
            return False
        newest, before = states_of(self.path)
        try:
            with replace_atomically(newest) as temporary:
                with temporary.open("wb") as file:
                    torch.save(dict(state), file)
                # A full disk may say so only here: as long as it does, the last state keeps its name.
                sync(temporary)
                # One that cannot be read must not take the place of one that can.
                if newest.is_file() and not self._damaged:
                    newest.replace(before)
        except Unwritable as error:
            logging.warning(
                "%s cannot be written (%s): this step is not saved, what was saved before is kept",
                newest,
                error.strerror,
            )
            return False
        self._damaged = False
        return True

    def take_up(self, load: Callable[[dict[str, Any], Path], None]) -> bool:
        """Resume from the last state that can be read and is the run's own; False if there is none.

        Args:
            load: takes up a state; called with the one before if it raises for the last one, whose fault a warning
                names then. The second argument is the file.

        Raises:
            DataError: all that are there are damaged, or of another run.
        """
        if self.path is None:
            return False
        found = existing_states(self.path)
        for place, path in enumerate(found, start=1):
            try:
                with damage_named(path):
                    state = read_torch(path, remedy=REMEDY)
                    if not isinstance(state, dict):
                        raise TypeError(f"a {type(state).__name__} in place of a state")
                    load(state, path)
            except DataError as error:
                if place == len(found):
                    raise
                self._damaged = True
                text = str(error).removesuffix(f": {REMEDY}")
                logging.warning("%s: the run resumes from the state before, %s", text, found[place])
            else:
                return True
        return False

    def remove(self) -> None:
        """Remove both."""
        if self.path is not None:
            remove_states(self.path)


class SaveTimes:
    """When a state is saved beside those of evaluations; what is computed does not depend on it.

    Args:
        minutes: since the last one, None for never.
        steps: one at each multiple, None for none.
    """

    def __init__(self, minutes: float | None = None, steps: int | None = None) -> None:
        self.seconds = None if minutes is None else 60 * minutes
        self.steps = steps
        self.saved()

    def due(self, step: int) -> bool:
        """Whether a state is to be saved after this step."""
        if self.steps is not None and step % self.steps == 0:
            return True
        return self.late()

    def late(self) -> bool:
        """Whether the last one is too long ago."""
        return self.seconds is not None and time.monotonic() - self._last >= self.seconds

    def saved(self) -> None:
        """A state has just been saved, or the training begins."""
        self._last = time.monotonic()


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
        reason = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(f"{path} cannot be read ({reason}): {REMEDY}") from None


def random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Torch's random state on the CPU and on each GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def set_random_state(cpu: torch.Tensor, gpus: list[torch.Tensor]) -> None:
    """Take up a `random_state`; that of GPUs for those that are here, which may be more or fewer than there were."""
    torch.set_rng_state(cpu)
    if torch.cuda.is_available():
        for device, state in enumerate(gpus[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


def host_random_state() -> dict[str, Any]:
    """The random state of Python and NumPy, in what `torch.save` reads back: TransAct of FuxiCTR draws from it."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002, the generator that FuxiCTR's models share
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [torch.from_numpy(legacy["state"]["key"].astype(np.int64)), int(legacy["state"]["pos"])],
        "numpy_gauss": [int(legacy["has_gauss"]), float(legacy["gauss"])],
    }


def set_host_random_state(state: Mapping[str, Any] | None) -> None:
    """Take up a `host_random_state`; None is that of an earlier version, which kept none."""
    if state is None:
        return
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, position = state["numpy"]
    own = ("MT19937", key.numpy().astype(np.uint32), position, *state["numpy_gauss"])
    np.random.set_state(own)  # noqa: NPY002
