"""Runs the trials of a source on slots until the source, the time or the user says stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.tuner import outcome
from fuxictr_multimodal.tuner.outcome import Record
from fuxictr_multimodal.tuner.restart import Restart
from fuxictr_multimodal.tuner.slots import Process, Slots
from fuxictr_multimodal.tuner.space import Trial

POLL_SECONDS = 0.2


class Source(Protocol):
    """Where trials come from: the list of a grid, or a search."""

    records: list[Record]

    def next(self) -> Record | None:
        """The next trial to run; None when there is none."""

    def open_trials(self) -> int:
        """How many trials may still come from `next`."""

    def should_stop(self, record: Record) -> bool:
        """Whether a running trial, whose curve has grown, is not worth its time."""

    def ended(self, record: Record) -> None:
        """Take note of a trial that is completed, failed or pruned."""

    def refresh(self) -> None:
        """Bring `records` up to date with what other workers did."""


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


class Scheduler:
    """Keeps every slot busy; a trial that fails does not stop the others.

    NOTE[DIFF]: the toolkit's `grid_search` does the same in one function that splits its command at spaces, takes
    `python` from PATH, forgets exit codes and leaves orphans; nothing in it can be replaced. The command that starts a
    trial is kept: `script --config <folder> --expid <trial> --gpu <index>`.

    Args:
        source: where trials come from.
        slots: where they run.
        restart: finds complete reports, and the smaller twin of a trial that was out of memory.
        add_trial: writes a trial's configuration before it starts.
        on_change: called with `(event, record)` after each `start`, `end` and `retry`, and with `("tick", None)`.
        deadline: `time.monotonic()` after which no trial starts; running ones may end.
    """

    def __init__(
        self,
        source: Source,
        slots: Slots,
        *,
        restart: Restart,
        add_trial: Callable[[Trial], None],
        on_change: Callable[[str, Record | None], None],
        deadline: float | None = None,
    ) -> None:
        self.source = source
        self.slots = slots
        self.restart = restart
        self.add_trial = add_trial
        self.on_change = on_change
        self.deadline = deadline
        self.running: dict[str, tuple[Record, Process, int]] = {}
        self._retries: deque[Record] = deque()

    def run(self) -> None:
        """Run until nothing is left; whatever interrupts, no trial's process stays behind."""
        try:
            while True:
                self._fill_slots()
                if not self.running:
                    return
                time.sleep(POLL_SECONDS)
                for record, process, seen in list(self.running.values()):
                    self._look_at(record, process, seen)
                self.on_change("tick", None)
        finally:
            for record, process, _ in self.running.values():
                process.kill()
                record.status = "queued"

    def _fill_slots(self) -> None:
        while self.slots.free:
            if self._retries:
                record = self._retries.popleft()
            elif self.deadline is not None and time.monotonic() >= self.deadline:
                return
            else:
                record = self.source.next()
                if record is None:
                    return
            self._start(record)

    def _start(self, record: Record) -> None:
        trial = record.ran
        report = self.restart.complete_report(trial)
        if report is not None:
            record.complete_from(report)
            record.reused = True
            self.source.ended(record)
            self.on_change("end", record)
            return
        self.add_trial(trial)
        # A report that is there is of a killed run, or of another build of the data.
        report = outcome.read_report(trial.report)
        complete = report is not None and report.get("status") == "completed"
        options = [] if report is None else ["--overwrite" if complete else "--resume"]
        record.status = "running"
        process = self.slots.start(trial.expid, options=options)
        self.running[record.trial.expid] = (record, process, _mtime(record))
        self.on_change("start", record)

    def _look_at(self, record: Record, process: Process, seen: int) -> None:
        status = process.poll()
        if status is not None:
            self._end(record, process, status)
            return
        changed = _mtime(record)
        if changed == seen:
            return
        self.running[record.trial.expid] = (record, process, changed)
        report = outcome.read_report(record.ran.report)
        if report is None:
            return
        known = len(record.curve)
        record.read_progress(report)
        if len(record.curve) > known and self.source.should_stop(record):
            process.kill()
            record.status = "pruned"
            record.exit_code = None
            self._leave(record, process)

    def _end(self, record: Record, process: Process, status: int) -> None:
        record.exit_code = status
        report = self.restart.complete_report(record.ran)
        if report is not None:
            record.complete_from(report)
        else:
            record.fail(outcome.read_report(record.ran.report), status, process.last_lines())
            if self._may_retry(record):
                del self.running[record.trial.expid]
                self.slots.release(process)
                record.status, record.curve = "queued", []
                self._retries.append(record)
                self.on_change("retry", record)
                return
        self._leave(record, process)

    def _leave(self, record: Record, process: Process) -> None:
        del self.running[record.trial.expid]
        self.slots.release(process)
        self.source.ended(record)
        self.on_change("end", record)

    def _may_retry(self, record: Record) -> bool:
        """Point a trial that was out of memory at its smaller twin, once."""
        if record.retried or not self.restart.retry_oom or not outcome.is_out_of_memory(record):
            return False
        smaller = self.restart.smaller(record.trial)
        if smaller is None:
            return False
        record.ran = smaller
        return True


def _mtime(record: Record) -> int:
    try:
        return record.ran.report.stat().st_mtime_ns
    except OSError:
        return 0
