"""The best setting of each model on several seeds, and the best model as an experiment of its own."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.comparison.budgeted.clock import Clock
from fuxictr_multimodal.comparison.budgeted.plan import makespan
from fuxictr_multimodal.comparison.budgeted.searching import ENDED
from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.plans import Plan
from fuxictr_multimodal.launch.run_many import train
from fuxictr_multimodal.launch.tuning.folder import write_yaml
from fuxictr_multimodal.launch.tuning.outcome import Record, best_record, maximised, monitored, read_report
from fuxictr_multimodal.launch.tuning.summary import monitor_text
from fuxictr_multimodal.training.run_names import RunFiles, seed_suffix

if TYPE_CHECKING:
    from fuxictr_multimodal.training.report import Report


@dataclass(frozen=True)
class Winners:
    """The best setting of each model.

    Attributes:
        trials: that each model was given; later ones of a model that has more do not count.
        records: the best trial by expid.
    """

    trials: int
    records: Mapping[str, Record]

    @property
    def expids(self) -> list[str]:
        """Their experiments."""
        return [tuned(name) for name in self.records]


def tuned(expid: str) -> str:
    """The expid of a model's best setting.

    >>> tuned("DIN_Shop")
    'DIN_Shop_tuned'
    """
    return f"{expid}_tuned"


def choose_winners(sweeps: Mapping[str, Sequence[Record]]) -> Winners:
    """The best on valid of equally many trials of each model; models without a completed trial have none.

    Args:
        sweeps: trials by expid, in the order in which they were drawn.
    """
    ended = {
        name: [record for record in records if record.status in ENDED]
        for name, records in sweeps.items()
        if best_record(list(records)) is not None
    }
    trials = min(map(len, ended.values()), default=0)
    found = {name: best_record(records[:trials]) or best_record(records) for name, records in ended.items()}
    return Winners(trials, {name: record for name, record in found.items() if record is not None})


def write_winners(directory: Path, winners: Winners) -> None:
    """Write a config folder with an experiment `<expid>_tuned` for each model."""
    directory.mkdir(parents=True, exist_ok=True)
    models = {
        tuned(name): {**record.ran.entry, "tuning_trials": winners.trials} for name, record in winners.records.items()
    }
    datasets = {record.ran.dataset_id: record.ran.dataset for record in winners.records.values()}
    write_yaml(directory / "dataset_config.yaml", datasets)
    write_yaml(directory / "model_config.yaml", models)


def files_of(expid: str, seed: int | None, params: Mapping[str, Any]) -> RunFiles:
    """The files of the run of a seed."""
    return RunFiles(Path(params["model_root"]) / params["dataset_id"], expid + seed_suffix(seed))


def report_of(config_dir: Path, expid: str, seed: int | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The report of a run if it is of these settings, and its parameters."""
    params = load_config(config_dir, expid, seed=seed)
    report = read_report(files_of(expid, seed, params).report)
    if report is None or config_hash(report.get("config") or {}) != config_hash(params):
        return None, params
    return report, params


def complete_report(plan: Plan) -> dict[str, Any] | None:
    """The report of a run that is complete.

    A state beside it says that the run was killed after its report: the run itself does the little that is left.
    """
    report, _ = report_of(plan.config_dir, plan.expid, plan.seed)
    if report is None or report.get("status") != "completed":
        return None
    return report if files_of(plan.expid, plan.seed, report["config"]).left is None else None


def train_winner(*, config_dir: Path, expid: str, seed: int, gpu: int) -> tuple[Report, Path]:
    """Run a seed or resume it; one of another setting, chosen when there were fewer trials, is replaced."""
    report, _ = report_of(config_dir, expid, seed)
    return train(
        config_dir=config_dir,
        expid=expid,
        name=expid,
        seed=seed,
        gpu=gpu,
        resume=report is not None,
        overwrite=report is None,
    )


@dataclass
class Seeds:
    """Says which seed may start: all models get a seed before one gets the next.

    Attributes:
        clock: of the comparison.
        winners: what is run.
        slots: that run side by side.
        reserve: seconds to keep for the leaderboard.
        start: seconds of a process before its run begins.
        stopped: whether runs were ended for lack of time.
    """

    clock: Clock
    winners: Winners
    slots: int
    reserve: float
    start: float
    stopped: bool = False
    _fits: dict[int, bool] = field(default_factory=dict)

    def plans(self, config_dir: Path, seeds: Sequence[int]) -> list[Plan]:
        """The runs in their order."""
        return [Plan(expid, seed, config_dir) for seed in seeds for expid in self.winners.expids]

    def complete(self, plans: Sequence[Plan]) -> dict[Plan, Outcome]:
        """The outcomes of those runs that are complete already."""
        return {
            plan: Outcome(plan.name, "completed", report=files_of(plan.expid, plan.seed, report["config"]).report)
            for plan in plans
            if (report := complete_report(plan)) is not None
        }

    def seconds(self, plans: Sequence[Plan]) -> float:
        """Wall clock of these runs; those that are complete take none."""
        return makespan([self._seconds(plan) for plan in plans], self.slots)

    def may_start(self, plan: Plan) -> bool:
        """Whether there is time for a run and, but for the first seed, for the same seed of all models."""
        seed, left = plan.seed, self.clock.left - self.reserve
        assert seed is not None
        if seed not in self._fits:
            others = self.plans(plan.config_dir, [seed])
            self._fits[seed] = not self._fits or (all(self._fits.values()) and self.seconds(others) <= left)
        return self._fits[seed] and self._seconds(plan) <= left

    def is_over(self) -> bool:
        """Whether the runs must end now."""
        self.clock.tick()
        self.stopped = self.stopped or self.clock.left <= self.reserve
        return self.stopped

    def _seconds(self, plan: Plan) -> float:
        if complete_report(plan) is not None:
            return 0.0
        return self.winners.records[plan.expid.removesuffix("_tuned")].seconds + self.start


@dataclass(frozen=True)
class Best:
    """The best model: its expid among the winners, the expid of its own, and the mean of the monitor on valid."""

    winner: str
    expid: str
    value: float
    seeds: tuple[int, ...]


def write_best(
    directory: Path,
    winners: Winners,
    *,
    config_dir: Path,
    seeds: Sequence[int],
    name_of: Callable[[str], str],
) -> Best | None:
    """Write a config folder with the model that is best on valid over its seeds; None where no seed is complete.

    Args:
        directory: where to.
        winners: the best settings.
        config_dir: their config folder.
        seeds: that may have run.
        name_of: the expid of the best model by the expid of its search.
    """
    found: list[Best] = []
    mode_max = True
    text = ""
    for expid in winners.records:
        values = {}
        for seed in seeds:
            report, params = report_of(config_dir, tuned(expid), seed)
            value = monitored(report, params) if report and report.get("status") == "completed" else None
            if value is not None:
                values[seed] = value
                mode_max, text = maximised(params), monitor_text(params)
        if values:
            found.append(Best(tuned(expid), name_of(expid), statistics.fmean(values.values()), tuple(values)))
    if not found:
        return None
    best = max(found, key=lambda one: one.value if mode_max else -one.value)
    record = winners.records[best.winner.removesuffix("_tuned")]
    directory.mkdir(parents=True, exist_ok=True)
    header = (
        f"# {datetime.date.today().isoformat()}: best on valid of {', '.join(one.winner for one in found)}:\n"
        f"# mean {text} {best.value:.6f} over {len(best.seeds)} seeds, after {winners.trials} trials of each model.\n"
    )
    entry = {**record.ran.entry, "tuning_trials": winners.trials}
    write_yaml(directory / "model_config.yaml", {best.expid: entry}, header=header)
    write_yaml(directory / "dataset_config.yaml", {record.ran.dataset_id: record.ran.dataset})
    return best
