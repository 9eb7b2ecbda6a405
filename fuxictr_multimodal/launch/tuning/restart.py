"""Trials of an earlier tuner: completed ones are kept, those that ran out of memory restart with a smaller batch."""

from __future__ import annotations

from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.outcome import Record, Report
from fuxictr_multimodal.launch.tuning.space import Space, Trial
from fuxictr_multimodal.training.run_names import RunFiles


class Restart:
    """Looks up reports, and makes the smaller variant of a trial that ran out of memory.

    Args:
        space: makes the variant.
        retry_oom: whether a trial that ran out of memory runs once more with the settings of its variant.
    """

    def __init__(self, space: Space, *, retry_oom: bool = False) -> None:
        self.space = space
        self.retry_oom = retry_oom
        self._dataset_hashes: dict[tuple[str, str], str | None] = {}

    def complete_report(self, trial: Trial) -> Report | None:
        """The report of a complete trial, for this configuration and the dataset as it is built now."""
        return outcome.finished_report(trial, self._dataset_hash(trial))

    def options(self, trial: Trial) -> list[str]:
        """How to start a trial that has a report: an unfinished run resumes unless its settings or data changed."""
        report = outcome.read_report(trial.report)
        if report is None:
            return []
        unfinished = report.get("status") != "completed" or RunFiles.of_report(trial.report).left is not None
        resumes = unfinished and outcome.is_of(report, trial, self._dataset_hash(trial))
        return ["--resume" if resumes else "--overwrite"]

    def restore(self, record: Record) -> None:
        """Complete a queued trial from its report, or replace it by its variant where it ran out of memory before."""
        report = outcome.read_report(record.trial.report)
        if self.retry_oom and outcome.said_out_of_memory(report):
            record.ran = self.smaller(record.trial) or record.trial
        report = self.complete_report(record.ran)
        if report is not None:
            record.complete_from(report)
            record.reused = True

    def smaller(self, trial: Trial) -> Trial | None:
        """The variant with half the batch and twice the accumulation: gradients of the same samples in less memory.

        None where the batch cannot be halved. Batch normalisation sees half the samples: close, not equal.
        """
        batch_size = trial.params["batch_size"]
        if batch_size % 2:
            return None
        steps = 2 * (trial.params.get("accumulation_steps") or 1)
        return self.space.trial({**trial.settings, "batch_size": batch_size // 2, "accumulation_steps": steps})

    def _dataset_hash(self, trial: Trial) -> str | None:
        key = (str(trial.params["data_root"]), trial.dataset_id)
        if self._dataset_hashes.get(key) is None:
            self._dataset_hashes[key] = outcome.dataset_hash(trial)
        return self._dataset_hashes[key]
