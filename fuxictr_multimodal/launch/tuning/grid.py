"""A grid as a source of trials: a fixed list, in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.space import Trial


class Grid:
    """A fixed list of trials; those with a complete report are done from the start.

    Args:
        trials: the whole grid.
        restart: finds complete reports.
        tag: run only trials whose expid contains it; the others stay queued.

    Raises:
        ConfigError: if no expid contains the tag.
    """

    def __init__(self, trials: Sequence[Trial], restart: Restart, *, tag: str | None = None) -> None:
        self.name = "grid"
        self.records = [Record.of(trial) for trial in trials]
        self.trials = len(self.records)
        for record in self.records:
            restart.restore(record)
        wanted = [record for record in self.records if tag is None or tag in record.trial.expid]
        if not wanted:
            raise ConfigError(f"--tag {tag}: no trial's expid contains it, for example {trials[0].expid}")
        self._queue = deque(record for record in wanted if record.status == "queued")

    def next(self) -> Record | None:
        """The next trial to run; None when there is none."""
        return self._queue.popleft() if self._queue else None

    def open_trials(self) -> int:
        """Trials of the list that have not started."""
        return len(self._queue)

    def elsewhere(self) -> int:
        """None: a grid has one worker."""
        return 0

    def should_stop(self, record: Record) -> bool:
        """Never: a grid compares complete trainings."""
        return False

    def ended(self, record: Record) -> None:
        """Nothing: the records are the grid's own."""

    def refresh(self) -> None:
        """Nothing: a grid has one worker."""
