"""Which kinds of history a feature map has, and which event features an experiment reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.store.manifest import Manifest

ALL = "all"
FIRST = "history"

Specs = Mapping[str, Mapping[str, Any]]


def name_histories(feature_map: FeatureMap, manifest: Manifest) -> None:
    """Set `feature_map.behaviours`, the kinds of history, `history` first, and what is known of the items in them."""
    feature_map.behaviours = () if manifest.item_col is None else (FIRST, *manifest.behaviours)
    feature_map.items, feature_map.longest_history = manifest.items, manifest.max_len
    feature_map.folds = manifest.folds


def keep_events(feature_map: FeatureMap, event_features: str | Sequence[str] | None) -> None:
    """Drop the event features that an experiment does not read from its feature map.

    Args:
        feature_map: of the dataset; it is changed.
        event_features: the setting: `all`, names, or None for none.

    Raises:
        ConfigError: the dataset has no such event feature.
    """
    there = event_names(feature_map)
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


def event_names(feature_map: FeatureMap | None) -> list[str]:
    """Names of the event features of a feature map, where there is one."""
    features = {} if feature_map is None else feature_map.features
    return [name for name, spec in features.items() if spec.get("source") == "event"]


def table_of(specs: Specs, name: str) -> str:
    """The feature whose embedding table a feature looks up: its own, or the one that it shares."""
    seen = {name}
    while True:
        shared = specs[name].get("share_embedding")
        if shared is None or shared not in specs or shared in seen:
            return name
        seen.add(shared)
        name = shared


def shared_sequences(specs: Specs) -> list[list[tuple[str, str]]]:
    """The histories of flat columns: for each behaviour, pairs of a target field and its sequence.

    A sequence is a history of the field whose embedding it shares; the k-th one of a field belongs to behaviour k.

    >>> clicks = {"type": "sequence", "share_embedding": "item_id"}
    >>> shared_sequences({"item_id": {"type": "categorical"}, "clicks": clicks, "carts": clicks})
    [[('item_id', 'clicks')], [('item_id', 'carts')]]
    """
    groups: dict[str, list[str]] = {}
    for name in specs:
        groups.setdefault(table_of(specs, name), []).append(name)
    behaviours: list[list[tuple[str, str]]] = []
    for table, group in groups.items():
        single = [name for name in group if specs[name]["type"] == "categorical"]
        # What an item itself has, such as similar items, is no history.
        sequences = [n for n in group if specs[n]["type"] == "sequence" and specs[n].get("source") != "item"]
        if not single:
            continue
        target = table if table in single else single[0]
        for number, sequence in enumerate(sequences):
            if number == len(behaviours):
                behaviours.append([])
            behaviours[number].append((target, sequence))
    return behaviours
