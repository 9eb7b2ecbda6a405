"""What a reader must know beside the numbers: floors and ceilings, known bugs, and whether the runs are comparable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fuxictr_multimodal.compare.board import Reference
from fuxictr_multimodal.compare.collect import Group
from fuxictr_multimodal.zoo.faults import footnotes

MARKS = {letter: fault.footnote for letter, fault in footnotes().items()}

# Settings that a fair comparison shares; a difference is named, not hidden.
SHARED_SETTINGS = (
    "epochs",
    "early_stop_patience",
    "factor",
    "monitor",
    "batch_size",
    "embedding_dim",
    "max_len",
    "tuning_trials",
)

_FACT = re.compile(
    r"(?P<kind>bayes|ceiling|floor)_(?P<metric>auc|gauc|logloss)(?:_(?P<what>.+?))??(?:_(?P<split>train|valid|test))?"
)
_METRICS = {"auc": "AUC", "gauc": "gAUC", "logloss": "logloss"}


def marks_of(model: str) -> tuple[str, ...]:
    """Footnotes of a model.

    >>> marks_of("SIM"), marks_of("DIN")
    (('a',), ())
    """
    return tuple(letter for letter, fault in footnotes().items() if model in fault.models)


def references(facts: Mapping[str, Any], splits: Sequence[str]) -> tuple[Reference, ...]:
    """Known floors and ceilings among the facts of a dataset, ceilings first.

    A fact is `<bayes|ceiling|floor>_<auc|gauc|logloss>[_<what>][_<split>]`: a number, or numbers by split. A number
    without a split is of test.

    >>> found = references({"bayes_auc": {"test": 0.9, "expected": 0.91}, "floor_auc_item_mean": 0.6}, ["test"])
    >>> [(reference.name, reference.kind, reference.metrics) for reference in found]
    [('best possible', 'ceiling', {'test': {'AUC': 0.9}}), ('item mean', 'floor', {'test': {'AUC': 0.6}})]
    """
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for key, value in facts.items():
        match = _FACT.fullmatch(key)
        if match is None:
            continue
        by_split = value if isinstance(value, Mapping) else {match["split"] or "test": value}
        kind = "floor" if match["kind"] == "floor" else "ceiling"
        name = (match["what"] or "").replace("_", " ") or ("best possible" if match["kind"] == "bayes" else kind)
        for split in splits:
            if isinstance(by_split.get(split), float):
                metrics = found.setdefault((kind, name), {}).setdefault(split, {})
                metrics[_METRICS[match["metric"]]] = by_split[split]
    return tuple(Reference(name, kind, metrics) for (kind, name), metrics in sorted(found.items()))


def setting_notes(groups: Sequence[Group]) -> list[str]:
    """Sentences on the settings that all groups share and on those that differ."""
    shared, differing = [], []
    for key in SHARED_SETTINGS:
        by_value: dict[str, list[str]] = {}
        for group in groups:
            by_value.setdefault(_said(group.runs[0].report.config.get(key)), []).append(group.name)
        if list(by_value) == [_said(None)]:
            continue
        if len(by_value) == 1:
            shared.append(f"{key} {next(iter(by_value))}")
        else:
            differing.append(f"{key}: " + "; ".join(f"{v} for {', '.join(names)}" for v, names in by_value.items()))
    seeds = {group.seeds for group in groups}
    if len(seeds) == 1:
        shared.insert(0, f"seeds {', '.join(map(str, next(iter(seeds))))}")
    else:
        by_seeds: dict[str, list[str]] = {}
        for group in groups:
            by_seeds.setdefault(", ".join(map(str, group.seeds)), []).append(group.name)
        differing.insert(0, "seeds: " + "; ".join(f"{s} for {', '.join(names)}" for s, names in by_seeds.items()))
    notes = []
    if shared:
        notes.append(f"Same for all: {'; '.join(shared)}.")
    notes += [f"Not the same for all: {text}." for text in differing]
    return notes


def environment_notes(groups: Sequence[Group]) -> list[str]:
    """Which code and which versions gave the numbers, every variant named."""
    runs = [run for group in groups for run in group.runs]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.report.versions.items():
            versions.setdefault(name, set()).add(version)
    notes = []
    if versions:
        listed = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
        notes.append(f"Made with {listed}.")
    commits = sorted({(run.report.commit or "unknown") for run in runs})
    short = [commit[:10] + ("-dirty" if commit.endswith("-dirty") else "") for commit in commits]
    if commits != ["unknown"]:
        notes.append(f"Code of commit {', '.join(dict.fromkeys(short))}.")
    return notes


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}*{weight}" if weight != 1 else str(key) for key, weight in value.items() if weight)
    return "not set" if value is None else str(value)
