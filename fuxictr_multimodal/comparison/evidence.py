"""Labels, saved scores and partitions of the compared samples, and the bootstrap over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.comparison import slices
from fuxictr_multimodal.comparison.board import Slicing
from fuxictr_multimodal.comparison.collect import Group, Run
from fuxictr_multimodal.comparison.statistics import Spread, bootstrap_aucs
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.metrics.classification import auc, expected_calibration_error
from fuxictr_multimodal.system.untrusted.archives import ZIP_ERRORS, read_npz


@dataclass(frozen=True)
class Evidence:
    """What is known of the compared samples, as far as the dataset and predictions are available.

    Attributes:
        labels: (N,) of the samples.
        group_ids: (N,) of the samples, where the dataset has groups.
        scores: by group of runs, the saved scores (N,) of each run; only groups that have all of them.
        partitions: of the samples.
        split_sizes: samples and positives by split.
        notes: what is missing, in sentences.
    """

    labels: NDArray = field(default_factory=lambda: np.empty(0))
    group_ids: NDArray | None = None
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    partitions: list[slices.Partition] = field(default_factory=list)
    split_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, groups: Sequence[Group], store: Store | None, manifest_hash: str, split: str) -> Evidence:
        """Read labels, groups and saved scores of a split.

        Args:
            groups: whose scores are read.
            store: the dataset; without it there is no evidence.
            manifest_hash: of the build that the groups were trained on.
            split: whose samples are compared.

        Raises:
            DataError: the dataset was built again, or saved scores do not give the reported AUC.
        """
        if not groups:
            return cls()
        if store is None:
            return cls(notes=["The dataset was not found: no intervals over samples and no slices."])
        manifest = store.manifest
        if manifest.hash != manifest_hash:
            raise DataError(
                f"{store.place} was built again since these runs (manifest {manifest.hash[:12]}, theirs "
                f"{manifest_hash[:12]}): run them again with --overwrite, or give their dataset with --data-root"
            )
        with store.reader(split) as rows:
            labels = rows.read(manifest.label_col.get("name", "label"), 0, rows.rows)
            group_ids = rows.read(manifest.group_id, 0, rows.rows) if manifest.group_id in rows.columns else None
        kept = {group.name: [_scores(run, split, labels) for run in group.runs] for group in groups}
        found = {name: [run for run in runs if run is not None] for name, runs in kept.items()}
        scores = {name: runs for name, runs in found.items() if len(runs) == len(kept[name])}
        lost = [r.name for g in groups for r, scored in zip(g.runs, kept[g.name], strict=True) if scored is None]
        note = f"No saved predictions for {', '.join(lost)}: no intervals over samples, no slices."
        return cls(
            labels=labels,
            group_ids=group_ids,
            scores=scores,
            partitions=slices.partitions(store, split) if scores else [],
            split_sizes={
                name: {"rows": size.rows, "positives": size.positives or 0} for name, size in manifest.splits.items()
            },
            notes=[note] if lost else [],
        )

    @property
    def slicings(self) -> tuple[Slicing, ...]:
        """The partitions with their sizes."""
        return tuple(Slicing(p.name, p.title, slices.counts(p, self.labels)) for p in self.partitions)

    def calibration_error(self, name: str) -> Spread | None:
        """Expected calibration error of a group over its seeds; None without its scores."""
        if name not in self.scores:
            return None
        return Spread(tuple(expected_calibration_error(self.labels, kept) for kept in self.scores[name]))

    def sliced_aucs(self, name: str) -> dict[str, tuple[Spread | None, ...]]:
        """AUC of a group in the bins of each partition."""
        if name not in self.scores:
            return {}
        return {p.name: slices.sliced_aucs(p, self.labels, self.scores[name]) for p in self.partitions}

    def bootstrap(
        self, replicates: int, seed: int, unit: str, on_replicate: Callable[[], object] | None
    ) -> dict[str, NDArray[np.float64]]:
        """Each group's mean AUC over its seeds, on the same resampled samples.

        Args:
            replicates, seed: how many draws B, and the seed of the first.
            unit: `rows` for single samples, or `groups` to draw all samples of a group (user) together.
            on_replicate: called after each draw.

        Returns:
            By group of runs (B,); empty where no scores are saved or B is 0.

        Raises:
            ConfigError: the dataset has no groups to draw.
        """
        if not self.scores or not replicates:
            return {}
        if unit == "groups" and self.group_ids is None:
            raise ConfigError("--resample groups: the dataset has no group column (`group_id`); use --resample rows")
        aucs = bootstrap_aucs(
            self.labels,
            [scores for runs in self.scores.values() for scores in runs],
            replicates=replicates,
            seed=seed,
            groups=self.group_ids if unit == "groups" else None,
            on_replicate=on_replicate,
        )
        ends = np.cumsum([len(runs) for runs in self.scores.values()])[:-1]
        return {name: part.mean(axis=0) for name, part in zip(self.scores, np.split(aucs, ends), strict=True)}


def _scores(run: Run, split: str, labels: NDArray) -> NDArray[np.float32] | None:
    """Saved scores of a split, checked against the report; None if there are none."""
    if not run.predictions.is_file():
        return None
    try:
        scores = read_npz(run.predictions, [f"{split}_scores"]).get(f"{split}_scores")
    except InputError:
        raise
    except (*ZIP_ERRORS, ValueError) as error:
        raise DataError(f"{run.predictions} cannot be read ({error}): run {run.name} again with --overwrite") from None
    if scores is None:
        return None
    expected = run.report.metrics[split].get("AUC")
    if len(scores) != len(labels) or (expected is not None and abs(auc(labels, scores) - expected) > 1e-6):
        raise DataError(
            f"{run.predictions} does not belong to {run.path.name}: its {len(scores)} {split} scores do not give the "
            f"reported AUC on the {len(labels)} samples; run {run.name} again with --overwrite"
        )
    return scores
