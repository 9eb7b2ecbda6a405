"""Notes beside the numbers: known references, faults of models, and settings that differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fuxictr_multimodal.comparison.board import Reference
from fuxictr_multimodal.comparison.collect import Group
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
    "warm_start",
)

_KEY = re.compile(
    r"(?P<kind>bayes|ceiling|floor)_(?P<metric>auc|gauc|logloss)(?:_(?P<what>.+?))??(?:_(?P<split>train|valid|test))?"
)
_METRICS = {"auc": "AUC", "gauc": "gAUC", "logloss": "logloss"}


def marks_of(model: str) -> tuple[str, ...]:
    """Footnotes of a model.

    >>> marks_of("SIM"), marks_of("DIN")
    (('a',), ())
    """
    return tuple(letter for letter, fault in footnotes().items() if model in fault.models)


def references(metadata: Mapping[str, Any], splits: Sequence[str]) -> tuple[Reference, ...]:
    """Known baselines and Bayes-optimal metrics in the metadata of a dataset, the latter first.

    A key is `<bayes|ceiling|floor>_<auc|gauc|logloss>[_<what>][_<split>]`: a number, or numbers by split. A number
    without a split is of test.

    >>> found = references({"bayes_auc": {"test": 0.9, "expected": 0.91}, "floor_auc_item_mean": 0.6}, ["test"])
    >>> [(reference.name, reference.kind, reference.metrics) for reference in found]
    [('best possible', 'ceiling', {'test': {'AUC': 0.9}}), ('item mean', 'floor', {'test': {'AUC': 0.6}})]
    """
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for key, value in metadata.items():
        match = _KEY.fullmatch(key)
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
    """Sentences about the settings that all groups share, and about those that differ."""
    texts = {"seeds": [", ".join(map(str, group.seeds)) for group in groups]}
    texts |= {key: [_words(group.runs[0].report.config.get(key)) for group in groups] for key in SHARED_SETTINGS}
    shared, differing = [], []
    for key, values in texts.items():
        by_value: dict[str, list[str]] = {}
        for group, value in zip(groups, values, strict=True):
            by_value.setdefault(value, []).append(group.name)
        if list(by_value) == [_words(None)]:
            continue
        if len(by_value) == 1:
            shared.append(f"{key} {values[0]}")
        else:
            differing.append(f"{key}: " + "; ".join(f"{v} for {', '.join(names)}" for v, names in by_value.items()))
    notes = [f"Same for all: {'; '.join(shared)}."] if shared else []
    return notes + [f"Not the same for all: {text}." for text in differing]


def environment_notes(groups: Sequence[Group]) -> list[str]:
    """Sentences about the versions and commits that produced the numbers."""
    reports = [run.report for group in groups for run in group.runs]
    versions: dict[str, set[str]] = {}
    for report in reports:
        for name, version in report.versions.items():
            versions.setdefault(name, set()).add(version)
    listed = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    commits = sorted({report.commit or "unknown" for report in reports})
    short = [commit[:10] + ("-dirty" if commit.endswith("-dirty") else "") for commit in commits]
    notes = [f"Computed with {listed}."] if versions else []
    return notes + ([f"Code of commit {', '.join(dict.fromkeys(short))}."] if commits != ["unknown"] else [])


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}*{weight}" if weight != 1 else str(key) for key, weight in value.items() if weight)
    return "not set" if value is None else str(value)
