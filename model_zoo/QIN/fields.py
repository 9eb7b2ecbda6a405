"""Which features QIN reads as the target's, as its histories' and as context, by the feature map.

A dataset with histories of its own (`source: item`) has one target and one history a behaviour; in FuxiCTR's flat
columns histories are sequences that share the embedding of a target field.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.zoo.histories import FIRST, Specs, shared_sequences, table_of

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

# Parameters of a run in which histories come beside the columns: FuxiCTR's LongCTR loader reads them.
HISTORY_PARAMETERS = frozenset({"item_info", "user_info", "max_len", "data_loader"})


@dataclass(frozen=True)
class Behaviour:
    """One kind of history.

    Attributes:
        name: `history` for the first one.
        fields: what each of its items has, by names of the target's features, in the order of the feature map.
        columns: the flat column with the history's values of each field; empty where histories come beside columns.
    """

    name: str
    fields: tuple[str, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fields:
    """Names of features by what QIN reads them as, each in the order of the feature map.

    Attributes:
        context: read as they are.
        items: of the target item.
        events: of the target and of each history event, such as its age; those that the model reads.
        behaviours: the kinds of history; none in a dataset without histories.
        flat: whether all of these are columns of a batch.
        skipped: features without an embedding of their own: histories, and event features that are not read.
    """

    context: tuple[str, ...]
    items: tuple[str, ...]
    events: tuple[str, ...]
    behaviours: tuple[Behaviour, ...]
    flat: bool
    skipped: tuple[str, ...]

    @property
    def target(self) -> tuple[str, ...]:
        """Features of the target: those of its item, then those of its event."""
        return self.items + self.events

    @classmethod
    def of(
        cls,
        feature_map: FeatureMap,
        params: Mapping[str, Any],
        *,
        event_features: str | Sequence[str] | None = None,
        target_fields: Any = None,
        sequence_fields: Any = None,
    ) -> Fields:
        """Sort the features of a map.

        Args:
            feature_map: `feature_map.behaviours`, where our reader of datasets has set it, names the kinds of history,
                none of them in a flat dataset. Without it sequences with `share_embedding` say that a map is flat, and
                FuxiCTR's parameters of a run whether histories come beside the columns.
            params: of the run, as FuxiCTR passes them.
            event_features: `all`, names, or None for no event features.
            target_fields, sequence_fields: `din_target_field` and `din_sequence_field`, as FuxiCTR's models read them.

        Raises:
            ConfigError: names that are not there or do not go together.
        """
        specs = {name: spec for name, spec in feature_map.features.items() if spec["type"] != "meta"}
        if not specs:
            raise ConfigError(f"the feature map of {feature_map.dataset_id} has no feature that a model could read")
        there = [name for name, spec in specs.items() if spec.get("source") == "event"]
        events = _chosen(event_features, there, specs)
        left_out = tuple(name for name in there if name not in events)
        names: Sequence[str] | None = getattr(feature_map, "behaviours", None)
        if names is None or not names:
            if (target_fields is None) != (sequence_fields is None):
                raise ConfigError("din_target_field and din_sequence_field go together: give both or none")
            if target_fields is not None:
                found = _given(specs, target_fields, sequence_fields)
            else:
                found = _shared(specs)
            of_items = [name for name, spec in specs.items() if spec.get("source") == "item"]
            if names is not None or target_fields is not None or found or not of_items or _only_columns(params):
                return cls._of_flat(specs, found, left_out)
            names = (FIRST,)
        items = tuple(name for name, spec in specs.items() if spec.get("source") == "item")
        if not items:
            raise ConfigError(
                f"QIN pools histories of items: no feature of {feature_map.dataset_id} has `source: item`"
            )
        context = tuple(n for n in specs if n not in items and n not in there)
        _check_encoders(specs, context)
        behaviours = tuple(Behaviour(name, items + events) for name in names)
        return cls(context, items, events, behaviours, flat=False, skipped=left_out)

    @classmethod
    def _of_flat(cls, specs: Specs, behaviours: Sequence[Behaviour], left_out: tuple[str, ...]) -> Fields:
        read = {field for behaviour in behaviours for field in behaviour.fields}
        histories = {column for behaviour in behaviours for column in behaviour.columns}
        items = tuple(name for name in specs if name in read)
        context = tuple(n for n in specs if n not in read and n not in histories and n not in left_out)
        _check_encoders(specs, context)
        # A sequence whose table others look up keeps it.
        shared = tuple(n for n in specs if n in histories and specs[n].get("share_embedding") in specs)
        for behaviour in behaviours:
            logging.info("QIN reads %s as the history of %s", ", ".join(behaviour.columns), ", ".join(behaviour.fields))
        if not behaviours:
            logging.info("QIN reads no history: it is the quadratic network over %d features", len(context))
        return cls(context, items, (), tuple(behaviours), flat=True, skipped=left_out + shared)


def _chosen(event_features: str | Sequence[str] | None, there: Sequence[str], specs: Specs) -> tuple[str, ...]:
    if event_features is None:
        return ()
    if event_features == "all":
        chosen = list(there)
    else:
        chosen = [event_features] if isinstance(event_features, str) else list(event_features)
    for name in chosen:
        if name not in there:
            known = f"the dataset has {', '.join(there)}" if there else "the dataset has none"
            raise ConfigError(f"event_features: {name!r} is not an event feature (`source: event`): {known}")
        if specs[name]["type"] != "categorical":
            raise ConfigError(f"event_features: {name!r} is of type {specs[name]['type']}, not categorical")
    return tuple(name for name in there if name in chosen)


def _check_encoders(specs: Specs, context: Sequence[str]) -> None:
    for name in context:
        if specs[name]["type"] == "sequence" and not specs[name].get("feature_encoder"):
            raise ConfigError(
                f"the sequence {name!r} has no feature_encoder and is the history of no feature: name its target with "
                f"din_target_field, or pool it with feature_specs: [{{name: {name}, feature_encoder: "
                "layers.MaskedAveragePooling()}]"
            )


def _only_columns(params: Mapping[str, Any]) -> bool:
    """Whether FuxiCTR's own runner passes these parameters, for a loader of columns and nothing else."""
    return "data_format" in params and not HISTORY_PARAMETERS & params.keys()


def _shared(specs: Specs) -> list[Behaviour]:
    """The k-th sequence that shares the embedding of a target field belongs to behaviour k."""
    return [_behaviour(specs, number, pairs) for number, pairs in enumerate(shared_sequences(specs))]


def _given(specs: Specs, target_fields: Any, sequence_fields: Any) -> list[Behaviour]:
    """Behaviours of `din_target_field` and `din_sequence_field`: a name, or a list of names and of tuples of names."""
    targets, sequences = _groups("din_target_field", target_fields), _groups("din_sequence_field", sequence_fields)
    if [len(group) for group in targets] != [len(group) for group in sequences]:
        raise ConfigError(
            f"din_target_field={target_fields!r} and din_sequence_field={sequence_fields!r} must pair each target "
            "field with one sequence"
        )
    behaviours = []
    for number, (group, columns) in enumerate(zip(targets, sequences, strict=True)):
        for name, column in zip(group, columns, strict=True):
            for key, field, kind in (
                ("din_target_field", name, "categorical"),
                ("din_sequence_field", column, "sequence"),
            ):
                if field not in specs:
                    raise ConfigError(f"{key}: unknown feature {field!r}. {did_you_mean(field, list(specs))}")
                if specs[field]["type"] != kind:
                    raise ConfigError(f"{key}: {field!r} is of type {specs[field]['type']}, not {kind}")
            if table_of(specs, name) != table_of(specs, column):
                raise ConfigError(
                    f"din_sequence_field: {column!r} does not share the embedding of {name!r}, so their codes have "
                    f"nothing in common: set share_embedding: {name} in its feature_cols and build the dataset again, "
                    f"or, if both are encoded alike, feature_specs: [{{name: {column}, share_embedding: {name}}}]"
                )
        behaviours.append(_behaviour(specs, number, list(zip(group, columns, strict=True))))
    return behaviours


def _groups(key: str, given: Any) -> list[tuple[str, ...]]:
    entries = list(given) if isinstance(given, list) else [given]
    groups = [tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in entries]
    if not all(isinstance(name, str) for group in groups for name in group) or not all(groups):
        raise ConfigError(f"{key} must be the name of a feature, or a list of names and of tuples of them: {given!r}")
    return groups


def _behaviour(specs: Specs, number: int, pairs: Sequence[tuple[str, str]]) -> Behaviour:
    """The fields of one behaviour in the order of the feature map, in which FuxiCTR's layer puts their vectors."""
    by_field = dict(pairs)
    fields = tuple(name for name in specs if name in by_field)
    columns = tuple(by_field[name] for name in fields)
    return Behaviour(FIRST if number == 0 else columns[0], fields, columns)
