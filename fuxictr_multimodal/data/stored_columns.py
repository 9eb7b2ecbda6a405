"""Which columns of a split a loader reads: what the feature map names, and what the split says of their roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


@dataclass(frozen=True)
class StoredColumns:
    """What a loader reads of a split.

    Attributes:
        target: column of the target item, or None in a flat dataset.
        columns: labels, context and meta columns, and event features of the target.
        events: event features of the histories.
        behaviours: names of the further kinds of history.
        weight: column of the weights, or None.
        fold: column of the folds of users, or None.
    """

    target: str | None
    columns: list[str]
    events: list[str]
    behaviours: Sequence[str]
    weight: str | None
    fold: str | None


def stored_columns(reader: SplitReader, feature_map: FeatureMap, split: str, path: Path) -> StoredColumns:
    """What the feature map names, all known to be there."""
    roles = {column.role: name for name, column in reader.columns.items()}
    target = roles.get("target")
    if target is None and reader.has_history:
        raise DataError(f"{path}: no column of the split has the role of the target item; build the dataset again")
    # A flat dataset has the columns of items in its splits too.
    names = [n for n, spec in feature_map.features.items() if target is None or spec.get("source") != "item"]
    names += [name for name in feature_map.labels if split != "test" or name in reader.columns]
    if feature_map.group_id is not None:
        names.append(feature_map.group_id)
    for name in names:
        if name not in reader.columns:
            known = did_you_mean(name, reader.columns)
            raise DataError(f"{path}: the split {split!r} has no column {name!r} of the feature map. {known}")
    events = [name for name in names if feature_map.features.get(name, {}).get("source") == "event"]
    for name in events:
        if name not in reader.events:
            known = did_you_mean(name, reader.events)
            raise DataError(f"{path}: the histories of split {split!r} have no event column {name!r}. {known}")
    names = list(dict.fromkeys(names))
    return StoredColumns(target, names, events, reader.behaviours, roles.get("weight"), roles.get("fold"))
