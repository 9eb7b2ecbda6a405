"""Build a dataset of the raw public release of MicroLens, by its entry and the choices of split and sampling."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourColumns
from fuxictr_multimodal.data.recipes.interactions import SPLITS, TRAIN
from fuxictr_multimodal.data.recipes.microlens.files import LEVELS
from fuxictr_multimodal.data.recipes.microlens.raw_files import LIKES, Release, read_release
from fuxictr_multimodal.data.recipes.microlens.raw_recipe import BY_USER, LAST_ITEM, Choices, Recipe
from fuxictr_multimodal.data.store.feature_cols import check_feature_cols, check_label_col, is_fitted
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

DATASET_IDS = {"50k": "MicroLens_50k", "100k": "MicroLens_100k", "1m": "MicroLens_1M_raw"}


def dataset_id_of(release: Release) -> str:
    """The shipped dataset entry for the size of a release.

    Raises:
        ConfigError: there is none for this size.
    """
    size = release.size.lower().replace("_", "-").rpartition("-")[2]
    if size not in DATASET_IDS:
        known = ", ".join(DATASET_IDS.values())
        raise ConfigError(f"there is no dataset entry for {release.size!r}: pass --dataset-id, such as {known}")
    return DATASET_IDS[size]


def build(
    *,
    raw: Path,
    config_dir: Path,
    data_root: Path,
    choices: Choices,
    size: str | None = None,
    dataset_id: str | None = None,
    embedding: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Build the dataset of one size of the raw release and return its manifest.

    Args:
        raw: folder of the release.
        config_dir: folder of the configs.
        data_root: folder of the datasets.
        choices: how to split and sample.
        size: which size, where the folder holds several.
        dataset_id: entry of the dataset config; by the size when not given.
        embedding: table of item vectors by item id, instead of vectors of the titles.
        overwrite: replace an existing dataset.
        progress: show progress on stderr.

    Raises:
        ConfigError: the entry is missing, or has a column that the release does not provide.
        DataError: a file is missing or wrong, or a user has seen too many items to sample negatives.
    """
    release = read_release(raw, size=size)
    dataset_id = dataset_id or dataset_id_of(release)
    entry = load_dataset_config(config_dir, dataset_id)
    where = f"dataset {dataset_id!r} in {config_dir}"
    columns = [column for column in check_feature_cols(entry["feature_cols"], where) if column["active"]]
    by_behaviour = BehaviourColumns.of(columns, where)
    max_len = entry.get("max_len", 64)
    recipe = Recipe(release, choices, max_len=max_len)
    sampler = recipe.sampler()

    metadata: dict[str, Any] = {
        "size": release.size,
        "interactions": len(release.pairs),
        "repeated_interactions_left_out": release.repeated,
        "users": len(recipe.user_ids),
        "times": "timestamps" if release.has_times else "places in the user's list",
    }
    levels = recipe.levels()
    items: dict[str, Any] = {"item_id": np.arange(release.num_items), **levels}
    behaviour = by_behaviour.make(recipe.training_behaviour, items=release.num_items, max_len=max_len)
    items |= behaviour.columns
    metadata |= behaviour.facts
    for column in columns:
        if column.get("source") != "item" or column["name"] in behaviour.columns:
            continue
        if column["type"] == "embedding":
            dim = column.get("pretrain_dim", 128)
            items[column["name"]], metadata[column["name"]] = recipe.vectors(embedding, dim=dim)
        elif column["type"] == "sequence" and (tags := recipe.tags(most=column.get("max_len", 5))) is not None:
            items[column["name"]] = tags
    on_items = [column["name"] for column in columns if column.get("source") == "item"]
    on_rows = [column["name"] for column in columns if column.get("source") != "item"]
    _check_known(on_items, items, where, release)
    _check_known(on_rows, ("user_id", "timestamp", "item_id", *levels), where, release)

    # FuxiCTR takes seconds to import: only after the files were checked.
    from fuxictr_multimodal.data.store.builder import StoreBuilder

    label = check_label_col(entry["label_col"], where)["name"]
    with StoreBuilder(
        dataset_id=dataset_id,
        data_root=data_root,
        feature_cols=columns,
        label_col=entry["label_col"],
        max_len=max_len,
        group_id=entry.get("group_id", "user_id"),
        item_col="item_id",
        recipe={
            "script": "datasets/microlens_raw.py",
            **vars(choices),
            "embedding": embedding and embedding.name,
        },
        sources={**release.sources, **({embedding.name: embedding} if embedding else {})},
        overwrite=overwrite,
        progress=progress,
    ) as builder:
        builder.fit(_fit_rows(columns, items, recipe))
        columns_of_items = {name: np.asarray(items[name]) for name in on_items}
        builder.write_items(columns_of_items, titles=release.titles, folds=behaviour.folds)
        for code, split in enumerate(SPLITS):
            for given, values, offsets in recipe.rows(code, sampler):
                given |= {name: levels[name][given["item_id"]] for name in levels}
                rows = {name: given[name] for name in (*on_rows, "item_id")} | behaviour.fold_column(given["user_id"])
                builder.append(split, {**rows, label: given["label"]}, values, offsets)
        return builder.finish(
            split_method=recipe.split_method,
            negative_sampling={
                "ratio": choices.ratio,
                "by": choices.negatives,
                "seed": choices.seed,
                "never": "an item of the user at any time, or the same item twice for one positive",
            },
            facts=metadata,
            disjoint=["user_id"] if choices.split == BY_USER else [],
            ordered_by="timestamp" if choices.split == LAST_ITEM and "timestamp" in on_rows else None,
            ordered_within="user_id" if choices.split == LAST_ITEM and "timestamp" in on_rows else None,
        )


def _fit_rows(columns: list[dict[str, Any]], items: dict[str, Any], recipe: Recipe) -> pl.DataFrame | None:
    """Raw item columns of the training positives, for FuxiCTR's vocabularies."""
    fitted = [column["name"] for column in columns if is_fitted(column) and column["name"] != "item_id"]
    targets = recipe.items[recipe.split == TRAIN]
    return pl.DataFrame([items[name].gather(targets).alias(name) for name in fitted]) if fitted else None


def _check_known(names: Collection[str], known: Collection[str], where: str, release: Release) -> None:
    for name in names:
        if name in LEVELS and name not in known:
            raise DataError(
                f"{where} has {name!r}, but {release.size} has no file of likes and views: {release.missing(LIKES)}"
            )
        if name not in known:
            raise ConfigError(
                f"{where}: the files of {release.size} do not provide column {name!r}. {did_you_mean(name, known)}"
            )
