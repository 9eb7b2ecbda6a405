"""When a training saves a state and when it ends on a signal: at the same step on all ranks."""

from __future__ import annotations

import time

import torch

from fuxictr_multimodal.system.interruption import Interrupted, raise_waiting, signal_waiting, waiting_signal
from fuxictr_multimodal.system.ranks import Ranks, largest_over_ranks
from fuxictr_multimodal.training.state_file import SaveTimes

# Seconds between two questions among the ranks, about: torchrun kills what has not ended 30 s after its signal.
ASK_SECONDS = 1.0
MOST_STEPS = 1000


class Agreement:
    """Asks after each step whether a state is to be saved; one process asks itself only.

    Several ask each other now and then, at steps that all know: the next one is about a second away by the pace of the
    slowest. Where `save_steps` falls due they need not ask.

    Args:
        saving: when states are due; of several ranks, the first clock that says so counts.
        ranks: of the running group.
    """

    def __init__(self, saving: SaveTimes, ranks: Ranks) -> None:
        self._saving, self._ranks = saving, ranks
        self._signal = 0
        self._asked = self._next = 0
        self.restart(0)

    def restart(self, step: int) -> None:
        """Training begins, or continues after an evaluation: that time does not count for the pace."""
        self._asked, self._since = step, time.monotonic()
        self._next = step + 1

    def due(self, step: int) -> bool:
        """Whether all ranks save a state after this step, for its time has come or a signal waits."""
        if not self._ranks.several:
            return self._saving.due(step) or signal_waiting()
        counted = self._saving.steps is not None and step % self._saving.steps == 0
        return self._ask(step) or counted

    def raise_agreed(self) -> None:
        """Raise the signal that waits, on any rank.

        Raises:
            Interrupted: there is one.
        """
        raise_waiting()
        if self._signal:
            raise Interrupted(self._signal)

    def _ask(self, step: int) -> bool:
        if step < self._next:
            return False
        pace = (time.monotonic() - self._since) / max(step - self._asked, 1)
        own = [float(waiting_signal() or 0), float(self._saving.late()), pace]
        signal, late, slowest = largest_over_ranks(torch.tensor(own, dtype=torch.float64)).tolist()
        self._signal = int(signal)
        self._asked, self._since = step, time.monotonic()
        self._next = step + max(1, min(MOST_STEPS, int(ASK_SECONDS / max(slowest, 1e-9))))
        return bool(signal or late)
