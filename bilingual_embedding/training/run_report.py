"""The report of a text encoder's run: `report.json` and the summary table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from fuxictr_multimodal.training.recorder import RunReport


@dataclass
class EmbeddingReport(RunReport):
    """One run in numbers.

    Attributes:
        tokenizer: vocabulary size and tokens per word of each language.
        data: texts of each source and kind, read, dropped and kept; see `cleaning.Counts`.
        stages: by name: steps, seconds, texts, tokens, rates a second and the loss curve.
        evaluation: scores in percent by name, by the stage they were taken after (`untrained` or the start's name
            first); None where a score is not defined.
        floors: the same scores of the lexical baseline, character n-grams without learning.
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
    seconds: float = 0.0
    peak_memory_mib: dict[str, float | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def used_precision(self) -> str | None:
        """The precision in which the run was computed; older reports have it in their settings."""
        return self.precision.get("used") or self.config.get("precision")

    def headline(self) -> str:
        """The encoder's size."""
        return f"({self.preset})"

    def scores(self) -> Table | None:
        """Scores after each stage beside the baseline's."""
        names = dict.fromkeys([*self.floors, *(name for scores in self.evaluation.values() for name in scores)])
        if not names:
            return None
        table = Table()
        table.add_column("score, %")
        for name in ("baseline", *self.evaluation):
            table.add_column(name, justify="right")
        for name in names:
            found = [self.floors.get(name), *(scores.get(name) for scores in self.evaluation.values())]
            table.add_row(name, *("-" if value is None else f"{value:.1f}" for value in found))
        return table

    def details(self) -> Iterator[str]:
        """Duration of the stages, and their precision."""
        for name, stage in self.stages.items():
            yield f"{name}: {stage['steps']:,} steps in {stage['seconds']:.0f} s, {stage['tokens_per_s']:,.0f} tokens/s"
        if self.precision:
            yield f"{self.precision['used']}: {self.precision['why']}"
        yield f"{self.parameters.get('total', 0):,} parameters, {self.peak_memory_mib.get('host') or 0.0:,.0f} MiB"
