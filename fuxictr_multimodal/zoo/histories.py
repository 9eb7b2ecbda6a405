"""Which kinds of history a dataset has, and which event features an experiment reads, on its feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuxictr_multimodal.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.store.manifest import Manifest

ALL = "all"
FIRST = "history"


def name_histories(feature_map: FeatureMap, manifest: Manifest) -> None:
    """Set `feature_map.behaviours`: the kinds of history, `history` first; none in a flat dataset."""
    feature_map.behaviours = () if manifest.item_col is None else (FIRST, *manifest.behaviours)


def keep_events(feature_map: FeatureMap, event_features: str | Sequence[str] | None) -> None:
    """Drop the event features that an experiment does not read from its feature map.

    Args:
        feature_map: of the dataset; it is changed.
        event_features: the setting: `all`, names, or None for none.

    Raises:
        ConfigError: the dataset has no such event feature.
    """
    there = [name for name, spec in feature_map.features.items() if spec.get("source") == "event"]
    if event_features is None:
        wanted: Sequence[str] = ()
    elif event_features == ALL:
        wanted = there
    else:
        wanted = [event_features] if isinstance(event_features, str) else list(event_features)
    for name in wanted:
        if name not in there:
            what = did_you_mean(str(name), there) if there else "It has none; `event_cols` of its entry makes them."
            raise ConfigError(
                f"event_features: dataset {feature_map.dataset_id!r} has no event feature {name!r}. {what}"
            )
    for name in there:
        if name not in wanted:
            del feature_map.features[name]
    if len(wanted) < len(there):
        feature_map.num_fields = feature_map.get_num_fields()
        feature_map.column_index = {}
        feature_map.set_column_index()
