"""Build the dataset of a MovieLens download, by its entry in the dataset config and the options of its script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourColumns
from fuxictr_multimodal.data.recipes.interactions import SPLITS
from fuxictr_multimodal.data.recipes.movielens_raw import LATEST, ONE_M, TAIL, read_raw
from fuxictr_multimodal.data.recipes.movielens_recipe import LIKED, Recipe
from fuxictr_multimodal.data.recipes.movielens_times import EventTimes
from fuxictr_multimodal.errors import ConfigError, did_you_mean

DATASET_IDS = {ONE_M: "MovieLens_1M", LATEST: "MovieLens_small", TAIL: "MovieLens"}
LEVELS_SUFFIX = "_levels"
TIMES_SUFFIX = "_times"
CHUNK_ROWS = 500_000


def build(
    *,
    raw_path: Path,
    dataset_id: str | None,
    config_dir: Path,
    data_root: Path,
    embedding: Path | None = None,
    history: str = "liked",
    user_levels: str = "train",
    levels_on_items: bool = False,
    event_times: bool = False,
    until: float = 1.0,
    overwrite: bool = False,
    progress: bool = True,
) -> Any:
    """Build the dataset of a MovieLens download and return its manifest.

    Args:
        raw_path: the folder or zip file of the download.
        dataset_id: entry of the dataset config; chosen by the download's layout if None.
        config_dir: folder of the configs.
        data_root: folder of the datasets.
        embedding: table of item vectors by movie id, in place of text vectors.
        history: `liked` or `all`: which earlier items are in the history.
        user_levels: `train` or `earlier`: which ratings the quantile bins of a user count.
        levels_on_items: put a film's quantile bins on history items too.
        event_times: put the age, weekday and hour of each rating on the films of histories.
        until: keep this fraction of all ratings, the earliest, and split these.
        overwrite: replace an existing dataset.
        progress: show progress on stderr.

    Raises:
        DataError: the download or the table of vectors is wrong.
        ConfigError: the dataset's entry is missing, or has a column that this download does not provide.
    """
    from fuxictr_multimodal.config.expids import load_dataset_config
    from fuxictr_multimodal.data.store.builder import StoreBuilder
    from fuxictr_multimodal.data.store.feature_cols import check_feature_cols, check_label_col, is_fitted

    raw = read_raw(raw_path)
    if until != 1:
        raw = raw.until(until)
    suffix = (LEVELS_SUFFIX if levels_on_items else "") + (TIMES_SUFFIX if event_times else "")
    dataset_id = dataset_id or DATASET_IDS[raw.layout] + suffix
    entry = load_dataset_config(config_dir, dataset_id)
    where = f"dataset {dataset_id!r} in {config_dir}"
    columns = [column for column in check_feature_cols(entry["feature_cols"], where) if column["active"]]
    by_behaviour = BehaviourColumns.of(columns, where)
    max_len = entry.get("max_len", 64)
    recipe = Recipe(raw, history=history, user_levels=user_levels, max_len=max_len)
    row_columns, item_columns = recipe.row_columns(), recipe.item_columns()
    metadata = {"layout": raw.layout, "liked_from": LIKED, **recipe.baselines()}
    times = EventTimes(recipe, history=history, max_len=max_len) if event_times else None
    if times is not None:
        row_columns |= times.of_targets()
        metadata |= times.facts()

    behaviour = by_behaviour.make(recipe.training_behaviour, items=recipe.num_items, max_len=max_len)
    metadata |= behaviour.facts
    vectors: dict[str, np.ndarray] = dict(behaviour.columns)
    for column in columns:
        if column["type"] == "embedding" and column.get("source") == "item" and column["name"] not in vectors:
            dim = column.get("pretrain_dim", 128)
            vectors[column["name"]], metadata[column["name"]] = recipe.item_vectors(embedding, dim=dim)
    on_items = [column["name"] for column in columns if column.get("source") == "item"]
    on_rows = [column["name"] for column in columns if column.get("source") != "item"]
    _check_known(on_items, [*item_columns, *vectors], where, raw.layout)
    _check_known(on_rows, row_columns, where, raw.layout)
    if levels_on_items and "likes_level" not in on_items:
        raise ConfigError(f"{where} has no likes_level with `source: item`, which --levels-on-items needs")
    events = [column["name"] for column in columns if column.get("source") == "event"]
    if times is not None and not events:
        raise ConfigError(f"{where} has no column with `source: event`, which --event-times needs")

    rows_in_time = np.lexsort((recipe.user_codes, recipe.times))
    train = rows_in_time[recipe.is_train[rows_in_time]]
    fitted = [column["name"] for column in columns if is_fitted(column)]
    train_rows = pl.DataFrame(
        [
            (
                item_columns[name].gather(recipe.items[train]) if name in on_items else row_columns[name].gather(train)
            ).alias(name)
            for name in fitted
        ]
    )
    with StoreBuilder(
        dataset_id=dataset_id,
        data_root=data_root,
        feature_cols=columns,
        label_col=entry["label_col"],
        max_len=max_len,
        group_id=entry.get("group_id", "user_id"),
        item_col=entry.get("item_col", "item_id"),
        recipe={
            "script": "datasets/movielens.py",
            "history": history,
            "user_levels": user_levels,
            "embedding": embedding and embedding.name,
            **({"event_times": True} if event_times else {}),
            **({} if until == 1 else {"until": until}),  # absent for a whole log, as in earlier versions
        },
        sources={**raw.sources, **({embedding.name: embedding} if embedding else {})},
        overwrite=overwrite,
        progress=progress,
    ) as builder:
        builder.fit(train_rows)
        builder.write_items(
            {name: vectors[name] if name in vectors else item_columns[name].to_numpy() for name in on_items},
            titles=["", *raw.movies["title"].to_list()],
            folds=behaviour.folds,
        )
        label = check_label_col(entry["label_col"], where)["name"]
        for code, split in enumerate(SPLITS):
            rows = rows_in_time[recipe.split[rows_in_time] == code]
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = rows[start : start + CHUNK_ROWS]
                values = {name: row_columns[name].gather(chunk).to_numpy() for name in on_rows}
                values |= {label: recipe.labels[chunk], "item_id": recipe.items[chunk]}
                values |= behaviour.fold_column(recipe.users[chunk])
                earlier = recipe.histories.take(chunk)
                of_events = {} if times is None else times.of_histories(chunk)
                builder.append(
                    split,
                    values,
                    earlier.items,
                    earlier.offsets,
                    events={name: values for name, values in of_events.items() if name in events},
                )
        manifest = builder.finish(
            split_method=recipe.split_method,
            facts=metadata,
            ordered_by="timestamp",
            ordered_within="user_id" if raw.layout == TAIL else None,
        )
    for name, value in metadata.items():
        print(f"{name}: {value}")
    return manifest


def _check_known(names: Sequence[str], known: Sequence[str] | Mapping[str, Any], where: str, layout: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: layout {layout} does not provide column {name!r}. {did_you_mean(name, known)}")
