"""A `Batch` as the two kinds of zoo models read it: the LongCTR triple, and flat columns with their feature map.

Shape legend: B rows, T history slots of a batch, L history slots of every batch (`max_len`).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Jagged
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.ranks import largest_over_ranks
from fuxictr_multimodal.zoo.histories import FIRST, Specs, shared_sequences

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.batch import Batch, Share
    from fuxictr_multimodal.data.item_table import ItemTable

POOLING = "layers.MaskedAveragePooling()"
PADDINGS = ("pre", "post")


def as_longctr(
    batch: Batch, item_table: ItemTable, *, max_len: int | None = None, padding: str = "pre"
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The triple `(batch_dict, item_dict, mask)` that FuxiCTR's LongCTR models read.

    `item_dict[column]` is flat, (B * (T + 1), ...): the padded history, then the target; `mask` is (B, T) float, 1 on
    real items. T is the longest history of the batch, at least 1 (models index into the history), or `max_len`. That of
    a share is the longest of the global batch: a model may normalise over all slots, as DIN does with Dice.
    `padding` is FuxiCTR's: `pre` puts item 0 before the history, `post` after it.
    """
    if batch.fold is not None:
        item_table, batch = item_table.of_batch(batch)
    slots_BT1, mask_BT = longctr_slots(batch, max_len=max_len, padding=padding)
    return dict(batch.features), item_table.gather(slots_BT1.flatten()), mask_BT


def longctr_slots(batch: Batch, *, max_len: int | None = None, padding: str = "pre") -> tuple[Tensor, Tensor]:
    """Items of the LongCTR layout, padded history then target (B, T + 1), and the mask (B, T) of real history items."""
    if max_len is None and batch.share is not None:
        max_len = max(batch.share.longest, 1)
    return slots_of(batch.history, batch.target, max_len=max_len, padding=padding)


def slots_of(
    history: Jagged, target_B: Tensor, *, max_len: int | None = None, padding: str = "pre"
) -> tuple[Tensor, Tensor]:
    """Like `longctr_slots`, of one kind of history and the targets."""
    longest = int(history.lengths.max()) if len(history) else 0
    padded_BT = pad(history, max_len if max_len is not None else max(longest, 1), padding)
    slots_BT1 = torch.cat([padded_BT, target_B[:, None].to(padded_BT.dtype)], dim=1)
    return slots_BT1, (padded_BT > 0).float()


def as_flat(batch: Batch, item_table: ItemTable, feature_map: FeatureMap, *, padding: str = "pre") -> dict[str, Tensor]:
    """One tensor a column: what the models of a FuxiCTR clone read.

    Args:
        batch: rows whose histories are at most L long.
        item_table: holds the features with `source: item`.
        feature_map: of `flat_feature_map`; names the columns and says L.
        padding: `pre` or `post`, where item 0 fills the history.

    Returns:
        Context and meta columns and labels as they are; features of the target item under their names, (B,), (B, tags)
        or (B, d); histories `history_<feature>`, (B, L), and `<behaviour>_<feature>` of further behaviours.
    """
    if batch.fold is not None:
        item_table, batch = item_table.of_batch(batch)
    columns = dict(batch.features)
    columns.update(item_table.gather(batch.target))
    if not without_items(feature_map):
        for behaviour in behaviours_of(feature_map):
            history = batch.history if behaviour == FIRST else batch.behaviours[behaviour]
            columns |= _padded_columns(behaviour, history, item_table, feature_map.features, padding)
    named = [*feature_map.features, *feature_map.labels]
    return {name: columns[name] for name in named if name in columns}


def _padded_columns(
    behaviour: str, history: Jagged, item_table: ItemTable, specs: Specs, padding: str
) -> dict[str, Tensor]:
    """Columns of one behaviour, (B, L), by name."""
    columns, ids_BL = {}, None
    for name, spec in specs.items():
        field = spec.get("share_embedding")
        if field is None or name != f"{behaviour}_{field}":
            continue
        if field in item_table.features:
            if ids_BL is None:
                ids_BL = pad(history, spec["max_len"], padding)
            columns[name] = item_table.features[field].index_select(0, ids_BL.flatten()).view(ids_BL.shape)
        elif field in history.events:
            columns[name] = pad(history.event(field), spec["max_len"], padding)
        else:  # a kind of history that lacks this feature of events
            columns[name] = history.values.new_zeros(len(history), spec["max_len"])
    return columns


def flat_feature_map(feature_map: FeatureMap, max_len: int, pooled: bool, *, embeddings: bool = True) -> FeatureMap:
    """The dataset's feature map, with a history column for every id of an item and every event feature.

    A history shares the embedding of the target's column. Tags and pretrained embeddings of history items are left out:
    FuxiCTR has no column of lists of lists.

    Args:
        feature_map: of the dataset; it is not changed.
        max_len: L.
        pooled: average the embedded history, for models of feature interaction; else hand over all its slots. In a
            dataset without items, histories are the sequences that share the embedding of another column.
        embeddings: keep features of `type: embedding`.

    Returns:
        Features in the old order, then the histories. `source` is `item` for the target, `user` for histories, and
        `context` where the dataset names none or for event features of the target: some models choose their inputs by
        it.
    """
    flat = copy.copy(feature_map)
    flat.features = type(feature_map.features)()
    shared = []
    for name, spec in feature_map.features.items():
        source = spec.get("source") or "context"
        if spec["type"] == "embedding" and not embeddings:
            continue
        flat.features[name] = {**spec, "source": "context" if source == "event" else source}
        if without_items(feature_map):
            flat.features[name] |= _encoder_of_column(spec, pooled)
        elif source in ("item", "event") and spec["type"] == "categorical":
            shared.append(name)
    for behaviour in behaviours_of(feature_map):
        for name in shared:
            spec = feature_map.features[name]
            flat.features[f"{behaviour}_{name}"] = {
                "source": "user",
                "type": "sequence",
                "feature_encoder": POOLING if pooled else None,
                "share_embedding": name,
                "padding_idx": 0,
                "max_len": max_len,
                "vocab_size": spec["vocab_size"],
                **{key: spec[key] for key in ("embedding_dim", "emb_output_dim") if key in spec},
            }
    return _recounted(flat)


def behaviours_of(feature_map: FeatureMap) -> Sequence[str]:
    """The kinds of history that come beside the columns; one where the feature map does not say."""
    named = getattr(feature_map, "behaviours", None)
    return (FIRST,) if named is None else named


def without_items(feature_map: FeatureMap) -> bool:
    """Whether the feature map is of a dataset without items, whose columns all are in its samples."""
    return not behaviours_of(feature_map)


def histories_of(flat: FeatureMap) -> list[list[tuple[str, str]]]:
    """History columns of a flat feature map: for each behaviour, pairs of a column of the target and its history."""
    if without_items(flat):
        return shared_sequences(flat.features)
    pairs = [
        [
            (spec["share_embedding"], name)
            for name, spec in flat.features.items()
            if spec.get("share_embedding") is not None and name == f"{behaviour}_{spec['share_embedding']}"
        ]
        for behaviour in behaviours_of(flat)
    ]
    return [found for found in pairs if found]


def _encoder_of_column(spec: Mapping[str, Any], pooled: bool) -> dict[str, Any]:
    """How a sequence that is a column of the samples is embedded: averaged, or slot by slot where it is attended to."""
    if spec["type"] != "sequence":
        return {}
    if pooled:
        return {} if spec.get("feature_encoder") else {"feature_encoder": POOLING}
    return {} if spec.get("share_embedding") is None else {"feature_encoder": None}


def _recounted(feature_map: FeatureMap) -> FeatureMap:
    feature_map.column_index = {}
    feature_map.num_fields = feature_map.get_num_fields()
    feature_map.set_column_index()
    return feature_map


def longctr_feature_map(feature_map: FeatureMap) -> tuple[FeatureMap, list[tuple[str, str]]]:
    """What LongCTR models read of flat columns: the fields of the first history are items, its sequences are left out.

    Sequences of further histories are averaged, as context.

    Returns:
        The feature map, and pairs of a target field and its sequence.

    Raises:
        ConfigError: no sequence shares the embedding of a field.
    """
    first, *others = shared_sequences(feature_map.features) or [[]]
    if not first:
        raise ConfigError(
            f"LongCTR models read items and histories, but dataset {feature_map.dataset_id!r} has neither: add "
            "`item_data` and `history_col` to its entry, or `share_embedding` to the sequence that is the history of a "
            "column; models of a FuxiCTR clone (`zoo_root`) and QIN do without"
        )
    items, sequences = {field for field, _ in first}, {name for _, name in first}
    found = copy.copy(feature_map)
    found.features = type(feature_map.features)()
    for name, spec in feature_map.features.items():
        if name in items:
            found.features[name] = {**spec, "source": "item"}
        elif name not in sequences:
            source = spec.get("source") or "context"
            found.features[name] = {**spec, "source": "context" if source == "item" else source}
            found.features[name] |= _encoder_of_column(spec, pooled=True)
    if others:
        logging.info("LongCTR models attend to %s; further histories are averaged", ", ".join(sorted(sequences)))
    return _recounted(found), first


def longctr_of_columns(
    columns: Mapping[str, Tensor],
    pairs: Sequence[tuple[str, str]],
    *,
    max_len: int | None = None,
    padding: str = "pre",
    share: Share | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The triple of `as_longctr` from flat columns; `pairs` are those of `longctr_feature_map`.

    An item is where one of its sequences is not 0, wherever FuxiCTR has filled them. Ranks that have a share of a
    global batch ask each other for the longest history.
    """
    sequences = {field: columns[name] for field, name in pairs}
    real_BL = torch.stack([values_BL != 0 for values_BL in sequences.values()]).any(dim=0)
    lengths = real_BL.sum(dim=1)
    slots = max(int(lengths.max()) if len(lengths) else 0, 1) if max_len is None else max_len
    if max_len is None and share is not None:
        slots = int(largest_over_ranks(torch.tensor([slots])))
    items, mask_BT = {}, pad(Jagged.from_lengths(torch.ones_like(real_BL)[real_BL], lengths), slots, padding)
    for field, values_BL in sequences.items():
        padded_BT = pad(Jagged.from_lengths(values_BL[real_BL], lengths), slots, padding)
        items[field] = torch.cat([padded_BT, columns[field][:, None].to(padded_BT.dtype)], dim=1).flatten()
    left_out = {*sequences, *(name for _, name in pairs)}
    return {name: v for name, v in columns.items() if name not in left_out}, items, mask_BT.float()


def pad(history: Jagged, length: int, padding: str) -> Tensor:
    """Histories in `length` slots, (B, length), filled with item 0 before (`pre`) or after them (`post`).

    Raises:
        ValueError: a history is longer than `length`.
    """
    assert padding in PADDINGS, padding
    padded = history.to_padded(length)
    if padding == "pre":
        return padded
    # Each row moves to the left by what it was padded with.
    slots = torch.arange(length, device=padded.device) + (length - history.lengths[:, None])
    return padded.gather(1, slots.clamp(max=max(length - 1, 0))).masked_fill(slots >= length, 0)
