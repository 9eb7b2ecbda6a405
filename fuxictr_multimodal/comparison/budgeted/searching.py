"""The trials of a comparison: rounds of one trial of every model, as many as the time allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fuxictr_multimodal.comparison.budgeted.clock import Clock
from fuxictr_multimodal.comparison.budgeted.plan import FEW, Cost, Plan, Planner, makespan, minutes
from fuxictr_multimodal.launch.tuning.outcome import Record, best_record
from fuxictr_multimodal.launch.tuning.sweep import Sweep

# A seed of each model may take longer than its trial did.
SAFETY = 1.25
ENDED = ("completed", "failed", "pruned")


@dataclass
class Rounds:
    """Says which sweep may draw a trial, and when trials must end, so that the seeds still fit into the time.

    Before each round the costs are measured anew and the number of rounds is planned again. A round begins only where
    all models can end it in time: at the end all have the same number of trials.

    Attributes:
        clock: of the comparison.
        planner: of its plan.
        plan: to begin with.
        reserve: seconds to keep for the leaderboard.
        start: seconds of a process before its run begins.
        say: prints a line.
        round: the round that may be drawn from.
        overhead: seconds of the wall clock that a run takes beside those of its report: `start`, or what was measured.
    """

    clock: Clock
    planner: Planner
    plan: Plan
    reserve: float
    start: float
    say: Callable[[str], None]
    round: int = 0
    overhead: float = 0.0
    costs: Mapping[str, Cost] = field(default_factory=dict)
    _records: list[Sequence[Record]] = field(default_factory=list)
    _stopped: bool = False
    _before: tuple[float, int, float] | None = None

    def __post_init__(self) -> None:
        self.overhead = self.start
        self.costs = {cost.name: cost for cost in self.plan.costs}

    @property
    def left(self) -> float:
        """Seconds until the leaderboard must be made."""
        return self.clock.left - self.reserve

    def may_draw(self, sweeps: Sequence[Sweep], sweep: Sweep) -> bool:
        """Whether a sweep may draw its next trial; plans again where that begins a round."""
        self._records = [other.source.records for other in sweeps]
        self._measure_overhead()
        self.costs = {
            other.space.base_expid: measured(
                self.costs[other.space.base_expid], other.source.records, start=self.overhead
            )
            for other in sweeps
        }
        number = 1 + sum(record.status != "queued" for record in sweep.source.records)
        if number > self.round:
            self._begin(number, sweeps)
        return number <= self.round and self.costs[sweep.space.base_expid].trial <= self.left - self._seeds_seconds()

    def is_over(self) -> bool:
        """Whether running trials must end now, for the sake of one seed of each model that has a trial."""
        self.clock.tick()
        self._stopped = self._stopped or self.left <= self._seeds_seconds()
        return self._stopped

    def _begin(self, number: int, sweeps: Sequence[Sweep]) -> None:
        """Decide whether a round begins, and how many there are likely to be."""
        done = {
            sweep.space.base_expid: sum(record.status in ENDED for record in sweep.source.records) for sweep in sweeps
        }
        planner, costs = replace(self.planner, done=done), list(self.costs.values())
        first = number == 1 and not any(done.values())
        rounds = self.plan.trials if first else number - 1
        for seeds in range(self.planner.seeds, 0, -1):
            if first:
                break
            rounds = planner.more(costs, least=number - 1, seeds=seeds, seconds=self.left)
            # Further seeds are worth less than the first few trials, and more than the others.
            if rounds >= number or number > FEW:
                break
        if rounds < number:
            return
        self.round = number
        for sweep in sweeps:
            # How many a search has at most: its display counts down to it.
            sweep.source.trials = rounds
        left = minutes(max(0.0, self.left))
        self.say(f"round {number} of {rounds} of the trials; {minutes(self.clock.elapsed)} used, {left} left for runs")

    def _measure_overhead(self) -> None:
        """What the wall clock says beside the reports: starts, evaluations of test, and a machine that others use."""
        done = [record for records in self._records for record in records if record.status == "completed"]
        now = self.clock.elapsed, len(done), sum(record.seconds for record in done)
        if self._before is None:
            self._before = now
        wall, count, seconds = (later - earlier for later, earlier in zip(now, self._before, strict=True))
        if count:
            slots = min(self.planner.slots, count)
            self.overhead = max(self.start, (slots * wall - seconds) / count)

    def _seeds_seconds(self) -> float:
        """One seed of every model that has a completed trial, and some more, for the plan must not end without."""
        tried = [
            self.costs[name].run
            for name, records in zip(self.costs, self._records, strict=False)
            if any(record.status == "completed" for record in records)
        ]
        return SAFETY * makespan(tried, self.planner.slots)


def measured(cost: Cost, records: Sequence[Record], *, start: float) -> Cost:
    """A cost by what the trials of a model took, where some are complete, and the start of a process."""
    done = [record for record in records if record.status == "completed"]
    best = best_record(list(records))
    if best is None:
        return cost
    mean = sum(record.seconds for record in done) / len(done)
    return Cost(cost.name, mean + start, best.seconds + start)
