"""FuxiCTR's `feature_cols` and feature specs, checked before FuxiCTR sees them.

FuxiCTR evaluates some of these strings as code and crashes on others. Only what is listed here passes. This file
imports no FuxiCTR, so a configuration is checked in no time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fuxictr_multimodal.config.binder import bind
from fuxictr_multimodal.config.dataset_settings import FEATURE_TYPES, FeatureColumn
from fuxictr_multimodal.config.known_values import check_feature_encoder, check_known_values
from fuxictr_multimodal.data.store.manifest import FOLD_COL
from fuxictr_multimodal.errors import ConfigError, did_you_mean

# What FuxiCTR would crash on, with what to do instead.
REFUSED_KEYS = {
    "preprocess": "prepare the column in the recipe; FuxiCTR calls whatever method it names",
    "pretrained_emb": "put the vectors into the item table as a column of type embedding",
    "pretrain_usage": "put the vectors into the item table as a column of type embedding",
    "freeze_emb": "put the vectors into the item table as a column of type embedding",
}


# Whole numbers of a feature, by which tables are allocated and rows are looked up.
SIZES = {
    "vocab_size": (1, 2**31 - 1),
    "embedding_dim": (1, 2**20),
    "emb_output_dim": (1, 2**20),
    "pretrain_dim": (1, 2**20),
    "max_len": (0, 2**24),
    "num_buckets": (2, 2**24),
    "padding_idx": (0, 2**31 - 1),
    "oov_idx": (0, 2**31 - 1),
}
# Groups of a split on disk.
RESERVED = frozenset({"history", "behaviours"})


def check_feature_cols(feature_cols: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """Check FuxiCTR's `feature_cols` and return them completed: one dict a column, `active` always there.

    Args:
        feature_cols: as in a dataset YAML; `name` may be a list of names.
        where: file and dataset, for the message.

    Raises:
        ConfigError: an unknown key, a value that FuxiCTR would evaluate or crash on, or a column given twice.
    """
    if not isinstance(feature_cols, Sequence) or isinstance(feature_cols, str) or not feature_cols:
        raise ConfigError(f"{where}: feature_cols must be a list of columns, not {feature_cols!r}")
    complete: list[dict[str, Any]] = []
    for column in feature_cols:
        if not isinstance(column, Mapping) or "name" not in column:
            raise ConfigError(f"{where}: feature_cols: {column!r} has no name")
        names = column["name"] if isinstance(column["name"], list) else [column["name"]]
        for name in names:
            if not isinstance(name, str) or not name or "/" in name or name in RESERVED:
                raise ConfigError(f"{where}: feature_cols: {name!r} cannot be the name of a column")
            check_not_fold(name, f"{where}: feature_cols")
            if any(name == other["name"] for other in complete):
                raise ConfigError(f"{where}: feature_cols: column {name!r} is given twice")
            one = {**column, "name": name, "active": column.get("active", True)}
            _check_column(one, f"{where}: column {name!r}")
            complete.append(one)
    _check_shared(complete, where)
    return complete


def check_label_col(label_col: Mapping[str, Any] | Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Check FuxiCTR's `label_col` (one label) and return it as one dict."""
    labels = list(label_col) if isinstance(label_col, list | tuple) else [label_col]
    if len(labels) != 1 or not isinstance(labels[0], Mapping) or not isinstance(labels[0].get("name"), str):
        raise ConfigError(f"{where}: label_col must be one column such as {{name: label, dtype: float}}")
    label = dict(labels[0])
    check_not_fold(label["name"], f"{where}: label_col")
    if label.setdefault("dtype", "float") not in ("int", "float"):
        raise ConfigError(f"{where}: label_col: dtype {label['dtype']!r} must be int or float")
    return label


def check_not_fold(name: str | None, where: str) -> None:
    """Refuse the name of the column that a build with `item_vectors` may add to the splits."""
    if name == FOLD_COL:
        raise ConfigError(
            f"{where}: {name!r} cannot be the name of a column: it is kept for the fold of each sample's user: rename "
            "the column"
        )


def _check_column(column: dict[str, Any], where: str) -> None:
    for key in column.keys() & REFUSED_KEYS.keys():
        raise ConfigError(f"{where}: {key} is not supported: {REFUSED_KEYS[key]}")
    bind(FeatureColumn, column, where)
    for key, (_, most) in SIZES.items():
        if isinstance(size := column.get(key), int) and size > most:
            raise ConfigError(f"{where}: {key} must be at most {most:,}, found {size}")
    processor = column.get("category_processor")
    if processor is None and "num_buckets" in column:
        raise ConfigError(f"{where}: num_buckets means nothing without category_processor")
    if processor is not None:
        _check_buckets(column, where)
    elif column["type"] in ("categorical", "meta") and column["dtype"] not in ("int", "str"):
        raise ConfigError(f"{where}: a column of type {column['type']} needs dtype int or str, not {column['dtype']}")
    if column.get("remap", True) is not True and column["type"] != "meta":
        raise ConfigError(f"{where}: remap: False does not work in FuxiCTR; give vocab_size for encoded ids")
    check_feature_encoder(column.get("feature_encoder"), where)
    check_item_vectors(column, where)


def check_item_vectors(column: Mapping[str, Any], where: str) -> None:
    """Refuse `item_vectors` of another column than an item's embedding, and its settings without it."""
    bind(FeatureColumn, column, where)
    if "item_vectors" in column:
        if column["type"] != "embedding" or column.get("source") != "item":
            raise ConfigError(f"{where}: item_vectors is for a column of type embedding with `source: item`")
        return
    for key in ("window", "folds"):
        if key in column:
            raise ConfigError(f"{where}: {key} means nothing without item_vectors")


def _check_buckets(column: Mapping[str, Any], where: str) -> None:
    processor, wanted = (
        column["category_processor"],
        {"quantile_bucket": ("int", "float"), "hash_bucket": ("int", "str")},
    )
    if column["type"] != "categorical":
        raise ConfigError(f"{where}: category_processor needs a column of type categorical, not {column['type']}")
    if column["dtype"] not in wanted[processor]:
        raise ConfigError(f"{where}: {processor} needs dtype {' or '.join(wanted[processor])}, not {column['dtype']}")
    for key in ("share_embedding", "vocab_size"):
        if key in column:
            raise ConfigError(f"{where}: {key} means nothing beside category_processor: leave one of them out")


def _check_shared(columns: list[dict[str, Any]], where: str) -> None:
    """`share_embedding` must name an earlier column with a vocabulary."""
    earlier: dict[str, dict[str, Any]] = {}
    for column in columns:
        owner = column.get("share_embedding")
        if owner is not None and not (isinstance(owner, str) and owner in earlier):
            raise ConfigError(
                f"{where}: column {column['name']!r}: share_embedding {owner!r} is not an earlier active "
                f"categorical or sequence column. {did_you_mean(str(owner), earlier)}"
            )
        if column["active"] and column["type"] in ("categorical", "sequence"):
            earlier[column["name"]] = column


def check_roles(
    columns: Sequence[Mapping[str, Any]],
    *,
    label: str,
    item_col: str | None,
    group_id: str | None,
    where: str,
    weight_col: str | None = None,
    behaviours: Sequence[str] = (),
) -> None:
    """Check that active columns fit together: an item column, a group column, widths known before the first row.

    Args:
        columns: complete columns.
        label: name of the label.
        item_col: the item's own id, or None in a flat dataset.
        group_id: column of grouped metrics, or None.
        where: the dataset, for the message.
        weight_col: column of the weights of samples, or None.
        behaviours: names of the further kinds of history.

    Raises:
        ConfigError: naming the column and what to do.
    """
    by_name = {column["name"]: column for column in columns}
    check_not_fold(weight_col, f"{where}: weight_col")
    for name in (name for name, column in by_name.items() if "item_vectors" in column):
        raise ConfigError(
            f"{where}: column {name!r}: item_vectors needs histories of users: a log, samples with histories, or data "
            "that a script prepares: leave the column out"
        )
    if item_col is not None:
        own = by_name.get(item_col)
        if own is None or own.get("source") != "item" or own["type"] != "categorical":
            raise ConfigError(
                f"{where}: item_col {item_col!r} must be an active column of type categorical with source: item. "
                f"{did_you_mean(item_col, by_name)}"
            )
    for name, what in ((label, "label"), (weight_col, "weight")):
        if name in by_name:
            raise ConfigError(f"{where}: {name!r} is both the {what} and a feature")
    if weight_col == label:
        raise ConfigError(f"{where}: {label!r} is both the label and the weight")
    _check_histories(by_name, item_col=item_col, behaviours=behaviours, where=where)
    if item_col is None:
        by_name = {name: {**column, "source": ""} for name, column in by_name.items()}
    in_splits = [n for n, column in by_name.items() if column.get("source") != "item" or n == item_col]
    if group_id is not None and group_id not in in_splits:
        raise ConfigError(
            f"{where}: group_id {group_id!r} is not an active column of the splits. {did_you_mean(group_id, in_splits)}"
        )
    for name, column in by_name.items():
        if column["type"] == "meta" and column.get("source") == "item":
            raise ConfigError(f"{where}: column {name!r}: a meta column travels with the row, not the item")
        if column.get("source") == "item":
            continue
        if (
            column["type"] == "sequence"
            and "max_len" not in column
            and (item_col is not None or "vocab_size" in column)
        ):
            raise ConfigError(f"{where}: column {name!r}: a sequence outside the item table needs max_len")
        if column["type"] == "embedding" and "pretrain_dim" not in column:
            raise ConfigError(f"{where}: column {name!r}: an embedding outside the item table needs pretrain_dim")


def _check_histories(
    by_name: Mapping[str, Mapping[str, Any]], *, item_col: str | None, behaviours: Sequence[str], where: str
) -> None:
    """Event features and further histories need items; an event feature is one category."""
    for name, column in by_name.items():
        if column.get("source") != "event":
            continue
        if item_col is None:
            raise ConfigError(
                f"{where}: column {name!r}: `source: event` needs items and histories, but there are none"
            )
        if column["type"] != "categorical":
            raise ConfigError(
                f"{where}: column {name!r}: an event feature is categorical, not {column['type']}: put numbers into "
                f"bins"
            )
    if behaviours and item_col is None:
        raise ConfigError(f"{where}: behaviours need items, but there are none")
    for name in behaviours:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or name in RESERVED:
            raise ConfigError(f"{where}: {name!r} cannot be the name of a behaviour: use letters, digits, _, . and -")
        if list(behaviours).count(name) > 1:
            raise ConfigError(f"{where}: behaviour {name!r} is given twice")


def is_fitted(column: Mapping[str, Any]) -> bool:
    """Whether FuxiCTR must see training rows before it can encode this column."""
    if not column["active"]:
        return False
    if column["type"] in ("categorical", "sequence"):
        return "vocab_size" not in column
    return column["type"] == "numeric" and "normalizer" in column


def text_categories(columns: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Fitted categories of `dtype: int` that share a vocabulary with a sequence, whose tokens are text.

    FuxiCTR keeps 5 and "5" apart in such a vocabulary, so that nothing is shared; here they are one token, "5".
    """
    fitted = [column for column in columns if column["type"] in ("categorical", "sequence") and is_fitted(column)]
    owner = {column["name"]: column.get("share_embedding", column["name"]) for column in fitted}
    with_text = {owner[column["name"]] for column in fitted if column["type"] == "sequence"}
    return frozenset(
        column["name"]
        for column in fitted
        if column["type"] == "categorical" and column["dtype"] == "int" and owner[column["name"]] in with_text
    )


def check_spec(spec: Mapping[str, Any], where: str) -> None:
    """White-list of one feature of a feature map, as FuxiCTR's embedding layer will read it."""
    if spec["type"] not in FEATURE_TYPES:
        raise ConfigError(
            f"{where}: type {spec['type']!r} is unknown. {did_you_mean(str(spec['type']), FEATURE_TYPES)}"
        )
    for key, remedy in REFUSED_KEYS.items():
        if key in spec:
            raise ConfigError(f"{where}: {key} is not supported: {remedy}")
    for key, (least, most) in SIZES.items():
        value = spec.get(key)
        if value is not None and not (
            isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        ):
            raise ConfigError(
                f"{where}: {key} must be a whole number from {least} to {most:,}, found {str(value)[:80]!r}"
            )
    source = spec.get("source")
    if source is not None and not isinstance(source, str):
        raise ConfigError(f"{where}: source must be a text, found {str(source)[:80]!r}")
    check_known_values(spec, where)
