"""Scores of finished runs: means over seeds after each stage, and paired differences between experiments.

The text is a function of the reports alone: same reports, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bilingual_embedding.training.run_folder import reports_of
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import load_experiment
from fuxictr_multimodal.comparison.statistics import Spread, paired_t_interval
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.text.escape import markdown

EXPLANATION = (
    "Scores in percent, mean ± standard deviation over seeds: Spearman's rank correlation for scored pairs, accuracy "
    "of the nearest text for translations and of the guess for masked words. The baseline is the cosine of character "
    "n-grams, without learning."
)


@dataclass(frozen=True)
class Seeds:
    """The completed runs of one experiment, reports by seed in the order of the seeds."""

    expid: str
    reports: dict[int, EmbeddingReport]

    @property
    def first(self) -> EmbeddingReport:
        """Report of the lowest seed."""
        return next(iter(self.reports.values()))

    @property
    def stages(self) -> list[str]:
        """Stages after which all runs were scored, in order."""
        return [stage for stage in self.first.evaluation if all(stage in r.evaluation for r in self.reports.values())]

    @property
    def final(self) -> str:
        """The last of them."""
        return self.stages[-1]

    def scores(self, stage: str) -> list[str]:
        """Names of the scores after a stage that all runs have."""
        found = [report.evaluation[stage] for report in self.reports.values()]
        return [name for name in self.first.evaluation[stage] if all(name in scores for scores in found)]

    def spread(self, stage: str, score: str) -> Spread | None:
        """A score after a stage over the seeds in which it has a value; None if it has none."""
        values = [report.evaluation[stage].get(score) for report in self.reports.values()]
        defined = tuple(value for value in values if value is not None)
        return Spread(defined) if defined else None


def compare(config_dir: Path, expids: Sequence[str], *, overrides: Sequence[str] = ()) -> str:
    """Markdown of all completed runs of some experiments.

    Experiments that end with the same scores are set against the first of them.

    Raises:
        ConfigError: if none has a completed run.
        DataError: two runs of an experiment have one seed, or a report is damaged.
    """
    found, roots = [], set()
    for expid in expids:
        root = Path(load_experiment(config_dir, expid, overrides=overrides).model_root)
        roots.add(str(root))
        runs = read_seeds(root, expid)
        if runs.reports:
            found.append(runs)
    if not found:
        raise ConfigError(
            f"no completed run of {', '.join(expids)} below {', '.join(sorted(roots))}: "
            "train with --stage all, or name the folder with --set model_root=<folder>"
        )
    missing = [expid for expid in expids if expid not in {runs.expid for runs in found}]
    parts = [EXPLANATION, *(_of_one(runs) for runs in found), *_differences(found)]
    if missing:
        parts.append(f"Without a completed run: {', '.join(map(markdown, missing))}.")
    return "\n\n".join(parts) + "\n"


def read_seeds(model_root: Path, expid: str) -> Seeds:
    """The completed runs `<model_root>/<expid>[_s<seed>]`.

    Raises:
        DataError: two of them have one seed, or a report is damaged.
    """
    by_seed: dict[int, tuple[Path, EmbeddingReport]] = {}
    for path in reports_of(model_root, expid):
        report = EmbeddingReport.read(path)
        if report.status != "completed" or not report.evaluation:
            continue
        if report.seed in by_seed:
            other = by_seed[report.seed][0]
            raise DataError(f"{other} and {path} are runs of {expid} with one seed, {report.seed}: move one away")
        by_seed[report.seed] = path, report
    return Seeds(expid, {seed: by_seed[seed][1] for seed in sorted(by_seed)})


def _of_one(runs: Seeds) -> str:
    names = dict.fromkeys(name for stage in runs.stages for name in runs.scores(stage))
    rows = [["score, %", "baseline", *map(markdown, runs.stages)]]
    for name in names:
        baseline = runs.first.floors.get(name)
        spreads = [runs.spread(stage, name) for stage in runs.stages]
        texts = [_spread_text(spread, len(runs.reports)) for spread in spreads]
        rows.append([markdown(name), "-" if baseline is None else f"{baseline:.1f}", *texts])
    seeds = ", ".join(map(str, runs.reports))
    minutes = Spread(tuple(sum(s["seconds"] for s in r.stages.values()) / 60 for r in runs.reports.values())).mean
    several = "seed" if len(runs.reports) == 1 else "seeds"
    title = f"## {markdown(runs.expid)}\n\nPreset {markdown(runs.first.preset)}; {several} {seeds}; "
    return f"{title}{minutes:.1f} minutes of training a run.\n\n{_table(rows)}"


def _differences(found: Sequence[Seeds]) -> list[str]:
    groups: dict[tuple[str, ...], list[Seeds]] = {}
    for runs in found:
        if not runs.stages:  # seeds that were scored after different stages
            continue
        groups.setdefault(tuple(sorted(runs.scores(runs.final))), []).append(runs)
    return [_against_first(group) for group in groups.values() if len(group) > 1]


def _against_first(group: Sequence[Seeds]) -> str:
    base, *others = group
    rows = [["score, %", *(f"{markdown(runs.expid)} (n = {len(_shared(base, runs))})" for runs in others)]]
    for name in base.scores(base.final):
        rows.append([markdown(name), *(_difference_text(base, runs, name) for runs in others)])
    return (
        f"## Minus {markdown(base.expid)}\n\n"
        "Difference of the scores after the last stage, mean over the n seeds that both have "
        f"[95 % interval, Student's t over paired seeds].\n\n{_table(rows)}"
    )


def _shared(base: Seeds, runs: Seeds) -> list[int]:
    return [seed for seed in base.reports if seed in runs.reports]


def _difference_text(base: Seeds, runs: Seeds, score: str) -> str:
    shared = _shared(base, runs)
    pairs = [
        (runs.reports[seed].evaluation[runs.final].get(score), base.reports[seed].evaluation[base.final].get(score))
        for seed in shared
    ]
    differences = [one - other for one, other in pairs if one is not None and other is not None]
    if not differences:
        return "-"
    interval = paired_t_interval(differences)
    mean = f"{Spread(tuple(differences)).mean:+.1f}"
    text = mean if interval is None else f"{mean} [{interval.low:+.1f}, {interval.high:+.1f}]"
    return text + _number_text(len(differences), len(shared))


def _spread_text(spread: Spread | None, seeds: int) -> str:
    if spread is None:
        return "-"
    text = f"{spread.mean:.1f}" if spread.std is None else f"{spread.mean:.1f} ± {spread.std:.1f}"
    return text + _number_text(len(spread.values), seeds)


def _number_text(values: int, seeds: int) -> str:
    """How many seeds a figure is of, where some have no value."""
    return "" if values == seeds else f" (n = {values})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too; the first row is the head.

    >>> print(_table([["score", "base"], ["a", "1.0"]]))
    | score | base |
    |:------|-----:|
    | a     |  1.0 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(cells)} |"

    rule = "|".join([":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])])
