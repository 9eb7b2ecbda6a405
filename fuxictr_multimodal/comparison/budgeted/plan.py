"""How many trials and seeds of which models fit into a time: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Trials that every model should have before others join, that all should have before more is spent, and at most.
FEW, SOME, MOST = 4, 8, 20
FEWEST_MODELS = 2


@dataclass(frozen=True)
class Cost:
    """Seconds of one slot.

    Attributes:
        name: of the model.
        trial: of one trial that is not yet run.
        run: of one seed of the best setting.
    """

    name: str
    trial: float
    run: float


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        costs: of the models that take part, by priority.
        trials: of each of them, those that are done included.
        seeds: of the best setting of each.
        seconds: of the wall clock for what is not done yet.
    """

    costs: tuple[Cost, ...]
    trials: int
    seeds: int
    seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        """Models that take part, by priority."""
        return tuple(cost.name for cost in self.costs)

    @property
    def fast_first(self) -> list[str]:
        """The same by the time of a trial."""
        return [cost.name for cost in sorted(self.costs, key=lambda cost: cost.trial)]


def makespan(seconds: Sequence[float], slots: int) -> float:
    """The longest that jobs take on slots that are never idle while a job waits (Graham's bound).

    >>> makespan([10, 10, 10], 1), makespan([10, 10, 10], 2)
    (30.0, 20.0)
    """
    if not seconds:
        return 0.0
    return sum(seconds) / slots + (1 - 1 / slots) * max(seconds)


def wall_clock(
    costs: Sequence[Cost], trials: int, seeds: int, slots: int, done: Mapping[str, int] | None = None
) -> float:
    """Seconds for the trials that are not done, then for the seeds."""
    done = done or {}
    searching = [cost.trial for cost in costs for _ in range(trials - done.get(cost.name, 0))]
    running = [cost.run for cost in costs for _ in range(seeds)]
    return makespan(searching, slots) + makespan(running, slots)


@dataclass(frozen=True)
class Planner:
    """Chooses plans that fit.

    Attributes:
        slots: that run side by side.
        seeds: that are asked for.
        trials: that are asked for, or None for as many as fit.
        core: how many of the models, from the first, count more than further trials; the others need `SOME` trials.
        done: trials of each model that are finished.
    """

    slots: int
    seeds: int
    trials: int | None = None
    core: int = FEWEST_MODELS
    done: Mapping[str, int] = field(default_factory=dict)

    def plan(self, costs: Sequence[Cost], *, seconds: float) -> Plan | None:
        """The plan for a time; None where not even one trial and one seed of two models fit.

        Every model has the same number of trials. Where the time is short, seeds are given up first, then models, the
        last ones first, unless a slow one makes room for those behind it; only then do all have fewer trials. Where it
        is long, all get some trials more, then further models join, then all get more.

        Args:
            costs: of the models, by priority.
            seconds: that are left.
        """
        costs = list(costs)
        fewest = min(FEWEST_MODELS, len(costs))
        core = costs[: max(fewest, min(self.core, len(costs)))]
        for trials in (self.trials,) if self.trials is not None else range(FEW, 0, -1):
            for seeds in range(self.seeds, 0, -1):
                if (found := self._of(core, trials, seeds, seconds)) is not None:
                    return self._extended(costs, found, seconds) if seeds == self.seeds else found
            if (found := self._of(core[:fewest], trials, 1, seconds)) is not None:
                found = self._joined(core[fewest:], found, seconds)
                return max(
                    (self._of(found.costs, trials, seeds, seconds) or found for seeds in range(1, self.seeds + 1)),
                    key=lambda plan: plan.seeds,
                )
        return None

    def more(self, costs: Sequence[Cost], *, least: int, seeds: int, seconds: float) -> int:
        """The most trials of each of these models for which the time suffices, from `least`, which is not checked."""
        most = self.trials if self.trials is not None else MOST
        fitting = [n for n in range(least + 1, most + 1) if self._of(costs, n, seeds, seconds) is not None]
        return max(fitting, default=least)

    def least_seconds(self, costs: Sequence[Cost]) -> float:
        """What one trial, or the number asked for, and one seed of the first two models take."""
        costs = costs[:FEWEST_MODELS]
        return wall_clock(costs, self.trials or 1, 1, self.slots, self.done)

    def _extended(self, costs: Sequence[Cost], plan: Plan, seconds: float) -> Plan:
        """More trials, and models beside the core, where the time suffices for them."""
        if self.trials is None:
            plan = self._most_trials(plan, SOME, seconds)
        if plan.trials >= (SOME if self.trials is None else self.trials):
            plan = self._joined(costs[len(plan.costs) :], plan, seconds)
        return self._most_trials(plan, MOST, seconds) if self.trials is None else plan

    def _joined(self, costs: Sequence[Cost], plan: Plan, seconds: float) -> Plan:
        """The plan with those further models that fit: one that is too slow does not keep out the next one."""
        for cost in costs:
            plan = self._of([*plan.costs, cost], plan.trials, plan.seeds, seconds) or plan
        return plan

    def _most_trials(self, plan: Plan, most: int, seconds: float) -> Plan:
        for trials in range(most, plan.trials, -1):
            if (found := self._of(plan.costs, trials, plan.seeds, seconds)) is not None:
                return found
        return plan

    def _of(self, costs: Sequence[Cost], trials: int, seeds: int, seconds: float) -> Plan | None:
        taken = wall_clock(costs, trials, seeds, self.slots, self.done)
        return Plan(tuple(costs), trials, seeds, taken) if taken <= seconds else None


def table(plan: Plan, left_out: Sequence[Cost], *, order: Sequence[str], slots: int) -> list[str]:
    """The plan in lines.

    Args:
        plan: what is run.
        left_out: models for which there is no time.
        order: names in the order in which they start.
        slots: that run side by side.
    """
    width = max(len(name) for name in plan.names)
    by_name = {cost.name: cost for cost in plan.costs}
    lines = []
    for name in order:
        cost = by_name[name]
        lines.append(
            f"  {name:<{width}}  {counted(plan.trials, 'trial')} x ~{minutes(cost.trial)} + "
            f"{counted(plan.seeds, 'seed')} x ~{minutes(cost.run)}"
        )
    side = f" on {slots} slots" if slots > 1 else ""
    lines.append(f"  together about {minutes(plan.seconds)}{side}")
    if left_out:
        listed = ", ".join(f"{cost.name} (~{minutes(cost.trial)} a trial)" for cost in left_out)
        lines.append(f"  left out, no time: {listed}")
    return lines


def counted(count: int, unit: str) -> str:
    """A number with its unit.

    >>> counted(1, "trial"), counted(3, "seed")
    ('1 trial', '3 seeds')
    """
    return f"{count} {unit}" + ("" if count == 1 else "s")


def minutes(seconds: float) -> str:
    """A duration in the unit that fits.

    >>> minutes(8.4), minutes(186), minutes(9000)
    ('8 s', '3.1 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
