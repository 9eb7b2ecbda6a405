"""Data that FuxiCTR prepared, npz or parquet beside a feature_map.json, to a dataset: every code as it is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuxictr_multimodal.data.entry.entry import BESIDE, FEATURE_MAP, Entry
from fuxictr_multimodal.data.entry.tables.files import CHUNK_ROWS, files_of, scan
from fuxictr_multimodal.data.entry.tables.items import named_files
from fuxictr_multimodal.data.entry.tables.values import values_of
from fuxictr_multimodal.data.store.builder import StoreBuilder
from fuxictr_multimodal.data.store.manifest import SPLITS, read_json
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.system.untrusted.archives import ZIP_ERRORS, npz_names, read_npz

# Keys of a feature that are keys of a column too.
_KEPT = ("vocab_size", "max_len", "embedding_dim", "emb_output_dim", "pretrain_dim", "share_embedding")
_CODES = ("categorical", "sequence", "meta")


def build_prepared(entry: Entry, *, data_root: str | Path, recipe: Mapping[str, Any], overwrite: bool) -> None:
    """Build the dataset of an entry without columns, whose files FuxiCTR encoded.

    Args:
        entry: of the form `prepared`.
        data_root: folder of the datasets.
        recipe: for the manifest.
        overwrite: replace an existing dataset.

    Raises:
        InputError: there is no feature map, it does not fit the files, or a value is wrong; nothing is left on disk.
    """
    settings, data_format = entry.settings, entry.settings.data_format
    paths = {
        split: files_of(value, data_format=data_format, where=f"{entry.where}: {split}_data")
        for split in SPLITS
        if (value := getattr(settings, f"{split}_data")) is not None
    }
    origin = feature_map_of(entry, paths["train"][0])
    columns, label = columns_of(origin)
    known = [column["name"] for column in columns]
    with StoreBuilder(
        dataset_id=entry.dataset_id,
        data_root=data_root,
        feature_cols=columns,
        label_col={"name": label, "dtype": "float"},
        group_id=settings.group_id if settings.group_id in known else None,
        item_col=None,
        recipe=recipe,
        sources={FEATURE_MAP: origin}
        | {
            name: path
            for split, files in paths.items()
            for name, path in named_files(f"{split}_data", (*files,)).items()
        },
        overwrite=overwrite,
    ) as builder:
        builder.write_items(None)
        for split, files in paths.items():
            for path in files:
                rows = _npz_rows if data_format == "npz" else _parquet_rows
                for piece in rows(path, columns, label, labelled=split != "test"):
                    builder.append(split, piece)
        builder.finish(split_method="as FuxiCTR prepared it", facts={"feature_map": str(origin.name)})


def feature_map_of(entry: Entry, first: Path) -> Path:
    """FuxiCTR's feature map: in the folder of the dataset, or beside the training data.

    Raises:
        DataError: there is none.
    """
    folder = first.parent
    # FuxiCTR's folder of the dataset, its files, or their parts.
    own = Path(entry.settings.data_root) / entry.dataset_id.removesuffix(BESIDE)
    for place in (own, folder, folder.parent):
        if (place / FEATURE_MAP).is_file():
            return place / FEATURE_MAP
    raise DataError(
        f"{entry.where}: the entry has no `feature_cols`, so {first} must be data that FuxiCTR prepared, but there is "
        f"no {FEATURE_MAP} in {folder}: name the columns in `feature_cols` and the label in `label_col`"
    )


def columns_of(origin: Path) -> tuple[list[dict[str, Any]], str]:
    """The features of FuxiCTR's feature map as columns, and the label.

    Raises:
        DataError: the file is damaged, or has several labels.
    """
    stored = read_json(origin)
    try:
        features = {name: spec for entry in stored["features"] for name, spec in entry.items()}
        labels = list(stored["labels"])
        columns = [_column(name, spec, origin) for name, spec in features.items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{origin} is no feature map of FuxiCTR 2 ({error!r} is missing or wrong)") from None
    if len(labels) != 1:
        raise DataError(f"{origin} has {len(labels)} labels ({', '.join(map(str, labels))}): one is supported")
    return columns, labels[0]


def _column(name: str, spec: Mapping[str, Any], origin: Path) -> dict[str, Any]:
    if "pretrained_emb" in spec:
        raise ConfigError(
            f"{origin}: feature {name!r} has pretrained_emb, which is not supported: prepare the data again with the "
            "vectors as a column of type embedding"
        )
    column = {"name": name, "active": True, "type": spec["type"], "source": spec.get("source", "")}
    column["dtype"] = "int" if spec["type"] in _CODES else "float"
    column |= {key: spec[key] for key in _KEPT if key in spec}
    if spec["type"] == "sequence":
        # Without one, the columns of a sequence stay as they are; FuxiCTR's builder would take the mean.
        column["feature_encoder"] = spec.get("feature_encoder")
    elif "feature_encoder" in spec:
        column["feature_encoder"] = spec["feature_encoder"]
    return column


def _npz_rows(
    path: Path, columns: list[dict[str, Any]], label: str, *, labelled: bool
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of an npz file in pieces; memory holds the file."""
    try:
        names = npz_names(path)
        wanted = [c["name"] for c in columns]
        for name in [*wanted, *([label] if labelled else [])]:
            if name not in names:
                raise DataError(f"{path}: array {name!r} is missing. {did_you_mean(name, names)}")
        arrays = read_npz(path, [*wanted, *([label] if label in names else [])])
    except (*ZIP_ERRORS, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as npz: {error}") from None
    kinds = {c["name"]: c["type"] for c in columns}
    arrays = {
        name: _whole(values, name, path) if kinds.get(name) in _CODES else values for name, values in arrays.items()
    }
    for start in range(0, len(next(iter(arrays.values()))), CHUNK_ROWS):
        yield {name: values[start : start + CHUNK_ROWS] for name, values in arrays.items()}


def _whole(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Codes as whole numbers; FuxiCTR stacks columns of all kinds to floats."""
    if values.dtype.kind != "f":
        return values
    whole = values.astype(np.int64)
    wrong = np.flatnonzero((whole != values).reshape(len(values), -1).any(axis=1))
    if len(wrong):
        raise DataError(f"{path}: array {name!r}, row {wrong[0]}: {values[wrong[0]]} is no encoded id")
    return whole


def _parquet_rows(path: Path, columns: list[dict[str, Any]], label: str, *, labelled: bool) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file in pieces."""
    dtypes = {c["name"]: "list" if c["type"] in ("sequence", "embedding") else c["dtype"] for c in columns}
    table = scan(
        path, dtypes={**dtypes, label: "float"}, where=str(path), data_format="parquet",
        optional=() if labelled else (label,),
    )  # fmt: skip
    at = 0
    for chunk in table.chunks():
        piece = {c["name"]: values_of(c, chunk[c["name"]], where=str(path), first_row=at) for c in columns}
        if label in chunk.columns:
            piece[label] = chunk[label].to_numpy()
        yield piece
        at += len(chunk)
