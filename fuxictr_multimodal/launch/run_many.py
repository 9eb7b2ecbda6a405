"""Several experiments and seeds by one command, and the table of their outcomes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.plans import Plan
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.system import interruption
from fuxictr_multimodal.system.terminal import plain_console

if TYPE_CHECKING:
    from fuxictr_multimodal.training.report import Report


def train(**arguments: Any) -> tuple[Report, Path]:
    """Train one experiment; see `run_experiment`."""
    # In the process of the run: only there is torch imported.
    from fuxictr_multimodal.training.runner import run_experiment

    return run_experiment(**arguments)


def run_many(
    plans: Sequence[Plan],
    arguments: Mapping[str, Any],
    *,
    gpus: Sequence[int] = (-1,),
    run: Callable[..., tuple[Any, Path]] = train,
    may_start: Callable[[Plan], bool] = lambda plan: True,
    is_over: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> list[Outcome]:
    """Run the plans, in turn or several at a time. An interrupted run ends the others too.

    Args:
        plans: what to run.
        arguments: the other arguments of `run`, the same for all.
        gpus: one GPU index a slot, -1 for the CPU. On several slots runs print to their own logs only.
        run: called in the process of each run with `config_dir`, `expid`, `seed`, `gpu` and `arguments`; returns a
            report and its file.
        may_start: asked before each run; one that may not start is `not run`.
        is_over: asked several times a second; once it is true, the runs are interrupted and no more start.
        quiet: whether runs print to their own logs only on a single slot too.

    Returns:
        The outcomes of the plans, in their order. After an interruption the rest are `not run`.
    """
    several = quiet or len(gpus) > 1
    pool = Pool(gpus)
    titles = {plan: f"[{number}/{len(plans)}] {plan.name}" for number, plan in enumerate(plans, start=1)}
    waiting = iter(plans)
    started: dict[Job, Plan] = {}
    outcomes: dict[Plan, Outcome] = {}

    def next_job(gpu: int) -> Job | None:
        plan = next((plan for plan in waiting if may_start(plan)), None)
        if plan is None:
            return None
        own = {"config_dir": plan.config_dir, "expid": plan.expid, "seed": plan.seed, "gpu": gpu}
        job = Job(plan.name, functools.partial(run, **arguments, **own), Path(os.devnull) if several else None)
        started[job] = plan
        _say(titles[plan] + (f" starts on {'the CPU' if gpu < 0 else f'GPU {gpu}'}" if several else ""))
        return job

    def on_end(job: Job, outcome: Outcome) -> None:
        plan = started[job]
        outcomes[plan] = outcome
        if several:
            _say(f"{titles[plan]} {outcome.status}, {outcome.seconds / 60:.1f} min")
        if outcome.status == "interrupted":
            pool.stop(outcome.signal or signal.SIGTERM)

    def on_line(job: Job, line: str) -> None:
        if several:
            _say(f"{job.name}: {line}")

    def on_tick() -> None:
        if pool.stopped is None and is_over():
            pool.stop(signal.SIGTERM)

    with contextlib.suppress(KeyboardInterrupt):
        pool.run(next_job, on_end, on_line=on_line, on_tick=on_tick)
    reason = "there was no time for it" if pool.stopped is None else "an earlier run was interrupted"
    return [outcomes.get(plan) or Outcome(plan.name, "not run", error=reason, signal=pool.stopped) for plan in plans]


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 when all are complete; 130, 143 or 129 when a signal ended them; else 1.

    >>> exit_status([Outcome("a", "completed"), Outcome("b", "failed")])
    1
    """
    for outcome in outcomes:
        if outcome.signal is not None:
            return interruption.exit_status(outcome.signal)
    return int(any(outcome.status != "completed" for outcome in outcomes))


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a table of state, AUC and minutes of every run; then why those that failed did."""
    from rich.table import Table
    from rich.text import Text

    from fuxictr_multimodal.training.report import Report

    complete = sum(outcome.status == "completed" for outcome in outcomes)
    table = Table(title=f"{complete} of {len(outcomes)} runs complete")
    # A name that is cut cannot be given to another command.
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("valid AUC", "test AUC", "minutes"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        report = Report.read(outcome.report) if outcome.report else None
        metrics = report.metrics if report else {}
        aucs = [metrics.get(split, {}).get("AUC") for split in ("valid", "test")]
        cells = ["-" if value is None else f"{value:.4f}" for value in aucs]
        style = "" if outcome.status == "completed" else "red"
        name = report.run if report else outcome.name
        table.add_row(Text(name), Text(outcome.status, style=style), *cells, f"{outcome.seconds / 60:.1f}")
    console = plain_console()
    console.print(table)
    for outcome in outcomes:
        if outcome.status != "completed":
            console.print(f"{outcome.name}: {outcome.status}: {outcome.error}", soft_wrap=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
