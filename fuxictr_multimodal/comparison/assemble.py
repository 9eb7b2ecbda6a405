"""Assemble a `Board` from grouped reports, saved predictions and the dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.comparison.board import Board, Curve, Difference, Entry, Unfinished, rounded
from fuxictr_multimodal.comparison.collect import Collection, Group
from fuxictr_multimodal.comparison.evidence import Evidence
from fuxictr_multimodal.comparison.notes import MARKS, environment_notes, marks_of, references, setting_notes
from fuxictr_multimodal.comparison.statistics import Spread, paired_t_interval, percentile_interval
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import without_seed

DEFAULT_BASELINE = "DIN"


def make_board(
    collection: Collection,
    *,
    store: Store | None = None,
    baseline: str | None = None,
    replicates: int = 1000,
    bootstrap_seed: int = 0,
    unit: str = "rows",
    not_run: Sequence[str] = (),
    on_replicate: Callable[[], object] | None = None,
) -> Board:
    """Compare the experiments of one dataset.

    Args:
        collection: its reports.
        store: the dataset; without it there are neither intervals over samples nor slices.
        baseline: expid or model name that differences refer to; by default the only DIN, if there is one.
        replicates: bootstrap replicates; 0 for none.
        bootstrap_seed: of the resampling.
        unit: `rows` for single samples, or `groups` to draw all samples of a group (user) together.
        not_run: expids that should have a report; listed as not run where they have none.
        on_replicate: called after each bootstrap replicate.

    Raises:
        ConfigError: no such baseline.
        DataError: the dataset or saved predictions do not belong to the reports.
    """
    groups = collection.groups
    compared = "test" if all(_has_auc(run.report, "test") for group in groups for run in group.runs) else "valid"
    groups = tuple(sorted(groups, key=lambda group: (-_mean_auc(group, compared), group.name)))
    base = _baseline(groups, baseline)
    evidence = Evidence.load(groups, store, collection.manifest_hash, compared)
    aucs = evidence.bootstrap(replicates, bootstrap_seed, unit, on_replicate)
    axis = _curve_axis(groups)
    entries = tuple(_entry(group, groups[0], base, compared, axis, aucs, evidence) for group in groups)
    marks = {mark for entry in entries for mark in entry.marks}
    seen = {run.name for group in groups for run in group.runs} | {run.run for run in collection.unfinished}
    seen |= {without_seed(run) for run in seen}
    unfinished = [*collection.unfinished]
    unfinished += [Unfinished(name, "not run", "no report") for name in not_run if name not in seen]
    metadata = groups[0].runs[0].report.dataset_facts if groups else {}
    notes = [*setting_notes(groups), *evidence.notes, *environment_notes(groups)] if groups else []
    return rounded(
        Board(
            dataset_id=collection.dataset_id,
            manifest_hash=collection.manifest_hash,
            compared=compared,
            splits=evidence.split_sizes,
            baseline=base.name if base else None,
            bootstrap={"replicates": replicates, "seed": bootstrap_seed, "unit": unit} if aucs else None,
            curve_axis=axis,
            entries=entries,
            slicings=evidence.slicings,
            references=references(metadata, ("valid", "test") if compared == "test" else ("valid",)),
            unfinished=tuple(unfinished),
            footnotes={mark: text for mark, text in MARKS.items() if mark in marks},
            notes=tuple(notes),
        )
    )


def _entry(
    group: Group,
    leader: Group,
    base: Group | None,
    compared: str,
    axis: str,
    aucs: Mapping[str, NDArray[np.float64]],
    evidence: Evidence,
) -> Entry:
    """One experiment.

    Args:
        group: its runs.
        leader: the best group.
        base: the baseline, if there is one.
        compared: the split that decides.
        axis: what learning curves count, `epoch` or `step`.
        aucs: by group, its mean AUC in each bootstrap replicate (B,).
        evidence: of the compared samples.
    """
    reports = [run.report for run in group.runs]
    tied = None
    if group is not leader and group.name in aucs and leader.name in aucs:
        tied = not percentile_interval(aucs[leader.name] - aucs[group.name]).excludes_zero
    metrics = _metrics(group)
    if (error := evidence.calibration_error(group.name)) is not None:
        metrics[compared]["ECE"] = error
    device = [used for r in reports if (used := r.peak_memory_mib.get("device")) is not None]
    return Entry(
        name=group.name,
        model=reports[0].model,
        runs=tuple(run.name for run in group.runs),
        seeds=group.seeds,
        metrics=metrics,
        auc_rows=percentile_interval(aucs[group.name]) if group.name in aucs else None,
        difference=None if base is None or base is group else _difference(group, base, compared, aucs),
        tied_with_best=tied,
        parameters=reports[0].parameters,
        rows_per_s={
            key: float(np.mean([r.rows_per_s[key] for r in reports]))
            for key in ("train", "score")
            if all(key in r.rows_per_s for r in reports)
        },
        minutes=_spread([r.seconds / 60 for r in reports], group, "time"),
        memory_mib={
            "host": max((r.peak_memory_mib.get("host") or 0.0) for r in reports),
            **({"device": max(device)} if len(device) == len(reports) else {}),
        },
        trials=reports[0].config.get("tuning_trials"),
        curves=tuple(_curve(report, axis) for report in reports),
        slices=evidence.sliced_aucs(group.name),
        marks=marks_of(reports[0].model),
    )


def _difference(group: Group, base: Group, compared: str, aucs: Mapping[str, NDArray[np.float64]]) -> Difference:
    """AUC of a group minus that of the baseline, with its intervals."""
    of_base = {run.report.seed: _auc(run.report, compared) for run in base.runs}
    paired = [_auc(r.report, compared) - of_base[r.report.seed] for r in group.runs if r.report.seed in of_base]
    both = group.name in aucs and base.name in aucs
    return Difference(
        mean=_mean_auc(group, compared) - _mean_auc(base, compared),
        rows=percentile_interval(aucs[group.name] - aucs[base.name]) if both else None,
        seeds=paired_t_interval(paired),
        shared_seeds=len(paired),
    )


def _metrics(group: Group) -> dict[str, dict[str, Spread]]:
    """Metrics that all runs of a group have, by split."""
    first = group.runs[0].report.metrics
    found: dict[str, dict[str, Spread]] = {}
    for split, names in first.items():
        for name in names:
            values = [v for run in group.runs if (v := run.report.metrics.get(split, {}).get(name)) is not None]
            if len(values) == len(group.runs):
                found.setdefault(split, {})[name] = _spread(values, group, f"{split} {name}")
    return found


def _spread(values: Sequence[float], group: Group, what: str) -> Spread:
    try:
        return Spread(tuple(values))
    except ValueError as error:
        raise DataError(f"the reports of {group.name} have a damaged {what} ({error}): run them again") from None


def _has_auc(report: Report, split: str) -> bool:
    """Whether the split was measured and AUC, where it was asked for, is defined on it."""
    return split in report.metrics and report.metrics[split].get("AUC", 0) is not None


def _auc(report: Report, split: str) -> float:
    try:
        value = report.metrics[split]["AUC"]
    except KeyError:
        raise DataError(
            f"the report of {report.expid} has no {split} AUC: add AUC to `metrics` and run it again with --overwrite"
        ) from None
    if value is None:
        raise DataError(f"AUC ranks the runs, but is not defined on the {split} split: all samples have one label")
    return value


def _mean_auc(group: Group, split: str) -> float:
    return _spread([_auc(run.report, split) for run in group.runs], group, f"{split} AUC").mean


def _curve_axis(groups: Sequence[Group]) -> str:
    """`epoch` where every run was evaluated once an epoch, else `step`."""
    epochs = ([row.get("epoch") for row in run.report.curve] for group in groups for run in group.runs)
    return "epoch" if all(found == list(range(1, len(found) + 1)) for found in epochs) else "step"


def _curve(report: Report, axis: str) -> Curve:
    try:
        return Curve(
            seed=report.seed,
            x=tuple(row[axis] for row in report.curve),
            loss=tuple(row["train_loss"] for row in report.curve),
            auc=tuple(row["metrics"].get("AUC") for row in report.curve),
        )
    except (LookupError, TypeError, AttributeError, ValueError):
        raise DataError(
            f"the report of {report.expid} has a curve without {axis}, train_loss or metrics: run it again with "
            "--overwrite"
        ) from None


def _baseline(groups: Sequence[Group], asked: str | None) -> Group | None:
    """The group of that expid, else the only one of that model."""
    wanted = asked or DEFAULT_BASELINE
    by_name = [group for group in groups if group.name == wanted]
    found = by_name or [group for group in groups if group.runs[0].report.model == wanted]
    if len(found) == 1:
        return found[0]
    if asked is None:
        return None
    if found:
        raise ConfigError(f"--baseline {asked}: choose one of {', '.join(group.name for group in found)}")
    known = [group.name for group in groups]
    raise ConfigError(f"--baseline {asked!r} is not a completed experiment here. {did_you_mean(asked, known)}")
