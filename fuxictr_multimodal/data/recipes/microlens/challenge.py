"""The challenge data MicroLens_1M_MMCTR: its files checked and built into a dataset.

Symbols: N items with the padding row 0, T history slots. Memory: the item table and one batch of 65,536 rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.recipes.behaviour_columns import BehaviourColumns
from fuxictr_multimodal.data.recipes.microlens.files import (
    EMBEDDINGS,
    HISTORY,
    ITEM_FEATURE,
    ITEM_INFO,
    LABEL,
    LEVELS,
    MAX_LEN,
    ROW_ID,
    ROWS,
    TAGS,
    TARGET,
    locate,
)
from fuxictr_multimodal.data.recipes.microlens.items import LEVEL_SIZE, item_table
from fuxictr_multimodal.data.recipes.parquet_input import (
    Arrays,
    ParquetInput,
    Scalars,
    jagged_from_left_padded,
    parquet_files,
    parquet_rows,
)
from fuxictr_multimodal.data.recipes.user_events import LongestHistories, UserEvents
from fuxictr_multimodal.data.store import validation
from fuxictr_multimodal.data.store.feature_cols import check_feature_cols
from fuxictr_multimodal.data.store.manifest import SPLITS, Manifest
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

ROW_COLUMNS = (ROW_ID, "user_id", "likes_level", "views_level", TARGET)


def files_of(dataset_id: str, *, config_dir: Path, embeddings: Sequence[str] = ()) -> list[str]:
    """Names of the files from which a dataset is built.

    Raises:
        ConfigError: the entry is missing or has a column that the files do not hold.
    """
    return _plan(dataset_id, config_dir, embeddings).files


def build(
    *,
    raw: Path,
    dataset_id: str,
    config_dir: Path,
    data_root: Path,
    embeddings: Sequence[str] = (),
    any_size: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Build the dataset of the challenge files and return its manifest.

    The dataset's entry lists the columns. Quantile bins with `source: item` come from `item_feature.parquet` and
    describe every history item; those without are the sample's own.

    Args:
        raw: folder of the files.
        dataset_id: entry of the dataset config.
        config_dir: folder of the configs.
        data_root: folder of the datasets.
        embeddings: further item embeddings, keys of `files.EMBEDDINGS`; the entry must list their columns.
        any_size: accept files with other row counts than the release's, such as synthetic ones.
        overwrite: replace an existing dataset.
        progress: show progress on stderr.

    Raises:
        ConfigError: the entry is missing or has a column that the files do not hold.
        DataError: a file is missing or wrong; the message names file, column and row.
    """
    plan = _plan(dataset_id, config_dir, embeddings)
    entry, on_items, on_rows = plan.entry, plan.on_items, plan.on_rows
    files = locate(raw, plan.files)
    if not any_size:
        _check_counts(files)
    # Every file is opened and checked before the first row is converted.
    tables = {split: _open(files[f"{split}.parquet"], split) for split in SPLITS}
    max_len = entry.get("max_len", MAX_LEN)
    items = item_table(files, {name: column for name, column in on_items.items() if name not in plan.by_behaviour})
    # Files of another size bring another number of items; the published sizes stay where they fit.
    if any_size:
        on_items[TARGET]["vocab_size"] = len(items[TARGET])
    counts = _ReleaseCounts(items)
    num_items = len(items[TARGET])
    behaviour = plan.by_behaviour.make(
        lambda: _training_behaviour(tables, num_items=num_items, max_len=max_len), items=num_items, max_len=max_len
    )
    items |= behaviour.columns

    # FuxiCTR takes seconds to import: only after the files were found.
    from fuxictr_multimodal.data.store.builder import StoreBuilder

    with StoreBuilder(
        dataset_id=dataset_id,
        data_root=data_root,
        feature_cols=plan.columns,
        label_col=entry["label_col"],
        max_len=max_len,
        group_id=entry.get("group_id", "user_id"),
        item_col=TARGET,
        recipe={"script": "datasets/microlens_1m.py", "embeddings": sorted(embeddings), "any_size": any_size},
        sources=_parts(files),
        overwrite=overwrite,
        progress=progress,
    ) as builder:
        builder.write_items({name: items[name] for name in on_items}, folds=behaviour.folds)
        for split in SPLITS:
            for rows in _rows(tables[split], split=split, num_items=len(items[TARGET]), max_len=max_len):
                counts.add(split, rows)
                given = {name: rows.columns[name] for name in on_rows}
                if split != "test":
                    given[LABEL] = rows.columns[LABEL]
                given |= behaviour.fold_column(rows.columns["user_id"])
                builder.append(split, given | {TARGET: rows.columns[TARGET]}, *rows.history)
        return builder.finish(
            split_method="as released",
            negative_sampling={"by": "the release"},
            facts=counts.as_dict() | behaviour.facts,
        )


def _training_behaviour(tables: Mapping[str, ParquetInput], *, num_items: int, max_len: int) -> UserEvents:
    """What item vectors may count: the histories of training users."""
    longest = LongestHistories()
    for split, table in tables.items():
        for rows in _rows(table, split=split, num_items=num_items, max_len=max_len):
            users, targets = pl.Series(rows.columns["user_id"]), rows.columns[TARGET]
            if split == "train":
                longest.add(users, *rows.history, targets)
            else:
                longest.add_held_out(users, targets)
    return longest.events()


@dataclass(frozen=True)
class _Plan:
    """What a dataset's entry asks for: columns on items by name, columns on rows, and the files that hold them.

    `by_behaviour` are the item columns that no file holds.
    """

    entry: Mapping[str, Any]
    columns: list[dict[str, Any]]
    on_items: dict[str, dict[str, Any]]
    on_rows: list[str]
    files: list[str]
    by_behaviour: BehaviourColumns


def _plan(dataset_id: str, config_dir: Path, embeddings: Sequence[str]) -> _Plan:
    entry = load_dataset_config(config_dir, dataset_id)
    where = f"dataset {dataset_id!r} in {config_dir}"
    columns = _wanted_columns(entry["feature_cols"], embeddings, where)
    by_behaviour = BehaviourColumns.of(columns, where)
    on_items = {column["name"]: column for column in columns if column.get("source") == "item"}
    on_rows = [column["name"] for column in columns if column.get("source") != "item"]
    _check_known(on_rows, ROW_COLUMNS, where, "rows")
    of_files = (TARGET, *TAGS, *LEVELS, *(e.column for e in EMBEDDINGS.values()))
    _check_known(on_items, (*of_files, *by_behaviour.settings), where, "items")
    files = [*(f"{split}.parquet" for split in SPLITS), ITEM_INFO, *_more_item_files(on_items)]
    return _Plan(entry, columns, on_items, on_rows, files, by_behaviour)


def _wanted_columns(feature_cols: Any, embeddings: Sequence[str], where: str) -> list[dict[str, Any]]:
    """The active columns of an entry, and those of the asked embeddings, which it lists as not active."""
    columns = check_feature_cols(feature_cols, where)
    by_name = {column["name"]: column for column in columns}
    for key in embeddings:
        name = EMBEDDINGS[key].column
        if name not in by_name:
            raise ConfigError(
                f"{where} lists no column {name!r} for --embeddings {key}: add it with `active: False`, or choose "
                "--dataset-id MicroLens_1M_x1_embeddings"
            )
        by_name[name]["active"] = True
    return [column for column in columns if column["active"]]


def _check_known(names: Collection[str], known: Collection[str], where: str, kind: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where}: the challenge files provide no column {name!r} for {kind}. {did_you_mean(name, known)}"
            )


def _more_item_files(on_items: Collection[str]) -> list[str]:
    """Files beside the folder that the wanted item columns need."""
    wanted = [e.file for e in EMBEDDINGS.values() if e.column in on_items]
    wanted += [ITEM_FEATURE for name in LEVELS if name in on_items]
    return sorted({*wanted} - {ITEM_INFO})


def _parts(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files by name; a folder of parts gives each of its parts, named `<file>/<part>`."""
    found: dict[str, Path] = {}
    for name, path in files.items():
        found |= {f"{name}/{part.name}" if part != path else name: part for part in parquet_files(path)}
    return found


def _check_counts(files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        found = parquet_rows(path)
        if found != ROWS[name]:
            raise DataError(
                f"{path} has {found:,} rows, the release has {ROWS[name]:,}: it is incomplete or not of this release "
                "(--any-size accepts files of this form in any size)"
            )


@dataclass(frozen=True)
class _Rows:
    """Some rows of a split: scalar columns (R,), and the jagged history."""

    columns: dict[str, np.ndarray]
    history: tuple[np.ndarray, np.ndarray]


def _open(path: Path, split: str) -> ParquetInput:
    forms: dict[str, Scalars | Arrays] = {
        "user_id": Scalars(int),
        HISTORY: Arrays(int, MAX_LEN),
        TARGET: Scalars(int),
        **dict.fromkeys(LEVELS, Scalars(int)),
    }
    forms |= {ROW_ID: Scalars(int)} if split == "test" else {LABEL: Scalars(int)}
    table = ParquetInput(path, forms)
    if split == "test" and LABEL in table.names:
        raise DataError(
            f"{path}: column {LABEL!r} is in the test file, which has none in the release: this file is not the test "
            "split, or its labels were joined; remove the column"
        )
    return table


def _rows(table: ParquetInput, *, split: str, num_items: int, max_len: int) -> Iterator[_Rows]:
    """Checked rows of a split, in the file's order. Where the file has no `ID`, it is the row's number."""
    where = str(table.path)
    all_ids: list[np.ndarray] = []
    for start, columns in table.batches():
        at: dict[str, Any] = {"where": where, "first_row": start}
        history = columns.pop(HISTORY)
        if max_len < MAX_LEN:
            history = history[:, -max_len:]
        values, offsets = jagged_from_left_padded(history, where=where, name=HISTORY, first_row=start)
        checked = validation.as_history(
            values,
            offsets,
            rows=len(history),
            items=num_items,
            max_len=max_len,
            where=f"{where}: column {HISTORY!r}",
            first_row=start,
        )
        remedy = f"the item table has items 1 to {num_items - 1}"
        columns[TARGET] = validation.as_ids(
            columns[TARGET], name=TARGET, shape=(), low=1, high=num_items, remedy=remedy, **at
        )
        for name in LEVELS:
            columns[name] = validation.as_ids(
                columns[name], name=name, shape=(), low=0, high=LEVEL_SIZE, remedy="levels are 0 to 10", **at
            )
        if split == "test":
            all_ids.append(columns[ROW_ID])
        else:
            columns[LABEL] = validation.as_labels(columns[LABEL], name=LABEL, **at)
            columns[ROW_ID] = np.arange(start, start + len(history))
        yield _Rows(columns, checked)
    if all_ids:
        _refuse_repeated(where, np.concatenate(all_ids))


def _refuse_repeated(where: str, ids: np.ndarray) -> None:
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(same):
        before, row = order[same[0]], order[same[0] + 1]
        raise DataError(f"{where}: row {row}, column {ROW_ID!r}: {ids[row]} is already in row {before}")


@dataclass
class _ReleaseCounts:
    """Counts for the manifest that are not errors: users in two splits, quantile bins that differ from the item's."""

    items: Mapping[str, np.ndarray]
    users: dict[str, list[np.ndarray]] = field(default_factory=dict)
    other_level: dict[str, int] = field(default_factory=dict)

    def add(self, split: str, rows: _Rows) -> None:
        self.users.setdefault(split, []).append(np.unique(rows.columns["user_id"]))
        for name in LEVELS:
            if name in self.items:
                differs = rows.columns[name] != self.items[name][rows.columns[TARGET]]
                self.other_level[name] = self.other_level.get(name, 0) + int(differs.sum())

    def as_dict(self) -> dict[str, Any]:
        users = {split: np.unique(np.concatenate(parts)) for split, parts in self.users.items()}
        shared = {
            f"users_of_{split}_in_train": int(np.isin(users[split], users["train"], assume_unique=True).sum())
            for split in SPLITS[1:]
        }
        differs = {f"rows_whose_{name}_is_not_the_items": count for name, count in self.other_level.items()}
        return {**shared, **differs}
