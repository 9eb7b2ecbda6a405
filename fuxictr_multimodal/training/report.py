"""The report of a CTR model's run, FuxiCTR's csv line and the summary table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from fuxictr_multimodal.system.files import kept_if_possible
from fuxictr_multimodal.text.escape import one_line
from fuxictr_multimodal.training.recorder import RunReport
from fuxictr_multimodal.training.run_names import without_seed


@dataclass
class Report(RunReport):
    """One experiment in numbers; times in seconds, memory in MiB.

    A metric that is not defined on a split, such as gAUC where no user has both labels, is None.

    Attributes:
        expid: the run's name, under the key that readers of older reports know.
        run: the run's name, as its files carry it.
        experiment: the expid in the YAML.
        world_size: number of processes that trained it together.
        precision: of a model that has a choice: what was `asked`, what is `used` and `why`.
        warm_start: the earlier run whose weights it began with, and by column how many rows were `kept`, `new` and
            `dropped`.
        dataset_facts: metadata of the dataset that bound its metrics, such as `bayes_auc`.
    """

    expid: str
    model: str
    dataset_id: str
    seed: int
    run: str = ""
    experiment: str = ""
    status: str = "running"
    error: str | None = None
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    best_epoch: int | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    rows_per_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mib: dict[str, float | None] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    warm_start: dict[str, str | dict[str, dict[str, int]]] = field(default_factory=dict)
    dataset_facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    manifest_hash: str = ""
    world_size: int = 1

    def __post_init__(self) -> None:
        # Reports of older versions have neither.
        self.run = self.run or self.expid
        self.experiment = self.experiment or without_seed(self.run, self.seed)

    def headline(self) -> str:
        """The dataset."""
        return f"on {self.dataset_id}"

    def scores(self) -> Table:
        """Metrics by split."""
        table = Table()
        names = list(dict.fromkeys(name for values in self.metrics.values() for name in values))
        table.add_column("split")
        for name in names:
            table.add_column(name, justify="right")
        for split, values in self.metrics.items():
            found = [values.get(name) for name in names]
            table.add_row(split, *("-" if value is None else f"{value:.4f}" for value in found))
        return table

    def details(self) -> Iterator[str]:
        """The known bounds of the data's metrics, the experiment's note, and the cost."""
        for name, value in self.dataset_facts.items():
            parts = value if isinstance(value, dict) else {"": value}
            shown = [f"{part} {number:.4f}".strip() for part, number in parts.items() if isinstance(number, float)]
            if shown:
                yield f"{name}: {', '.join(shown)}"
        if isinstance(kept := self.warm_start.get("rows"), dict):
            rows = [
                f"{column} {', '.join(f'{count:,} {what}' for what, count in counts.items())}"
                for column, counts in kept.items()
            ]
            yield f"warm start from {self.warm_start.get('run')}, rows: {'; '.join(rows)}"
        if self.config.get("note"):
            yield f"note: {self.config['note']}"
        yield (
            f"{self.parameters.get('total', 0):,} parameters, best epoch {self.best_epoch}, "
            f"{self.rows_per_s.get('train', 0):,.0f} samples/s training, "
            f"{self.rows_per_s.get('score', 0):,.0f} scoring, "
            f"{self.seconds:.0f} s, {self.peak_memory_mib.get('host') or 0.0:,.0f} MiB"
            + (f" in the first of {self.world_size} processes" if self.world_size > 1 else "")
        )


def append_csv_line(path: Path, report: Report, arguments: Sequence[str], *, once: bool = False) -> None:
    """Append the line that FuxiCTR's `run_expid.py` writes, in its own form; a warning where that is impossible.

    Args:
        path: FuxiCTR names it after the config folder.
        report: of the finished run.
        arguments: of the command line, the script's name first.
        once: whether nothing is appended where the result is in the table already.
    """

    def listed(values: Mapping[str, float | None]) -> str:
        return " - ".join(f"{name}: {value:.6f}" for name, value in values.items() if value is not None)

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    result = (
        f",[exp_id] {report.expid},[dataset_id] {report.dataset_id},[train] N.A.,"
        f"[val] {listed(report.metrics.get('valid', {}))},[test] {listed(report.metrics.get('test', {}))}\n"
    )
    line = f" {stamp},[command] python {one_line(' '.join(arguments))}{result}"
    with kept_if_possible(path.resolve()):
        _append(
            path,
            line.encode("utf-8", "backslashreplace"),
            known=result.encode("utf-8", "backslashreplace") if once else None,
        )


def _append(path: Path, line: bytes, *, known: bytes | None) -> None:
    """Append a line, unless one ends with what is known; where an earlier one was cut by a full disk, below it."""
    with path.open("a+b") as file:
        file.seek(0)
        if known is not None and path.is_file() and any(earlier.endswith(known) for earlier in file):
            return
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
