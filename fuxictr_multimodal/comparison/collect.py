"""Read the reports of a dataset and group the seeds of one experiment."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr_multimodal.comparison.board import Unfinished
from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.errors import DataError, did_you_mean
from fuxictr_multimodal.text.escape import one_line, visible
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import (
    REPORT_SUFFIX,
    RunFiles,
    settings_given,
    settings_suffix,
    without_seed,
)


@dataclass(frozen=True)
class Run:
    """A report and the file that it was read from; `name` is `<expid>` or `<expid>_s<seed>`."""

    report: Report
    path: Path

    @property
    def name(self) -> str:
        """The run's name, as its files carry it."""
        return visible(RunFiles.of_report(self.path).run)

    @property
    def expid(self) -> str:
        """The run's name without its seed."""
        return without_seed(self.name, self.report.seed)

    @property
    def predictions(self) -> Path:
        """Where the runner keeps the scores."""
        return RunFiles.of_report(self.path).predictions


@dataclass(frozen=True)
class Group:
    """Complete runs of one experiment that differ in the seed only, in order of the seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.report.seed for run in self.runs)


@dataclass(frozen=True)
class Collection:
    """The reports of one dataset: groups of complete runs, and whatever is not complete."""

    dataset_id: str
    manifest_hash: str
    groups: tuple[Group, ...]
    unfinished: tuple[Unfinished, ...]


def dataset_with_reports(model_root: Path) -> str:
    """The only dataset that has reports.

    Raises:
        DataError: there is none, or there are several; names them.
    """
    found = sorted({path.parent.name for path in model_root.glob(f"*/*{REPORT_SUFFIX}")})
    if len(found) != 1:
        what = f"there are reports of {', '.join(found)}" if found else "there are no reports"
        remedy = "choose one with --dataset" if found else "run experiments first, or give --model-root or --reports"
        raise DataError(f"{model_root}: {what}; {remedy}")
    return found[0]


def collect(directory: Path, *, dataset_id: str | None = None, expids: Sequence[str] = ("*",)) -> Collection:
    """Read `<directory>/*.report.json`.

    Args:
        directory: `<model_root>/<dataset_id>`, or a folder of kept reports.
        dataset_id: reports of other datasets are left out; by default all must be of one.
        expids: globs; a run is taken when its expid or its name matches one.

    Raises:
        DataError: no report matches, or complete runs are of different datasets or builds of the dataset.
    """
    paths = sorted(directory.glob(f"*{REPORT_SUFFIX}"))
    runs, unfinished = [], []
    for path in paths:
        try:
            run = Run(Report.read(path), path)
        except DataError as error:
            name = visible(RunFiles.of_report(path).run)
            if _matches(expids, name, without_seed(name)):
                unfinished.append(Unfinished(name, "unreadable", _shortened(str(error).replace(str(path), path.name))))
            continue
        if not _matches(expids, run.name, run.expid) or dataset_id not in (None, run.report.dataset_id):
            continue
        if run.report.status == "completed" and run.report.metrics:
            runs.append(run)
        else:
            unfinished.append(Unfinished(run.name, *_state(run.report)))
    if not runs and not unfinished:
        known = [RunFiles.of_report(path).run for path in paths]
        raise DataError(f"{directory} has no report of {', '.join(expids)}. {did_you_mean(expids[0], known)}".strip())
    _refuse_mixture(runs)
    groups, repeated = _grouped(runs)
    return Collection(
        dataset_id=runs[0].report.dataset_id if runs else dataset_id or directory.name,
        manifest_hash=runs[0].report.manifest_hash if runs else "",
        groups=tuple(groups),
        unfinished=tuple(sorted([*unfinished, *repeated], key=lambda run: run.run)),
    )


def _matches(globs: Sequence[str], *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in globs for name in names)


def _state(report: Report) -> tuple[str, str]:
    """Status of a run that is not in the table, and the reason, in words."""
    if report.status == "failed":
        return "failed", _shortened(report.error or "no reason was recorded")
    if report.status == "running":
        return "incomplete", f"running or killed after {len(report.curve)} evaluations; run it again with --resume"
    if report.status == "interrupted":
        return "interrupted", f"{report.error} after {len(report.curve)} evaluations; run it again with --resume"
    return report.status, "its report has no metrics: neither valid nor test has labels"


def _shortened(text: str, *, most: int = 300) -> str:
    line = one_line(text)
    return line if len(line) <= most else line[: most - 1] + "…"


def _refuse_mixture(runs: Sequence[Run]) -> None:
    """Runs on different samples must not be in one table."""
    for attribute, what in (("dataset_id", "datasets"), ("manifest_hash", "builds of the dataset")):
        by_value: dict[str, list[str]] = {}
        for run in runs:
            by_value.setdefault(getattr(run.report, attribute), []).append(run.name)
        if len(by_value) > 1:
            listed = "; ".join(f"{value[:12] or '(none)'}: {', '.join(names)}" for value, names in by_value.items())
            raise DataError(
                f"these runs are of different {what} and cannot be compared: {listed}. Run the older ones again with "
                "--overwrite, or choose with --expid"
            )


def _grouped(runs: Sequence[Run]) -> tuple[list[Group], list[Unfinished]]:
    """Group runs that differ in the seed only; a seed that occurs twice counts once."""
    by_key: dict[tuple[str, str], dict[int, Run]] = {}
    repeated = []
    for run in runs:
        key = run.expid, config_hash({k: v for k, v in run.report.config.items() if k != "seed"})
        of_seed = by_key.setdefault(key, {})
        first = of_seed.setdefault(run.report.seed, run)
        if first is not run:
            reason = f"the same configuration and seed as {first.name}, which is counted"
            repeated.append(Unfinished(run.name, "repeated", reason))
    names = _names({key: next(iter(of_seed.values())).report.config for key, of_seed in by_key.items()})
    groups = [Group(names[key], tuple(of_seed[seed] for seed in sorted(of_seed))) for key, of_seed in by_key.items()]
    return groups, repeated


def _names(configs: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Names of groups by their expid and hash: runs of one name with several configurations are told apart by them."""
    names = {}
    for (expid, digest), config in configs.items():
        others = [other for (name, key), other in configs.items() if name == expid and key != digest]
        given: dict[str, Any] = {}
        for other in others:
            given |= settings_given({k: v for k, v in config.items() if k != "seed"}, other)
        names[expid, digest] = expid + settings_suffix(given)
    unclear = {name for name in names.values() if list(names.values()).count(name) > 1}
    for (expid, digest), name in names.items():
        if name in unclear and name != expid:
            names[expid, digest] = f"{expid}@{digest[:6]}"
    return names
