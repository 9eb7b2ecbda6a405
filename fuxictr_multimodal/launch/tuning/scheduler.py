"""Runs the trials of sweeps on a pool until there are none left, the time is up, or a signal arrives."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.launch.ray_pool import RayPool
from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.outcome import Record, Report
from fuxictr_multimodal.launch.tuning.sweep import Sweep

# How often a tuner that has nothing to start asks for trials that another machine has lost.
ELSEWHERE_SECONDS = 5.0
# A network file system shows a file of another machine after this.
SEEN_SECONDS = 35.0
# A trial that lost so many workers is more likely the cause than the victim.
MOST_LOSSES = 3


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
        on_wait: called once with a sweep that has no trial to start, and how many run on other machines; they are
            waited for, because one of those machines may be lost.

    Attributes:
        unended: sweeps that `on_end` was not called with, because of a deadline, an error or an interruption.
    """

    def __init__(
        self,
        sweeps: Sequence[Sweep],
        pool: Pool | RayPool,
        *,
        on_change: Callable[[str, Record | None], None],
        on_end: Callable[[Sweep], None],
        deadline: float | None = None,
        turns: Callable[[Sweep], bool] | None = None,
        is_over: Callable[[], bool] = lambda: False,
        on_wait: Callable[[Sweep, int], None] = lambda sweep, elsewhere: None,
    ) -> None:
        self.pool = pool
        self.on_change = on_change
        self.on_end = on_end
        self.deadline = deadline
        self.turns = turns
        self.is_over = is_over
        self.on_wait = on_wait
        self.running: dict[Job, Running] = {}
        self.unended = list(sweeps)
        self._waiting = deque(sweeps)
        self._retries: deque[tuple[Sweep, Record]] = deque()
        self._lost: list[tuple[Sweep, Record]] = []
        # When to ask these again.
        self._elsewhere: dict[Sweep, float] = {}
        self._waited: set[Sweep] = set()

    def run(self) -> None:
        """Run until nothing is left; a trial that an interruption ends is queued again."""
        self.pool.run(self._next_job, self._end, on_tick=self._tick, waits=self._waits)

    def _next_job(self, gpu: int) -> Job | None:
        while (drawn := self._next_trial()) is not None:
            sweep, record = drawn
            report = sweep.restart.complete_report(record.ran)
            if report is None:
                return self._job(sweep, record, gpu)
            record.complete_from(report)
            record.reused = True
            sweep.source.ended(record)
            self.on_change("end", record)
        return None

    def _next_trial(self) -> tuple[Sweep, Record] | None:
        if self._retries:
            return self._retries.popleft()
        if self._time_is_up():
            return None
        for index, (_, lost) in enumerate(self._lost):
            # The process of a machine that only lost its connection may still train.
            if not outcome.is_held(lost.ran):
                return self._lost.pop(index)
        for sweep in [sweep for sweep, again in self._elsewhere.items() if time.monotonic() >= again]:
            del self._elsewhere[sweep]
            self._waiting.append(sweep)
        while self._waiting:
            sweep = self._waiting[0]
            may_draw = self.turns is None or self.turns(sweep)
            record = sweep.source.next() if may_draw else None
            if record is not None:
                if self.turns is not None:
                    self._waiting.rotate(-1)
                return sweep, record
            self._waiting.popleft()
            if may_draw and (elsewhere := sweep.source.elsewhere()):
                self._elsewhere[sweep] = time.monotonic() + ELSEWHERE_SECONDS
                if sweep not in self._waited:
                    self._waited.add(sweep)
                    self.on_wait(sweep, elsewhere)
            self._tell_ended()
        return None

    def _time_is_up(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _waits(self) -> bool:
        """Whether a trial may come though none can start now: one whose worker is lost, or one of another machine."""
        return bool(self._lost or self._elsewhere) and not self._time_is_up()

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
        report = self._complete_report(sweep, record, ended)
        if report is not None:
            record.complete_from(report)
        elif self.pool.stopped is not None:
            # Not the trial's own end: the next tuner resumes it.
            record.status, record.exit_code = "queued", None
            return
        elif running.pruned:
            record.status, record.exit_code = "pruned", None
        elif ended.status == "lost" and running.record.losses + 1 < MOST_LOSSES:
            record.losses += 1
            record.status, record.exit_code = "queued", None
            self._lost.append((sweep, record))
            self.on_change("lost", record)
            return
        else:
            if ended.status == "lost":
                record.exit_code = -signal.SIGKILL
            record.fail(outcome.read_report(record.ran.report), record.exit_code, list(ended.last_lines))
            if ended.status == "lost":
                record.error[0] = f"{MOST_LOSSES} times {ended.error}"
            if self._may_retry(sweep, record):
                record.status, record.curve = "queued", []
                self._retries.append((sweep, record))
                self.on_change("retry", record)
                return
        sweep.source.ended(record)
        self.on_change("end", record)
        self._tell_ended()

    def _complete_report(self, sweep: Sweep, record: Record, ended: Outcome) -> Report | None:
        report = sweep.restart.complete_report(record.ran)
        deadline = time.monotonic() + SEEN_SECONDS
        while report is None and ended.status == "completed" and self.pool.remote and time.monotonic() < deadline:
            time.sleep(0.5)
            report = sweep.restart.complete_report(record.ran)
        return report

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
        busy = {running.sweep for running in self.running.values()} | self._elsewhere.keys()
        busy |= {sweep for sweep, _ in (*self._retries, *self._lost)}
        for sweep in [sweep for sweep in self.unended if sweep not in busy and sweep not in self._waiting]:
            self.unended.remove(sweep)
            self.on_end(sweep)


def _mtime(record: Record) -> int:
    try:
        return record.ran.report.stat().st_mtime_ns
    except OSError:
        return 0
