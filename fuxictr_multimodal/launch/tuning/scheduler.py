"""Runs the trials of sweeps on a pool until there are none left, the time is up, or a signal arrives."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.sweep import Sweep


@dataclass
class Running:
    """A trial on a slot; `seen` is when the report that was read last had been written."""

    sweep: Sweep
    record: Record
    seen: int
    pruned: bool = False


class Scheduler:
    """Draws trials, starts them as jobs and follows their reports; a trial that fails does not stop the others.

    When a sweep has no trial for a free slot, the next sweep uses it: no model waits for the last trial of another.

    NOTE[DIFF]: FuxiCTR's `grid_search` is one function that splits its command at spaces, takes `python` from PATH,
    ignores exit codes and leaves orphans; none of its parts can be replaced. The arguments of a trial are the same:
    `script --config <folder> --expid <trial> --gpu <index>`.

    Args:
        sweeps: in the order in which their trials start.
        pool: where they run.
        on_change: called with `(event, record)` after each `start`, `end` and `retry`, and with `("tick", None)`.
        on_end: called with each sweep that has no trial left to run or running.
        deadline: `time.monotonic()` in seconds after which no trial starts; running ones may end.
        turns: makes the sweeps take turns, a trial of each and then the next of each. It is called with the sweep
            whose turn it is, and says whether the sweep may draw another trial; if not, the sweep draws none any more.
        is_over: asked several times a second; once it is true, running trials are interrupted and no more start.
            Their states are kept, and the next tuner resumes them.

    Attributes:
        unended: sweeps that `on_end` was not called with, because of a deadline, an error or an interruption.
    """

    def __init__(
        self,
        sweeps: Sequence[Sweep],
        pool: Pool,
        *,
        on_change: Callable[[str, Record | None], None],
        on_end: Callable[[Sweep], None],
        deadline: float | None = None,
        turns: Callable[[Sweep], bool] | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pool = pool
        self.on_change = on_change
        self.on_end = on_end
        self.deadline = deadline
        self.turns = turns
        self.is_over = is_over
        self.running: dict[Job, Running] = {}
        self.unended = list(sweeps)
        self._waiting = deque(sweeps)
        self._retries: deque[tuple[Sweep, Record]] = deque()

    def run(self) -> None:
        """Run until nothing is left; a trial that an interruption ends is queued again."""
        self.pool.run(self._next_job, self._end, on_tick=self._tick)

    def _next_job(self, gpu: int) -> Job | None:
        while True:
            if self._retries:
                sweep, record = self._retries.popleft()
            elif not self._waiting or (self.deadline is not None and time.monotonic() >= self.deadline):
                return None
            else:
                sweep = self._waiting[0]
                drawn = sweep.source.next() if self.turns is None or self.turns(sweep) else None
                if drawn is None:
                    self._waiting.popleft()
                    self._tell_ended()
                    continue
                record = drawn
                if self.turns is not None:
                    self._waiting.rotate(-1)
            report = sweep.restart.complete_report(record.ran)
            if report is None:
                return self._job(sweep, record, gpu)
            record.complete_from(report)
            record.reused = True
            sweep.source.ended(record)
            self.on_change("end", record)

    def _job(self, sweep: Sweep, record: Record, gpu: int) -> Job:
        sweep.publish(record.ran)
        job = sweep.job(record.ran, gpu)
        record.status = "running"
        self.running[job] = Running(sweep, record, _mtime(record))
        self.on_change("start", record)
        return job

    def _tick(self) -> None:
        if self.pool.stopped is None and self.is_over():
            self.pool.stop(signal.SIGTERM)
        for job, running in self.running.items():
            if not running.pruned and self._is_hopeless(running):
                running.pruned = True
                self.pool.stop(signal.SIGTERM, job)
        self.on_change("tick", None)

    def _is_hopeless(self, running: Running) -> bool:
        """Read the report of a running trial where it has changed, and ask the source about a curve that has grown."""
        record = running.record
        changed = _mtime(record)
        if changed == running.seen:
            return False
        running.seen = changed
        report = outcome.read_report(record.ran.report)
        if report is None:
            return False
        known = len(record.curve)
        record.read_progress(report)
        return len(record.curve) > known and running.sweep.source.should_stop(record)

    def _end(self, job: Job, ended: Outcome) -> None:
        running = self.running.pop(job)
        sweep, record = running.sweep, running.record
        record.exit_code = ended.exit_code
        report = sweep.restart.complete_report(record.ran)
        if report is not None:
            record.complete_from(report)
        elif self.pool.stopped is not None:
            # Not the trial's own end: the next tuner resumes it.
            record.status, record.exit_code = "queued", None
            return
        elif running.pruned:
            record.status, record.exit_code = "pruned", None
        else:
            record.fail(outcome.read_report(record.ran.report), ended.exit_code, list(ended.last_lines))
            if self._may_retry(sweep, record):
                record.status, record.curve = "queued", []
                self._retries.append((sweep, record))
                self.on_change("retry", record)
                return
        sweep.source.ended(record)
        self.on_change("end", record)
        self._tell_ended()

    def _may_retry(self, sweep: Sweep, record: Record) -> bool:
        """Replace a trial that ran out of memory by its smaller variant, once."""
        if record.retried or not sweep.restart.retry_oom or not outcome.is_out_of_memory(record):
            return False
        smaller = sweep.restart.smaller(record.trial)
        if smaller is None:
            return False
        record.ran = smaller
        return True

    def _tell_ended(self) -> None:
        busy = {running.sweep for running in self.running.values()} | {sweep for sweep, _ in self._retries}
        for sweep in [sweep for sweep in self.unended if sweep not in busy and sweep not in self._waiting]:
            self.unended.remove(sweep)
            self.on_end(sweep)


def _mtime(record: Record) -> int:
    try:
        return record.ran.report.stat().st_mtime_ns
    except OSError:
        return 0
