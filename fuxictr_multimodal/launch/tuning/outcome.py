"""The outcome of a trial, read from the report that its run updates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from fuxictr_multimodal.config.identity import config_hash
from fuxictr_multimodal.errors import Unwritable
from fuxictr_multimodal.launch.job import exit_text
from fuxictr_multimodal.launch.tuning.space import Trial
from fuxictr_multimodal.system.files import locked
from fuxictr_multimodal.system.interruption import SIGNALS, exit_status
from fuxictr_multimodal.system.untrusted.json_files import read_json_file
from fuxictr_multimodal.training.run_names import RunFiles

OUT_OF_MEMORY = re.compile(r"out of memory|MemoryError|can't allocate memory|ALLOC_FAILED", re.I)
# As commands end by signals; a negative status is a signal too.
INTERRUPTED = frozenset(map(exit_status, SIGNALS))

Report = dict[str, Any]


@dataclass
class Record:
    """A trial and its outcome.

    Attributes:
        trial: what was requested.
        ran: what ran: the trial itself, or its retry with smaller batches.
        status: `queued`, `running`, `completed`, `failed` or `pruned`.
        value: the monitored value on the validation split of the best checkpoint.
        metrics: validation metrics of the best checkpoint.
        curve: monitored values on validation so far, one per evaluation.
        exit_code: of the process, negative for a signal; None if this tuner did not run it.
        error: why it failed, in one line, followed by the last lines that it printed.
        reused: it was complete before this tuner started.
        losses: how many workers of a cluster were lost with it.
    """

    trial: Trial
    ran: Trial
    status: str = "queued"
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    seconds: float = 0.0
    parameters: int | None = None
    exit_code: int | None = None
    error: list[str] = field(default_factory=list)
    reused: bool = False
    losses: int = 0

    @classmethod
    def of(cls, trial: Trial) -> Record:
        """A queued trial."""
        return cls(trial, trial)

    @property
    def retried(self) -> bool:
        """Whether it ran, or runs, with smaller batches after it was out of memory."""
        return self.ran.expid != self.trial.expid

    def complete_from(self, report: Report) -> None:
        """Read the numbers of a complete report."""
        value = monitored(report, self.ran.params)
        self.read_progress(report)
        self.metrics = dict(report.get("metrics", {}).get("valid", {}))
        self.best_epoch = report.get("best_epoch")
        if value is None:
            self.status = "failed"
            self.error = [f"the report has no finite {self.ran.params['monitor']} of the validation split"]
        else:
            self.status, self.value, self.error = "completed", value, []

    def fail(self, report: Report | None, status: int | None, last_lines: list[str]) -> None:
        """Say why a process ended without a complete report.

        Args:
            report: what the run wrote, if anything.
            status: exit status of the process, negative for a signal.
            last_lines: what it printed last.
        """
        said = report.get("error") if report and report.get("status") in ("failed", "interrupted") else None
        reason = said or (last_lines[-1] if last_lines else "it printed nothing")
        if report:
            self.read_progress(report)
        self.status = "failed"
        self.error = [f"{exit_text(status)}: {reason}", *last_lines]

    def read_progress(self, report: Report) -> None:
        """Read what a report says while its run continues."""
        self.curve = [float(row["monitor"]) for row in report.get("curve", [])]
        self.seconds = float(report.get("seconds") or 0.0)
        self.parameters = report.get("parameters", {}).get("total")


def read_report(path: Path) -> Report | None:
    """Read a report; None if it is missing or not valid."""
    try:
        content = read_json_file(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_of(report: Report, trial: Trial, dataset_hash: str | None) -> bool:
    """Whether a report belongs to a trial's configuration and, if known, to this build of the dataset."""
    # Earlier versions hashed keys that nobody reads.
    written = config_hash(report["config"]) if report.get("config") else report.get("config_hash")
    if written != trial.config_hash:
        return False
    return dataset_hash is None or report.get("manifest_hash") in (None, "", dataset_hash)


def finished_report(trial: Trial, dataset_hash: str | None) -> Report | None:
    """The report of a completed trial, otherwise None.

    A state beside it says that its run was killed after its report: the run itself does the little that is left.
    """
    report = read_report(trial.report)
    if report is None or report.get("status") != "completed" or not is_of(report, trial, dataset_hash):
        return None
    return report if RunFiles.of_report(trial.report).left is None else None


def is_held(trial: Trial) -> bool:
    """Whether a process, on any machine, runs a trial: it holds the lock of its files."""
    lock = RunFiles.of_report(trial.report).lock
    if not lock.exists():
        return False
    try:
        with locked(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


def dataset_hash(trial: Trial) -> str | None:
    """Identity of the dataset that a trial reads; None if it is not built yet."""
    from fuxictr_multimodal.data.store.manifest import Manifest
    from fuxictr_multimodal.errors import DataError

    try:
        return Manifest.read(Path(trial.params["data_root"]) / trial.dataset_id).hash
    except (DataError, OSError):
        return None


def monitored(report: Report, params: Mapping[str, Any]) -> float | None:
    """The value to select by: `monitor` on the validation split, never on test; None if it is missing or not finite.

    >>> monitored({"metrics": {"valid": {"AUC": 0.75, "logloss": 0.5}}}, {"monitor": {"AUC": 1, "logloss": -1}})
    0.25
    """
    monitor = params["monitor"]
    weights = monitor if isinstance(monitor, dict) else {monitor: 1}
    values = report.get("metrics", {}).get("valid", {})
    if any(values.get(name) is None for name in weights):
        return None
    value = sum(weight * values[name] for name, weight in weights.items())
    return value if math.isfinite(value) else None


def maximised(params: Mapping[str, Any]) -> bool:
    """Whether a larger monitored value is better."""
    return params.get("monitor_mode", "max") == "max"


def best_record(records: list[Record]) -> Record | None:
    """The completed trial with the best validation value; the earlier one wins a tie."""
    done = [record for record in records if record.status == "completed"]
    if not done:
        return None
    sign = 1 if maximised(done[0].trial.params) else -1
    return max(done, key=lambda record: sign * (record.value or 0.0))


def is_by_machine(record: Record) -> bool:
    """Whether a failed trial was killed, or could not write its files: another try may end otherwise.

    >>> is_by_machine(Record(None, None, status="failed", exit_code=-9))
    True
    """
    if record.status != "failed" or record.exit_code is None:
        return False
    refused = any(f"{Unwritable.__name__}: " in line or " cannot be written: " in line for line in record.error)
    return record.exit_code < 0 or record.exit_code in INTERRUPTED or refused


def is_out_of_memory(record: Record) -> bool:
    """Whether a failed trial reported that memory ran out; a SIGKILL reports nothing and does not count."""
    return record.status == "failed" and any(OUT_OF_MEMORY.search(line) for line in record.error)


def said_out_of_memory(report: Report | None) -> bool:
    """Whether a report says that its run failed because memory ran out."""
    report = report or {}
    return report.get("status") == "failed" and bool(OUT_OF_MEMORY.search(str(report.get("error"))))
