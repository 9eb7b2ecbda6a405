"""Encoders of event features as JSON: what a dataset learnt of the events of histories, and what a request gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.events import TIMES, EventFeature, from_facts
from fuxictr_multimodal.data.entry.samples.histories import HistoryReader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.serving.runtime.times import LIMITS
from fuxictr_multimodal.serving.runtime.vocabulary import TIME


def event_encoders(
    store: Store, feature_map: FeatureMap, entry: Entry | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Encoders of the event features that a run reads, for `EventEncoder` of `runtime/`.

    Args:
        store: the dataset.
        feature_map: what the run reads.
        entry: that the dataset was built from, or None where events come encoded.
        names: of the features.
    """
    behaviours: Sequence[str] = getattr(feature_map, "behaviours", ())
    if entry is None:
        return [
            {
                "name": name,
                "kind": "encoded",
                "vocab_size": feature_map.features[name]["vocab_size"],
                "reads": dict.fromkeys(behaviours, name),
                "column": name,
            }
            for name in names
        ]
    facts = store.manifest.facts
    of = _of_log if entry.form == "log" else _of_samples
    return [
        {**_learnt(feature), **of(entry, feature, behaviours, facts)} for feature in from_facts(facts, names).values()
    ]


def of_events(manifest: Manifest, entry: Entry | None) -> set[str]:
    """Names that a request's events may have: event features of the dataset."""
    return {column.name for column in manifest.event_columns}


def _learnt(feature: EventFeature) -> dict[str, Any]:
    found: dict[str, Any] = {"name": feature.name, "kind": feature.kind}
    if feature.kind in TIMES:
        found["unit"] = feature.clock.unit
    if feature.boundaries is not None:
        found["boundaries"] = feature.boundaries.tolist()
    if feature.vocabulary is not None:
        found["tokens"] = list(feature.vocabulary)
    return found | {"without_value": int(feature.without_value(1)[0])}


def _of_log(entry: Entry, feature: EventFeature, behaviours: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    log = entry.settings.interactions
    if feature.kind in TIMES:
        form = _form(log.time_unit, facts.get("time_unit"))
        return {
            "reads": dict.fromkeys(behaviours, TIME),
            "column": log.time,
            "of_request": True,
            "times": form,
            "column_times": form,
        }
    shown = {spec.name for spec in entry.settings.event_cols or () if spec.target is not None}
    return {
        "reads": dict.fromkeys(behaviours, feature.name),
        "column": feature.name if feature.name in shown else None,
    }


def _of_samples(
    entry: Entry, feature: EventFeature, behaviours: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    spec = next(spec for spec in entry.settings.event_cols or () if spec.name == feature.name)
    aligned = HistoryReader(entry).aligned
    histories = dict(zip(behaviours, entry.columns.histories, strict=False))
    of_time = feature.kind in TIMES
    reads: dict[str, str | None] = dict.fromkeys(behaviours)
    for behaviour, column in histories.items():
        own = aligned[column].get(feature.name)
        if own is not None:
            reads[behaviour] = feature.name
            if of_time and own == _first_times(entry, aligned[column]):
                reads[behaviour] = TIME
    found: dict[str, Any] = {"reads": reads, "column": spec.target}
    if of_time:
        built = facts.get("time_units", {}).get(feature.name, {})
        found |= {
            "of_request": spec.target is not None,
            "times": _form(spec.time_unit, built.get("history")),
            "column_times": _form(spec.time_unit, built.get("target")),
        }
    return found


def _first_times(entry: Entry, aligned: Mapping[str, str]) -> str | None:
    """The column of a history that a request calls `time`: of several, that of the first feature."""
    names = [spec.name for spec in entry.settings.event_cols or () if spec.name in TIMES]
    return next((aligned[name] for name in names if name in aligned), None)


def _form(given: str | None, built: str | None) -> dict[str, Any]:
    """How whole numbers count; a unit that was recognised has a greatest time."""
    return {"unit": given or built, "limit": None if given or built is None else LIMITS.get(built)}
