"""A `Batch` as the two kinds of zoo models read it: the LongCTR triple, and flat columns with their feature map.

Shape legend: B rows, T history slots of a batch, L history slots of every batch (`max_len`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.batch import Batch, Jagged
    from fuxictr_multimodal.data.item_table import ItemTable

# `history_<feature>` is the column of the history's values of an item feature.
HISTORY_PREFIX = "history_"
POOLING = "layers.MaskedAveragePooling()"
PADDINGS = ("pre", "post")


def as_longctr(
    batch: Batch, item_table: ItemTable, *, max_len: int | None = None, padding: str = "pre"
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The triple `(batch_dict, item_dict, mask)` that FuxiCTR's LongCTR models read.

    `item_dict[column]` is flat, (B * (T + 1), ...): the padded history, then the target; `mask` is (B, T) float, 1 on
    real items. T is the longest history of the batch, at least 1 (models index into the history), or `max_len`.
    `padding` is FuxiCTR's: `pre` puts item 0 before the history, `post` after it.
    """
    slots_BT1, mask_BT = longctr_slots(batch, max_len=max_len, padding=padding)
    return dict(batch.features), item_table.gather(slots_BT1.flatten()), mask_BT


def longctr_slots(batch: Batch, *, max_len: int | None = None, padding: str = "pre") -> tuple[Tensor, Tensor]:
    """Items of the LongCTR layout, padded history then target (B, T + 1), and the mask (B, T) of real history items."""
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
        or (B, d); histories `history_<feature>`, (B, L).
    """
    columns = dict(batch.features)
    columns.update(item_table.gather(batch.target))
    ids_BL = None
    for name, spec in feature_map.features.items():
        # A dataset without items has its histories as columns.
        if is_history(name, spec) and name not in columns:
            if ids_BL is None:
                ids_BL = pad(batch.history, spec["max_len"], padding)
            shared = item_table.features[spec["share_embedding"]]
            columns[name] = shared.index_select(0, ids_BL.flatten()).view(ids_BL.shape)
    named = [*feature_map.features, *feature_map.labels]
    return {name: columns[name] for name in named if name in columns}


def flat_feature_map(feature_map: FeatureMap, max_len: int, pooled: bool, *, embeddings: bool = True) -> FeatureMap:
    """The dataset's feature map, with a history column for every id of an item.

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
        `context` where the dataset names none: some models choose their inputs by it.
    """
    flat = copy.copy(feature_map)
    flat.features = type(feature_map.features)()
    histories = {}
    for name, spec in feature_map.features.items():
        if spec["type"] == "embedding" and not embeddings:
            continue
        flat.features[name] = {**spec, "source": spec.get("source") or "context"}
        if without_items(feature_map):
            flat.features[name] |= _encoder_of_column(spec, pooled)
        elif spec.get("source") == "item" and spec["type"] == "categorical":
            histories[HISTORY_PREFIX + name] = {
                "source": "user",
                "type": "sequence",
                "feature_encoder": POOLING if pooled else None,
                "share_embedding": name,
                "padding_idx": 0,
                "max_len": max_len,
                "vocab_size": spec["vocab_size"],
                **{key: spec[key] for key in ("embedding_dim", "emb_output_dim") if key in spec},
            }
    flat.features.update(histories)
    flat.column_index = {}
    flat.num_fields = flat.get_num_fields()
    flat.set_column_index()
    return flat


def is_history(name: str, spec: Mapping[str, Any]) -> bool:
    """Whether a column of a flat feature map holds histories."""
    return spec.get("share_embedding") is not None and name == HISTORY_PREFIX + spec["share_embedding"]


def without_items(feature_map: FeatureMap) -> bool:
    """Whether the feature map is of a dataset without items, whose columns all are in its samples."""
    return bool(getattr(feature_map, "without_items", False))


def histories_of(flat: FeatureMap) -> dict[str, str]:
    """History columns of a flat feature map with the columns of the target whose embeddings they share."""
    return {
        name: spec["share_embedding"]
        for name, spec in flat.features.items()
        if is_history(name, spec) or (without_items(flat) and _shares(spec))
    }


def _shares(spec: Mapping[str, Any]) -> bool:
    return spec["type"] == "sequence" and spec.get("share_embedding") is not None


def _encoder_of_column(spec: Mapping[str, Any], pooled: bool) -> dict[str, Any]:
    """How a sequence that is a column of the samples is embedded: averaged, or slot by slot where it is attended to."""
    if spec["type"] != "sequence":
        return {}
    if pooled:
        return {} if spec.get("feature_encoder") else {"feature_encoder": POOLING}
    return {"feature_encoder": None} if _shares(spec) else {}


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
