"""A comparison on one dataset within a time: files, probes, plan, trials, seeds; a repeated command resumes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fuxictr_multimodal.comparison.budgeted import models as known_models
from fuxictr_multimodal.comparison.budgeted.clock import Clock
from fuxictr_multimodal.comparison.budgeted.generate import (
    SEARCH,
    SEARCH_SEED,
    Files,
    expid_of,
    resample_of,
    write_comparison,
    write_configs,
)
from fuxictr_multimodal.comparison.budgeted.plan import Cost, Plan, Planner, counted, minutes, table
from fuxictr_multimodal.comparison.budgeted.probes import START_SECONDS, speeds_of, start_seconds
from fuxictr_multimodal.comparison.budgeted.searching import Rounds
from fuxictr_multimodal.comparison.budgeted.shape import Shape
from fuxictr_multimodal.comparison.budgeted.winners import (
    Best,
    Seeds,
    Winners,
    choose_winners,
    train_winner,
    write_best,
    write_winners,
)
from fuxictr_multimodal.config.expids import base_entry, load_dataset_config
from fuxictr_multimodal.data.entry.build import open_or_build
from fuxictr_multimodal.data.proposal.sizes import Sizes
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.plans import parse_seeds
from fuxictr_multimodal.launch.run_many import run_many
from fuxictr_multimodal.launch.tuning.run import tune
from fuxictr_multimodal.system.files import held_alone, make_folder
from fuxictr_multimodal.system.interruption import Interrupted
from fuxictr_multimodal.system.terminal import plain_console

HOUR = 3600.0
# A trial may search a smaller batch or a wider embedding than the probe measured.
CAUTION = 1.5
RESUME = "the same command resumes it"


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        dataset_id: the entry.
        hours: of the wall clock, the leaderboard included.
        models: labels, or None for the default.
        seeds: as in `run_expid.py --seeds`.
        trials: of each model, or None for as many as fit.
        config_dir: the config folder that has the entry.
        out: the folder of the comparison.
        zoo_root: a FuxiCTR clone.
        command: as it was typed, for the headers of the files.
    """

    dataset_id: str
    hours: float
    models: tuple[str, ...] | None
    seeds: str
    trials: int | None
    config_dir: Path
    out: Path
    zoo_root: Path | None = None
    command: tuple[str, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """What a repeated command must ask for again; the hours may change."""
        return {
            "dataset": self.dataset_id,
            "models": list(self.models) if self.models is not None else None,
            "seeds": self.seeds,
            "trials": self.trials,
            "config": str(self.config_dir),
            "zoo-root": str(self.zoo_root) if known_models.uses_clone(self.models) else None,
        }


@dataclass(frozen=True)
class Result:
    """What a comparison gave.

    Attributes:
        files: where it lies.
        outcomes: of the runs of the seeds.
        winners: the best settings.
        best: the best model, if a run is complete.
        baseline: the expid that differences refer to.
        resample: what the bootstrap draws.
        interrupted: whether a signal, not the time, ended it.
    """

    files: Files
    outcomes: list[Outcome]
    winners: Winners
    best: Best | None
    baseline: str
    resample: str
    interrupted: bool


def compare_dataset(request: Request, *, gpus: Sequence[int], console: Console | None = None) -> Result:
    """Compare models on a dataset within a time.

    Args:
        request: what is asked for.
        gpus: one GPU index a slot, -1 for the CPU.
        console: shows the progress.

    Raises:
        InputError: an argument, the dataset entry or the data is wrong, or there is not enough time.
        Interrupted: running trials have ended, and the same command resumes them.
    """
    console = console or plain_console()
    say = functools.partial(console.print, soft_wrap=True, highlight=False)
    dataset = load_dataset_config(request.config_dir, request.dataset_id)
    known_models.check_labels(request.models or (), zoo_root=request.zoo_root)
    seeds = parse_seeds(request.seeds)
    files = Files(request.out)
    clock = Clock.open(files.state, budget=request.hours * HOUR, arguments=request.arguments())
    store = open_or_build(dataset)
    shape = Shape.of(store)
    make_folder(files.out)
    with held_alone(files.lock, f"another command is comparing in {files.out}: wait for it, or give another --out"):
        before = clock.known.setdefault("build", store.manifest.hash)
        if before != store.manifest.hash:
            raise ConfigError(
                f"{files.out} holds a comparison on another build of dataset {request.dataset_id!r}: give another --out"
            )
        comparison = _Comparison(request, files, clock, shape, dataset, seeds, tuple(gpus), say)
        try:
            comparison.generate(group_id=store.manifest.group_id)
            return comparison.run(console)
        except KeyboardInterrupt as error:
            raise Interrupted.of(error, f"{minutes(clock.elapsed)} of {minutes(clock.budget)} used; {RESUME}") from None
        finally:
            clock.save()


@dataclass
class _Comparison:
    """The steps of a comparison, in their order."""

    request: Request
    files: Files
    clock: Clock
    shape: Shape
    dataset: Mapping[str, Any]
    seeds: list[int]
    gpus: tuple[int, ...]
    say: Callable[[str], None]
    sizes: Sizes = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = Sizes.of(self.shape)

    @property
    def reserve(self) -> float:
        """Seconds for the leaderboard: the bootstrap draws the samples of test a thousand times."""
        experiments = len(self.clock.known.get("plan", {}).get("names", ())) or known_models.CORE
        return min(5.0 + experiments * self.shape.test_rows * 4e-5, 0.2 * self.clock.budget) + START_SECONDS

    @property
    def start(self) -> float:
        """Seconds of a process before its run begins; the first probe waits for the server that imports PyTorch."""
        return start_seconds(self.clock.known)

    def generate(self, *, group_id: str | None) -> None:
        """Write the files, once: a user may have changed them since."""
        if "models" in self.clock.known:
            self.say(f"{minutes(self.clock.used)} of {minutes(self.clock.budget)} were used before")
            return
        found, core = known_models.choose(self.request.models, self.shape, zoo_root=self.request.zoo_root)
        write_configs(
            self.files,
            models=found,
            shape=self.shape,
            sizes=self.sizes,
            base=base_entry(self.request.config_dir),
            dataset=self.dataset,
            group_id=group_id,
            zoo_root=self.request.zoo_root if known_models.uses_clone(self.request.models) else None,
            command=self.request.command,
        )
        self.clock.known |= {
            "models": {expid_of(model, self.request.dataset_id): model.name for model in found},
            "core": core,
        }
        self.clock.save()
        self.say(f"the experiments and their search space are in {self.files.config}")

    def run(self, console: Console) -> Result:
        """Probe, plan, search and run the seeds."""
        plan = self._plan()
        expids = plan.fast_first
        planner = Planner(slots=len(self.gpus), seeds=len(self.seeds), trials=self.request.trials)
        rounds = Rounds(self.clock, planner, plan, self.reserve, self.start, self.say)
        sweeps = tune(
            self.files.search,
            expids,
            gpus=self.gpus,
            search=SEARCH,
            trials=plan.trials,
            prune=False,
            seed=SEARCH_SEED,
            console=console,
            turns=rounds.may_draw,
            is_over=rounds.is_over,
            pictures=False,
        )
        winners = choose_winners(dict(zip(expids, sweeps, strict=True)))
        for expid in [expid for expid in expids if expid not in winners.records]:
            self.say(f"{expid} is left out: no trial was completed; see {self.files.sweep(expid).path / 'summary.md'}")
        if not winners.records:
            raise DataError(f"no trial was completed within the time: give more --hours; {RESUME}")
        write_winners(self.files.winners, winners)
        return self._run_seeds(winners, overhead=rounds.overhead)

    def _run_seeds(self, winners: Winners, *, overhead: float) -> Result:
        gate = Seeds(self.clock, winners, len(self.gpus), self.reserve, overhead)
        plans = gate.plans(self.files.winners, self.seeds)
        complete = gate.complete(plans)
        lacking = [plan for plan in plans if plan not in complete]
        what = f"{counted(len(winners.records), 'model')}, the best of {counted(winners.trials, 'trial')} of each"
        runs = f"{counted(len(lacking), 'run')}, about {minutes(gate.seconds(lacking))}"
        self.say(f"{what}, with {counted(len(self.seeds), 'seed')}: {runs}")
        outcomes = list(complete.values())
        if complete:
            self.say(f"complete before, and not run again: {counted(len(complete), 'run')}")
        outcomes += run_many(
            lacking,
            {},
            gpus=self.gpus,
            run=train_winner,
            may_start=gate.may_start,
            is_over=gate.is_over,
            quiet=True,
        )
        names = self.clock.known["models"]
        best = write_best(
            self.files.best,
            winners,
            config_dir=self.files.winners,
            seeds=self.seeds,
            name_of=lambda expid: f"{names[expid].removesuffix('_best')}_{self.request.dataset_id}_best",
        )
        baseline = f"DIN_{self.request.dataset_id}_tuned"
        if baseline not in winners.expids:
            others = [tuned for tuned in winners.expids if not tuned.startswith("QIN")]
            baseline = (others or winners.expids)[0]
        resample = resample_of(self.shape)
        write_comparison(
            self.files,
            list(winners.records),
            dataset_id=self.request.dataset_id,
            trials=winners.trials,
            seeds=self.request.seeds,
            baseline=baseline,
            resample=resample,
        )
        interrupted = not gate.stopped and any(outcome.signal is not None for outcome in outcomes)
        started = [outcome for outcome in outcomes if outcome.status != "not run"]
        if (waiting := len(outcomes) - len(started)) and not interrupted:
            self.say(
                f"no time is left for {counted(waiting, 'more run')}; the same command with more --hours continues"
            )
        return Result(self.files, started, winners, best, baseline, resample, interrupted)

    def _plan(self) -> Plan:
        """The plan for the whole time; that of an earlier start with the same hours stays."""
        costs = self._costs()
        if not costs:
            raise DataError("no model can be trained on this dataset; see the reasons above")
        planner = Planner(
            slots=len(self.gpus), seeds=len(self.seeds), trials=self.request.trials, core=self.clock.known["core"]
        )
        kept = self.clock.known.get("plan")
        if kept is not None and kept["hours"] == self.request.hours:
            taking_part = [cost for cost in costs if cost.name in kept["names"]]
            return Plan(tuple(taking_part), kept["trials"], kept["seeds"], 0.0)
        # What an earlier plan has done counts as time of this one.
        spent = 0.0 if kept is not None else self.clock.elapsed
        seconds = self.clock.budget - spent - self.reserve - 2 * self.start
        plan = planner.plan(costs, seconds=seconds)
        if plan is None:
            needed = planner.least_seconds(costs) + self.reserve + self.clock.elapsed
            raise ConfigError(
                f"--hours {self.request.hours:g} is too short: {self.request.trials or 1} trial and one seed of two "
                f"models take about {minutes(needed)}; give --hours {max(0.01, needed * 1.1 / HOUR):.2g}, or "
                "faster --models"
            )
        self.clock.known["plan"] = {
            "names": list(plan.names), "trials": plan.trials, "seeds": plan.seeds, "hours": self.request.hours
        }  # fmt: skip
        self.clock.save()
        left_out = [cost for cost in costs if cost.name not in plan.names]
        self.say(f"plan for {minutes(self.clock.budget)}, {minutes(self.clock.elapsed)} used:")
        for line in table(plan, left_out, order=plan.fast_first, slots=len(self.gpus)):
            self.say(line)
        return plan

    def _costs(self) -> list[Cost]:
        """What a trial of each model takes, by its probe."""
        speeds = speeds_of(
            list(self.clock.known["models"]),
            core=self.clock.known["core"],
            files=self.files,
            clock=self.clock,
            gpus=self.gpus,
            say=self.say,
        )
        # Early stopping ends most runs before the last epoch.
        epochs = min(self.sizes.epochs, 2 * self.sizes.patience + 2)
        found = []
        for expid in self.clock.known["models"]:
            if expid not in speeds:
                continue
            seconds = CAUTION * replace(speeds[expid], start=self.start).seconds(
                rows=self.shape.rows,
                valid_rows=self.shape.valid_rows,
                test_rows=self.shape.test_rows,
                epochs=epochs,
            )
            found.append(Cost(expid, seconds, seconds))
        return found
