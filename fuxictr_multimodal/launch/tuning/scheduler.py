"""Runs the trials of sweeps on slots until the sources, the time or the user say stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.slots import Process, Slots
from fuxictr_multimodal.launch.tuning.space import Trial
from fuxictr_multimodal.launch.tuning.sweep import Sweep

POLL_SECONDS = 0.2


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
        self.records = [Record.of(trial) for trial in trials]
        for record in self.records:
            restart.restore(record)
        wanted = [record for record in self.records if tag is None or tag in record.trial.expid]
        if not wanted:
            raise ConfigError(f"--tag {tag}: no trial's expid contains it, for example {trials[0].expid}")
        self._queue = deque(record for record in wanted if record.status == "queued")

    def next(self) -> Record | None:
        """The next trial of the list."""
        return self._queue.popleft() if self._queue else None

    def open_trials(self) -> int:
        """Trials of the list that have not started."""
        return len(self._queue)

    def should_stop(self, record: Record) -> bool:
        """Never: a grid compares whole trainings."""
        return False

    def ended(self, record: Record) -> None:
        """Nothing: the records are the grid's own."""

    def refresh(self) -> None:
        """Nothing: a grid has one worker."""


@dataclass
class Running:
    """A trial on a slot; `seen` is the state of its report that was read last."""

    sweep: Sweep
    record: Record
    process: Process
    seen: int


class Scheduler:
    """Keeps every slot busy; a trial that fails does not stop the others.

    A slot that one sweep has nothing for goes to the next one: no model waits for the last trial of another.

    NOTE[DIFF]: FuxiCTR's `grid_search` does the same in one function that splits its command at spaces, takes
    `python` from PATH, forgets exit codes and leaves orphans; nothing in it can be replaced. The command that starts a
    trial is kept: `script --config <folder> --expid <trial> --gpu <index>`.

    Args:
        sweeps: whose trials run, the first ones first.
        slots: where they run.
        on_change: called with `(event, record)` after each `start`, `end` and `retry`, and with `("tick", None)`.
        on_end: called with each sweep that has neither trials left nor running ones.
        deadline: `time.monotonic()` after which no trial starts; running ones may end.

    Attributes:
        unended: sweeps that `on_end` was not called with: of a deadline, an error or an interruption.
    """

    def __init__(
        self,
        sweeps: Sequence[Sweep],
        slots: Slots,
        *,
        on_change: Callable[[str, Record | None], None],
        on_end: Callable[[Sweep], None],
        deadline: float | None = None,
    ) -> None:
        self.slots = slots
        self.on_change = on_change
        self.on_end = on_end
        self.deadline = deadline
        self.running: dict[str, Running] = {}
        self.unended = list(sweeps)
        self._waiting = deque(sweeps)
        self._retries: deque[tuple[Sweep, Record]] = deque()

    def run(self) -> None:
        """Run until nothing is left; whatever interrupts, no trial's process stays behind."""
        try:
            while True:
                self._fill_slots()
                if not self.running:
                    return
                time.sleep(POLL_SECONDS)
                for running in list(self.running.values()):
                    self._look_at(running)
                self.on_change("tick", None)
        finally:
            for running in self.running.values():
                running.process.kill()
                running.record.status = "queued"

    def _fill_slots(self) -> None:
        while self.slots.free:
            if self._retries:
                sweep, record = self._retries.popleft()
            elif not self._waiting or (self.deadline is not None and time.monotonic() >= self.deadline):
                return
            else:
                sweep = self._waiting[0]
                record = sweep.source.next()
                if record is None:
                    self._waiting.popleft()
                    self._tell_ended()
                    continue
            self._start(sweep, record)

    def _tell_ended(self) -> None:
        busy = {running.sweep for running in self.running.values()} | {sweep for sweep, _ in self._retries}
        for sweep in [sweep for sweep in self.unended if sweep not in busy and sweep not in self._waiting]:
            self.unended.remove(sweep)
            self.on_end(sweep)

    def _start(self, sweep: Sweep, record: Record) -> None:
        trial = record.ran
        report = sweep.restart.complete_report(trial)
        if report is not None:
            record.complete_from(report)
            record.reused = True
            sweep.source.ended(record)
            self.on_change("end", record)
            return
        sweep.publish(trial)
        record.status = "running"
        process = self.slots.start(sweep.folder, trial.expid, options=sweep.restart.options(trial))
        self.running[record.trial.expid] = Running(sweep, record, process, _mtime(record))
        self.on_change("start", record)

    def _look_at(self, running: Running) -> None:
        record = running.record
        status = running.process.poll()
        if status is not None:
            self._end(running, status)
            return
        changed = _mtime(record)
        if changed == running.seen:
            return
        running.seen = changed
        report = outcome.read_report(record.ran.report)
        if report is None:
            return
        known = len(record.curve)
        record.read_progress(report)
        if len(record.curve) > known and running.sweep.source.should_stop(record):
            running.process.kill()
            record.status = "pruned"
            record.exit_code = None
            self._leave(running)

    def _end(self, running: Running, status: int) -> None:
        sweep, record = running.sweep, running.record
        record.exit_code = status
        report = sweep.restart.complete_report(record.ran)
        if report is not None:
            record.complete_from(report)
        else:
            record.fail(outcome.read_report(record.ran.report), status, running.process.last_lines())
            if self._may_retry(sweep.restart, record):
                del self.running[record.trial.expid]
                self.slots.release(running.process)
                record.status, record.curve = "queued", []
                self._retries.append((sweep, record))
                self.on_change("retry", record)
                return
        self._leave(running)

    def _leave(self, running: Running) -> None:
        del self.running[running.record.trial.expid]
        self.slots.release(running.process)
        running.sweep.source.ended(running.record)
        self.on_change("end", running.record)
        self._tell_ended()

    def _may_retry(self, restart: Restart, record: Record) -> bool:
        """Point a trial that was out of memory at its smaller twin, once."""
        if record.retried or not restart.retry_oom or not outcome.is_out_of_memory(record):
            return False
        smaller = restart.smaller(record.trial)
        if smaller is None:
            return False
        record.ran = smaller
        return True


def _mtime(record: Record) -> int:
    try:
        return record.ran.report.stat().st_mtime_ns
    except OSError:
        return 0
