"""`report.json` of an embedding run, kept true while it runs, and its summary table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import write_json
from fuxictr_multimodal.system.terminal import plain_console

REPORT = "report.json"


@dataclass
class EmbeddingReport:
    """One run in numbers.

    Attributes:
        status: `running`, `completed`, `failed` or `interrupted`, the last two with `error`.
        tokenizer: vocabulary size and tokens a word of each language.
        data: rows of each source and kind, read, dropped and kept; see `cleaning.Counts`.
        stages: by name: steps, seconds, texts, tokens, rates a second and the loss curve.
        evaluation: scores in percent by name, by the stage they were taken after (`untrained` or the start's name
            first); None where a score is not defined.
        floors: the same scores by character n-grams, without learning.
        precision: what was `asked`, what is `used` and `why`; see `reduced_precision.Choice`.
    """

    expid: str
    preset: str
    seed: int
    status: str = "running"
    error: str | None = None
    tokenizer: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, dict[str, float | None]] = field(default_factory=dict)
    floors: dict[str, float | None] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    peak_memory_mib: dict[str, float | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def used_precision(self) -> str | None:
        """The precision in which the run was computed; older reports have it in their settings."""
        return self.precision.get("used") or self.config.get("precision")

    def write(self, path: Path) -> None:
        """Write the report atomically; a number that is not finite is written as null, which JSON has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _finite(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> EmbeddingReport:
        """Read a report.

        Raises:
            DataError: if the file is not a report of this version.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is not a report of this version: {error}; move it away and run again") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(report: EmbeddingReport, path: Path) -> None:
    """Scores after each stage beside the floor, what the stages took, and where the report lies."""
    console = plain_console()
    console.print(Text.assemble((report.expid, "bold"), f" ({report.preset}), seed {report.seed}: {report.status}"))
    table = Table()
    table.add_column("score, %")
    for name in ("floor", *report.evaluation):
        table.add_column(name, justify="right")
    names = dict.fromkeys([*report.floors, *(name for scores in report.evaluation.values() for name in scores)])
    for name in names:
        found = [report.floors.get(name), *(scores.get(name) for scores in report.evaluation.values())]
        table.add_row(name, *("-" if value is None else f"{value:.1f}" for value in found))
    if names:
        console.print(table)
    for name, stage in report.stages.items():
        console.print(
            f"  {name}: {stage['steps']:,} steps in {stage['seconds']:.0f} s, {stage['tokens_per_s']:,.0f} tokens/s",
            soft_wrap=True,
        )
    if report.precision:
        console.print(f"  {report.precision['used']}: {report.precision['why']}", soft_wrap=True)
    host = report.peak_memory_mib.get("host") or 0.0
    console.print(f"  {report.parameters.get('total', 0):,} parameters, {host:,.0f} MiB", soft_wrap=True)
    console.print(f"  report: {path}", soft_wrap=True)
