"""All values of a dataset checked against its metadata, block by block: what `fxmm verify` does after the checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.encoding import FEATURE_MAP_NAME, FEATURE_VOCAB_NAME
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.data.store.ids import IdMap, ids_name
from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME, Column, Manifest, SplitCounts, read_json
from fuxictr_multimodal.data.store.ranges import Ranges, Specs, check_items
from fuxictr_multimodal.data.store.reader import ITEM_FILE, SplitReader, read_item_table
from fuxictr_multimodal.errors import DataError


def check_values(directory: Path, manifest: Manifest, *, progress: bool = False) -> None:
    """Check every value of every split and of the item table, and that the files of metadata agree.

    Args:
        directory: folder of the dataset.
        manifest: its metadata.
        progress: show progress on stderr.

    Raises:
        DataError: a file is damaged, a value is out of range, or two files disagree; the message says where.
    """
    feature_map = load_feature_map(directory, manifest.dataset_id, {"group_id": manifest.group_id})
    features: Specs = feature_map.features
    if feature_map.labels[:1] != [manifest.label_col.get("name")]:
        raise _disagrees(directory / FEATURE_MAP_NAME, f"labels {feature_map.labels}", manifest.label_col)
    for column in manifest.feature_cols:
        _check_spec(directory, column, features)
    _check_vocabularies(directory, features)
    ids = {name: len(IdMap.read(directory / ids_name(name))) for name in manifest.ids}
    if manifest.item_col is not None:
        _check_item_table(directory, manifest, manifest.item_col, features, ids)
    rows = sum(counts.rows for counts in manifest.splits.values())
    with tqdm(
        total=rows, desc=f"values of {directory.name}", unit=" rows", unit_scale=True, leave=False, disable=not progress
    ) as bar:
        for split, counts in manifest.splits.items():
            with SplitReader(directory / split) as reader:
                _check_split(reader, directory / split, manifest, counts, features, ids, bar)


def _check_spec(directory: Path, column: Mapping[str, Any], features: Specs) -> None:
    """A column of the manifest is the same in the feature map."""
    name = column["name"]
    if name not in features:
        raise _disagrees(directory / FEATURE_MAP_NAME, f"no feature {name!r}", "it")
    for key in ("type", "source", "vocab_size", "pretrain_dim", "share_embedding"):
        if key in column and features[name].get(key, column[key]) != column[key]:
            raise _disagrees(
                directory / FEATURE_MAP_NAME, f"feature {name!r} with {key} {features[name].get(key)!r}", column[key]
            )


def _check_vocabularies(directory: Path, features: Specs) -> None:
    """Every code of a vocabulary has a row in its embedding table."""
    path = directory / FEATURE_VOCAB_NAME
    vocabularies = read_json(path) if path.is_file() else {}
    for name, vocabulary in vocabularies.items():
        size = features.get(name, {}).get("vocab_size")
        codes = np.fromiter(vocabulary.values(), dtype=np.int64, count=len(vocabulary))
        if size is not None and len(codes) and not (codes.min() >= 0 and codes.max() < size):
            raise DataError(
                f"{path}: column {name!r} has codes from {codes.min()} to {codes.max()}, but its vocab_size in "
                f"{FEATURE_MAP_NAME} is {size}: {BUILD_AGAIN}"
            )


def _check_item_table(directory: Path, manifest: Manifest, own: str, features: Specs, ids: Mapping[str, int]) -> None:
    path = directory / ITEM_FILE
    stored = read_item_table(path)
    roles = {column.name: column.role for column in manifest.item_columns}
    found = [Column(n, str(values.dtype), roles.get(n, "item"), values.shape[1:]) for n, values in stored.items()]
    if found != manifest.item_columns:
        raise _disagrees(path, f"columns {list(stored)}", "others, or of other types or widths")
    for rows in (*map(len, stored.values()), ids.get(own, manifest.items)):
        if rows != manifest.items:
            raise _disagrees(path, f"{rows} rows or ids", manifest.items)
    check_items(path, stored, features)
    wrong = stored[own] != np.arange(manifest.items)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{path}: row {row}, column {own!r}: item {stored[own][row]} is not in its own row; {BUILD_AGAIN}"
        )


def _check_split(
    reader: SplitReader,
    path: Path,
    manifest: Manifest,
    counts: SplitCounts,
    features: Specs,
    ids: Mapping[str, int],
    bar: tqdm,
) -> None:
    optional = {column.name for column in manifest.columns if column.role in ("label", "weight")}
    wanted = [column for column in manifest.columns if column.name in reader.columns or column.name not in optional]
    if list(reader.columns.values()) != wanted:
        raise _disagrees(path, f"columns {list(reader.columns)}", "others, or of other types or widths")
    if reader.rows != counts.rows:
        raise _disagrees(path, f"{reader.rows} rows", counts.rows)
    has_items = manifest.item_col is not None
    ranges = Ranges(
        reader.columns,
        features,
        items=manifest.items if has_items else None,
        max_len=manifest.max_len,
        ids={name: count for name, count in ids.items() if name in reader.columns},
        folds=manifest.folds,
    )
    events = [column.name for column in manifest.event_columns]
    label = next((name for name, column in reader.columns.items() if column.role == "label"), None)
    positives = 0
    for start, stop in reader.blocks:
        for name in reader.columns:
            values = ranges.read(reader, name, start, stop)
            if name == label:
                positives += int(values.sum())
        for behaviour in (None, *manifest.behaviours) if has_items else ():
            ranges.read_jagged(reader, start, stop, behaviour=behaviour, events=events)
        bar.update(stop - start)
    if counts.positives is not None and positives != counts.positives:
        raise _disagrees(path, f"{positives} positive rows", counts.positives)


def _disagrees(path: Path, found: str, expected: object) -> DataError:
    return DataError(
        f"{path} has {found}, but {MANIFEST_NAME} says {expected}: they belong to different builds, or one was edited; "
        f"{BUILD_AGAIN}"
    )
