"""The content of `vocabulary.json`: what encodes raw samples and items of a dataset for one run, as JSON.

The encoders of `runtime/` give the codes that predictions of new samples have: vocabularies, scalers and buckets are
those that the dataset keeps, and what a missing value becomes is asked of the dataset's own processor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.entry.entry import Entry
from fuxictr_multimodal.data.entry.tables.files import SUFFIXES
from fuxictr_multimodal.data.entry.tables.lists import SPLITTER
from fuxictr_multimodal.data.item_table import item_features
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.buckets import is_bucketed
from fuxictr_multimodal.data.store.encoding import FILL_NA, StoreFeatureProcessor
from fuxictr_multimodal.data.store.feature_cols import is_fitted
from fuxictr_multimodal.data.store.feature_map import restore_processor
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.scoring.entry_rows import entry_of
from fuxictr_multimodal.scoring.raw_rows import RAW_TYPES
from fuxictr_multimodal.serving.event_vocabulary import event_encoders, of_events
from fuxictr_multimodal.serving.runtime.encoders import OOV_TOKEN, PAD_TOKEN
from fuxictr_multimodal.serving.runtime.vocabulary import FORMAT


def vocabulary_of(store: Store, feature_map: FeatureMap, params: Mapping[str, Any]) -> dict[str, Any]:
    """What `Vocabulary` of `runtime/` reads.

    Args:
        store: the dataset.
        feature_map: what the run reads, as of `Experiment.feature_map`.
        params: of the run.

    Raises:
        DataError: ids are of a type that JSON has no form for.
    """
    manifest = store.manifest
    processor = store.read(restore_processor)
    events = [column.name for column in manifest.event_columns if column.name in feature_map.features]
    entry = entry_of(params, store, events)
    columns = {column["name"]: column for column in manifest.feature_cols}
    flat = manifest.item_col is None
    context = [
        column
        for name, column in columns.items()
        if name in feature_map.features
        and column["type"] != "meta"
        and column.get("source") != "event"
        and (flat or column.get("source") != "item")
    ]
    texts = entry is not None and entry.settings.data_format == "csv"
    known = event_encoders(store, feature_map, entry, events)
    encoders = [_encoder(column, processor, feature_map, entry, texts=texts) for column in context]
    asked = {one.get("from", one["name"]) for one in encoders}
    return {
        "format": FORMAT,
        "context": encoders,
        "events": known,
        "items": None if flat else _items(store, feature_map, processor, entry),
        "histories": list(feature_map.behaviours),
        "unread": sorted(_unread(columns.values(), entry, flat=flat) - asked),
        "unread_events": sorted(of_events(manifest, entry) - set(events)),
    }


def _items(
    store: Store, feature_map: FeatureMap, processor: StoreFeatureProcessor, entry: Entry | None
) -> dict[str, Any]:
    """The item part: ids and encoders of the features that the model reads."""
    manifest = store.manifest
    assert manifest.item_col is not None
    columns = {column["name"]: column for column in manifest.feature_cols}
    source = None if entry is None else entry.settings.item_data
    texts = isinstance(source, str) and source.lower().endswith(SUFFIXES["csv"])
    features = []
    for name in item_features(feature_map):
        if name == manifest.item_col:
            features.append({"name": name, "kind": "item"})
        else:
            features.append(_encoder(columns[name], processor, feature_map, entry, texts=texts))
    return {
        "column": manifest.item_col,
        "rows": manifest.items,
        "ids": _ids(store, manifest.item_col),
        "features": features,
    }


def _ids(store: Store, column: str) -> list[Any] | None:
    """The user's id of each row, None for padding; None where an id is the row's number."""
    found = store.ids(column)
    if found is None:
        return None
    ids = found.ids
    if ids.dtype == pl.Binary:
        raise DataError(f"{store.place}: ids of {column!r} are bytes, which requests cannot hold: use texts or numbers")
    return (ids if ids.dtype.is_integer() or ids.dtype == pl.String else ids.cast(pl.String)).to_list()


def _unread(columns: Collection[Mapping[str, Any]], entry: Entry | None, *, flat: bool) -> set[str]:
    """Columns of samples that a request may have although the model does not read them."""
    of_samples = [column for column in columns if flat or column.get("source") not in ("item", "event")]
    found = {column["name"] for column in of_samples}
    if entry is not None:
        found |= {entry.columns.raw_name(column) for column in (*entry.columns.samples, *entry.columns.users)}
        found.add(entry.user_col)
        log = entry.settings.interactions
        if log is not None:
            found |= {log.user} | ({log.time} if log.time is not None else set())
    return found


def _encoder(
    column: Mapping[str, Any],
    processor: StoreFeatureProcessor,
    feature_map: FeatureMap,
    entry: Entry | None,
    *,
    texts: bool,
) -> dict[str, Any]:
    """The encoder of one column.

    Args:
        column: complete, of the manifest.
        processor: of the dataset.
        feature_map: what the run reads.
        entry: that the dataset was built from, or None.
        texts: whether the column's file is csv, where a list is a text.
    """
    name, kind = column["name"], column["type"]
    raw = name if entry is None else entry.columns.raw.get(name, name)
    found: dict[str, Any] = {"name": name, **({} if raw == name else {"from": raw})}
    spec = feature_map.features[name]
    if kind == "embedding":
        found |= {"kind": "embedding", "width": spec["pretrain_dim"]}
        return found if entry is None else found | {"missing": 0.0}
    if is_fitted(column):
        return found | _fitted(column, processor) | {"missing": _missing(column, processor, texts=texts)}
    # Files of a dataset that a script built have no missing values.
    fill = column.get("fill_na") or 0
    missing = {} if entry is None else {"missing": fill}
    if kind == "numeric":
        return found | {"kind": "number", "dtype": column["dtype"]} | missing
    size = spec["vocab_size"]
    if kind == "categorical":
        missing = {name: code if 0 <= code < size else 0 for name, code in missing.items()}
        return found | {"kind": "encoded_category", "vocab_size": size} | missing
    return found | {
        "kind": "encoded_sequence",
        "vocab_size": size,
        "splitter": column.get("splitter", SPLITTER),
        "max_len": column.get("max_len") or spec["max_len"],
        "padding": column.get("padding", "post"),
        **({} if entry is None else {"missing": 0}),
    }


def _fitted(column: Mapping[str, Any], processor: StoreFeatureProcessor) -> dict[str, Any]:
    """What a fitted column has learnt."""
    name, dtype = column["name"], column["dtype"]
    if is_bucketed(column):
        state = processor.normalizers[name]
        if state["category_processor"] == "hash_bucket":
            return {"kind": "hash", "dtype": dtype, "num_buckets": state["num_buckets"]}
        return {"kind": "quantile_bins", "dtype": dtype, "boundaries": state["boundaries"]}
    if column["type"] == "numeric":
        scaler = processor.processor_dict[f"{name}::normalizer"].normalizer.__self__
        if hasattr(scaler, "mean_"):
            scales = {"subtract": float(scaler.mean_[0]), "divide": float(scaler.scale_[0])}
        else:
            scales = {"multiply": float(scaler.scale_[0]), "add": float(scaler.min_[0])}
        return {"kind": "number", "dtype": dtype, **scales}
    tokenizer = processor.processor_dict[f"{name}::tokenizer"]
    own = {token: code for token, code in tokenizer.vocab.items() if token not in (PAD_TOKEN, OOV_TOKEN)}
    ordered = sorted(own.items(), key=lambda pair: pair[1])
    found = {"tokens": [token for token, _ in ordered], "oov": tokenizer.vocab[OOV_TOKEN]}
    codes = [code for _, code in ordered]
    if codes != list(range(1, len(codes) + 1)):
        found["codes"] = codes
    if column["type"] == "categorical":
        text = {"text": True} if name in processor.text_categories else {}
        return {"kind": "category", "dtype": dtype, **text, **found}
    pad = tokenizer._na_value
    return {
        "kind": "sequence",
        "splitter": tokenizer._splitter,
        "max_len": tokenizer.max_len,
        "padding": tokenizer.padding,
        "pad_token": pad if isinstance(pad, str) else None,
        **found,
    }


def _missing(column: Mapping[str, Any], processor: StoreFeatureProcessor, *, texts: bool) -> Any:
    """What a missing value of a fitted column becomes: a code, codes or a number."""
    name = column["name"]
    if column["type"] == "sequence":
        # A missing list is an empty one; a missing text is `fill_na`.
        gap = pl.Series(name, [None if texts and column["dtype"] in FILL_NA else ""], dtype=pl.String)
    else:
        gap = pl.Series(name, [None], dtype=RAW_TYPES[column["dtype"]])
    return processor.transform({name: gap})[name][0].tolist()
