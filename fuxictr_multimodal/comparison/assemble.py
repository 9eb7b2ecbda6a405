"""From grouped reports, kept predictions and the store to a `Board`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.comparison import slices
from fuxictr_multimodal.comparison.board import Board, Curve, Difference, Entry, Slicing, Unfinished, rounded
from fuxictr_multimodal.comparison.collect import Collection, Group, Run
from fuxictr_multimodal.comparison.notes import MARKS, environment_notes, marks_of, references, setting_notes
from fuxictr_multimodal.comparison.statistics import (
    Spread,
    bootstrap_aucs,
    paired_t_interval,
    percentile_interval,
)
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.training.metrics import auc, expected_calibration_error
from fuxictr_multimodal.training.report import Report

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
        store: its store; without it there are neither intervals over rows nor slices.
        baseline: expid or model name that differences refer to; by default the only DIN, if there is one.
        replicates: bootstrap replicates; 0 for none.
        bootstrap_seed: of the resampling.
        unit: `rows`, or `groups` to draw all rows of a group (user) together.
        not_run: expids that should have a report; listed as not run where they have none.
        on_replicate: called after each bootstrap replicate.

    Raises:
        ConfigError: no such baseline.
        DataError: the store or kept predictions do not belong to the reports.
    """
    groups = collection.groups
    compared = "test" if all(_has_auc(run.report, "test") for group in groups for run in group.runs) else "valid"
    groups = tuple(sorted(groups, key=lambda group: (-_mean_auc(group, compared), group.name)))
    base = _baseline(groups, baseline)
    evidence = _Evidence.load(groups, store, collection.manifest_hash, compared)
    replicates = replicates if evidence.scores else 0
    aucs = evidence.bootstrap(replicates, bootstrap_seed, unit, on_replicate) if replicates else {}
    axis = _curve_axis(groups)
    leader = groups[0] if groups else None
    entries = tuple(_entry(group, leader, base, compared, axis, aucs, evidence) for group in groups)
    marks = {mark for entry in entries for mark in entry.marks}
    seen = {run.name for group in groups for run in group.runs} | {run.run for run in collection.unfinished}
    started = {name for name in not_run if any(run == name or run.startswith(f"{name}_s") for run in seen)}
    unfinished = [*collection.unfinished]
    unfinished += [Unfinished(name, "not run", "no report") for name in not_run if name not in started]
    facts = groups[0].runs[0].report.dataset_facts if groups else {}
    notes = [*setting_notes(groups), *evidence.notes, *environment_notes(groups)] if groups else []
    return rounded(
        Board(
            dataset_id=collection.dataset_id,
            manifest_hash=collection.manifest_hash,
            compared=compared,
            splits=evidence.split_sizes,
            baseline=base.name if base else None,
            bootstrap={"replicates": replicates, "seed": bootstrap_seed, "unit": unit} if replicates else None,
            curve_axis=axis,
            entries=entries,
            slicings=evidence.slicings,
            references=references(facts, ("valid", "test") if compared == "test" else ("valid",)),
            unfinished=tuple(unfinished),
            footnotes={mark: text for mark, text in MARKS.items() if mark in marks},
            notes=tuple(notes),
        )
    )


class _Evidence:
    """Labels of the compared rows, kept scores of every run, and partitions of the rows, as far as they are there."""

    def __init__(self) -> None:
        self.labels: NDArray = np.empty(0)
        self.group_ids: NDArray | None = None
        self.scores: dict[str, list[NDArray[np.float32]]] = {}
        self.partitions: list[slices.Partition] = []
        self.split_sizes: dict[str, dict[str, int]] = {}
        self.notes: list[str] = []

    @classmethod
    def load(cls, groups: Sequence[Group], store: Store | None, manifest_hash: str, split: str) -> _Evidence:
        evidence = cls()
        if not groups:
            return evidence
        if store is None:
            evidence.notes.append("The store was not at hand: no intervals over rows and no slices.")
            return evidence
        if store.manifest.hash != manifest_hash:
            raise DataError(
                f"{store.dir} was built again since these runs (manifest {store.manifest.hash[:12]}, theirs "
                f"{manifest_hash[:12]}): run them again with --overwrite, or give the store they read with --data-root"
            )
        evidence.split_sizes = {
            name: {"rows": facts.rows, "positives": facts.positives or 0}
            for name, facts in store.manifest.splits.items()
        }
        label = store.manifest.label_col.get("name", "label")
        with store.reader(split) as rows:
            evidence.labels = rows.read(label, 0, rows.rows)
            if store.manifest.group_id in rows.columns:
                evidence.group_ids = rows.read(store.manifest.group_id, 0, rows.rows)
        missing = []
        for group in groups:
            found = [_scores(run, split, evidence.labels) for run in group.runs]
            missing += [run.name for run, scores in zip(group.runs, found, strict=True) if scores is None]
            if all(scores is not None for scores in found):
                evidence.scores[group.name] = found
        if missing:
            evidence.notes.append(
                f"No predictions are kept of {', '.join(missing)}: no intervals over rows, no slices."
            )
        if evidence.scores:
            evidence.partitions = slices.partitions(store, split)
        return evidence

    @property
    def slicings(self) -> tuple[Slicing, ...]:
        """The partitions with their sizes."""
        return tuple(Slicing(p.name, p.title, slices.counts(p, self.labels)) for p in self.partitions)

    def bootstrap(
        self, replicates: int, seed: int, unit: str, on_replicate: Callable[[], object] | None
    ) -> dict[str, NDArray[np.float64]]:
        """Replicates (B,) of each group's mean AUC over its seeds, on the same resampled rows."""
        if unit == "groups" and self.group_ids is None:
            raise ConfigError("--resample groups: the dataset has no group column (`group_id`); resample rows")
        aucs = bootstrap_aucs(
            self.labels,
            [scores for runs in self.scores.values() for scores in runs],
            replicates=replicates,
            seed=seed,
            groups=self.group_ids if unit == "groups" else None,
            on_replicate=on_replicate,
        )
        ends = np.cumsum([len(runs) for runs in self.scores.values()])[:-1]
        parts = np.split(aucs, ends)
        return {name: part.mean(axis=0) for name, part in zip(self.scores, parts, strict=True)}


def _scores(run: Run, split: str, labels: NDArray) -> NDArray[np.float32] | None:
    """Kept scores of a split, checked against the report; None where none are kept."""
    if not run.predictions.is_file():
        return None
    with np.load(run.predictions, allow_pickle=False) as kept:
        if f"{split}_scores" not in kept:
            return None
        scores = kept[f"{split}_scores"]
    expected = run.report.metrics[split].get("AUC")
    if len(scores) != len(labels) or (expected is not None and abs(auc(labels, scores) - expected) > 1e-6):
        raise DataError(
            f"{run.predictions} does not belong to {run.path.name}: its {len(scores)} {split} scores do not give the "
            f"reported AUC on the {len(labels)} rows; run {run.name} again with --overwrite"
        )
    return scores


def _entry(
    group: Group,
    leader: Group,
    base: Group | None,
    compared: str,
    axis: str,
    aucs: Mapping[str, NDArray[np.float64]],
    evidence: _Evidence,
) -> Entry:
    reports = [run.report for run in group.runs]
    difference = None
    if base is not None and group is not base:
        of_base = {run.report.seed: _auc(run.report, compared) for run in base.runs}
        paired = [_auc(r, compared) - of_base[r.seed] for r in reports if r.seed in of_base]
        replicates = [aucs[name] for name in (group.name, base.name) if name in aucs]
        difference = Difference(
            mean=_mean_auc(group, compared) - _mean_auc(base, compared),
            rows=percentile_interval(replicates[0] - replicates[1]) if len(replicates) == 2 else None,
            seeds=paired_t_interval(paired),
            shared_seeds=len(paired),
        )
    tied = None
    if group is not leader and group.name in aucs and leader.name in aucs:
        tied = not percentile_interval(aucs[leader.name] - aucs[group.name]).excludes_zero
    device = [r.peak_memory_mib.get("device") for r in reports]
    return Entry(
        name=group.name,
        model=reports[0].model,
        runs=tuple(run.name for run in group.runs),
        seeds=group.seeds,
        metrics=_with_calibration(_metrics(group), compared, evidence.labels, evidence.scores.get(group.name)),
        auc_rows=percentile_interval(aucs[group.name]) if group.name in aucs else None,
        difference=difference,
        tied_with_best=tied,
        parameters=reports[0].parameters,
        rows_per_s={
            key: float(np.mean([r.rows_per_s[key] for r in reports]))
            for key in ("train", "score")
            if all(key in r.rows_per_s for r in reports)
        },
        minutes=Spread(tuple(r.seconds / 60 for r in reports)),
        memory_mib={
            "host": max((r.peak_memory_mib.get("host") or 0.0) for r in reports),
            **({"device": max(device)} if all(value is not None for value in device) else {}),
        },
        trials=reports[0].config.get("tuning_trials"),
        curves=tuple(_curve(report, axis) for report in reports),
        slices={
            p.name: slices.sliced_aucs(p, evidence.labels, evidence.scores[group.name])
            for p in evidence.partitions
            if group.name in evidence.scores
        },
        marks=marks_of(reports[0].model),
    )


def _metrics(group: Group) -> dict[str, dict[str, Spread]]:
    """Metrics that all runs of a group have, by split."""
    first = group.runs[0].report.metrics
    found: dict[str, dict[str, Spread]] = {}
    for split, names in first.items():
        for name in names:
            values = [run.report.metrics.get(split, {}).get(name) for run in group.runs]
            if all(value is not None for value in values):
                found.setdefault(split, {})[name] = Spread(tuple(values))
    return found


def _with_calibration(
    metrics: dict[str, dict[str, Spread]], split: str, labels: NDArray, scores: Sequence[NDArray[np.float32]] | None
) -> dict[str, dict[str, Spread]]:
    """Add the calibration error of kept scores to the metrics of their split."""
    if scores is None:
        return metrics
    errors = Spread(tuple(expected_calibration_error(labels, kept) for kept in scores))
    return {**metrics, split: {**metrics[split], "ECE": errors}}


def _has_auc(report: Report, split: str) -> bool:
    """Whether the split was measured and AUC, where it was asked for, is defined on it."""
    return split in report.metrics and report.metrics[split].get("AUC", 0) is not None


def _auc(report: Report, split: str) -> float:
    try:
        value = report.metrics[split]["AUC"]
    except KeyError:
        raise DataError(
            f"the report of {report.expid} has no {split} AUC: put AUC into `metrics`, run it again with --overwrite"
        ) from None
    if value is None:
        raise DataError(f"AUC, which ranks the runs, is not defined on the {split} split: all its rows have one label")
    return value


def _mean_auc(group: Group, split: str) -> float:
    return Spread(tuple(_auc(run.report, split) for run in group.runs)).mean


def _curve_axis(groups: Sequence[Group]) -> str:
    """`epoch` where every run was evaluated once an epoch, else `step`."""
    epochs = ([row["epoch"] for row in run.report.curve] for group in groups for run in group.runs)
    return "epoch" if all(found == list(range(1, len(found) + 1)) for found in epochs) else "step"


def _curve(report: Report, axis: str) -> Curve:
    return Curve(
        seed=report.seed,
        x=tuple(row[axis] for row in report.curve),
        loss=tuple(row["train_loss"] for row in report.curve),
        auc=tuple(row["metrics"].get("AUC") for row in report.curve),
    )


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
    raise ConfigError(f"--baseline {asked!r} is no complete experiment here. {did_you_mean(asked, known)}")
