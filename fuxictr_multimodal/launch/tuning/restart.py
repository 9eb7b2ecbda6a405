"""What an earlier tuner left: complete trials are kept, one that was out of memory goes on with its smaller batch."""

from __future__ import annotations

from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.outcome import Record, Report
from fuxictr_multimodal.launch.tuning.space import Space, Trial


class Restart:
    """Looks reports up, and knows the smaller twin of a trial that was out of memory.

    Args:
        space: makes the twin.
        retry_oom: whether a trial that was out of memory may run once more with its twin's settings.
    """

    def __init__(self, space: Space, *, retry_oom: bool = False) -> None:
        self.space = space
        self.retry_oom = retry_oom
        self._dataset_hashes: dict[tuple[str, str], str | None] = {}

    def complete_report(self, trial: Trial) -> Report | None:
        """The report of a complete trial: of this configuration, and of the build of the data that is there now."""
        return outcome.finished_report(trial, self._dataset_hash(trial))

    def options(self, trial: Trial) -> list[str]:
        """How to start a trial beside its report: a killed run goes on unless its settings or data changed."""
        report = outcome.read_report(trial.report)
        if report is None:
            return []
        goes_on = report.get("status") != "completed" and outcome.is_of(report, trial, self._dataset_hash(trial))
        return ["--resume" if goes_on else "--overwrite"]

    def restore(self, record: Record) -> None:
        """Complete a queued trial from its report, or point it at its twin where it was out of memory before."""
        report = outcome.read_report(record.trial.report)
        if self.retry_oom and outcome.said_out_of_memory(report):
            record.ran = self.smaller(record.trial) or record.trial
        report = self.complete_report(record.ran)
        if report is not None:
            record.complete_from(report)
            record.reused = True

    def smaller(self, trial: Trial) -> Trial | None:
        """The twin with half the batch and twice the accumulation: gradients of the same rows in less memory.

        None where the batch cannot be halved. Batch normalisation still sees half the rows: close, not equal.
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
