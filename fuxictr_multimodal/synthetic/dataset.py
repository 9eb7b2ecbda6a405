"""Synthetic data as a store, with what the best possible model would reach among its facts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuxictr_multimodal import metrics
from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.metrics import UndefinedMetric
from fuxictr_multimodal.store.manifest import SPLITS
from fuxictr_multimodal.synthetic.rows import CONTEXT_COLUMNS, blocks
from fuxictr_multimodal.synthetic.rule import expected_auc, expected_logloss
from fuxictr_multimodal.synthetic.spec import SyntheticSpec
from fuxictr_multimodal.synthetic.world import LEVELS, World, make_world

if TYPE_CHECKING:
    from fuxictr_multimodal.store.manifest import Manifest

# Raise it whenever the same spec gives other bytes than before.
GENERATOR_VERSION = 1
ITEM_COLUMNS = ("item_id", "item_tags", "item_emb_d128")


def item_columns(world: World) -> dict[str, np.ndarray]:
    """The item table: `ITEM_COLUMNS`, row i is item i."""
    return {
        "item_id": np.arange(len(world.content), dtype=np.int32),
        "item_tags": world.tags,
        "item_emb_d128": world.embedding,
    }


def bayes_facts(judged: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
    """What the true probabilities reach, from (label, probability, user), each (B,), of some splits.

    Rounded to six digits; `expected` is the average over all labels that could have been drawn.
    """
    auc, gauc, logloss = {}, {}, {}
    for split, (label, probability, user) in judged.items():
        # A split of a few rows may hold one class only, or no user with both.
        with contextlib.suppress(UndefinedMetric):
            logloss[split] = metrics.log_loss(label, probability)
            auc[split] = metrics.auc(label, probability)
            gauc[split] = metrics.grouped_auc(label, probability, user)
    every = np.concatenate([probability for _, probability, _ in judged.values()])
    auc["expected"], logloss["expected"] = expected_auc(every), expected_logloss(every)
    facts = {"bayes_auc": auc, "bayes_gauc": gauc, "bayes_logloss": logloss}
    return {fact: {split: round(value, 6) for split, value in values.items()} for fact, values in facts.items()}


def build_synthetic(
    spec: SyntheticSpec,
    *,
    dataset_id: str,
    data_root: str | Path,
    feature_cols: Sequence[Mapping[str, Any]],
    label_col: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Generate a dataset and write its store; memory is one block of rows and the item table.

    The manifest's facts hold `bayes_auc`, `bayes_gauc` and `bayes_logloss`: what the true probabilities reach on valid
    and on test (and in expectation over both). No model can do better but by luck.

    Args:
        spec: what to generate.
        dataset_id: name of the dataset and its folder.
        data_root: folder of the datasets.
        feature_cols: columns of the dataset YAML: any of `CONTEXT_COLUMNS` and `ITEM_COLUMNS`. Vocabulary sizes that
            are not given are filled in.
        label_col: the toolkit's label column.
        overwrite: replace a dataset that is there.
        progress: show progress on stderr.

    Raises:
        ConfigError: a column that is not generated, or not there where it is said to be.
    """
    # The builder imports polars and the toolkit: seconds that a caller of the pure functions need not spend.
    from fuxictr_multimodal.store.builder import StoreBuilder
    from fuxictr_multimodal.store.feature_cols import check_feature_cols, check_label_col

    where = f"dataset {dataset_id!r}"
    columns = _complete_columns(check_feature_cols(feature_cols, where), spec, where)
    label = check_label_col(label_col, where)["name"]
    names = {column["name"] for column in columns}
    with StoreBuilder(
        dataset_id=dataset_id,
        data_root=data_root,
        feature_cols=columns,
        label_col=label_col,
        max_len=spec.max_len,
        group_id="user_id" if "user_id" in names else None,
        recipe={"generator": "synthetic", "generator_version": GENERATOR_VERSION, **asdict(spec)},
        overwrite=overwrite,
        progress=progress,
    ) as builder:
        world = make_world(spec)
        builder.write_items({name: values for name, values in item_columns(world).items() if name in names})
        judged: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"valid": [], "test": []}
        for split in SPLITS:
            for block in blocks(spec, world, split):
                data = {name: values for name, values in block.columns.items() if name in names}
                data[label] = block.label
                builder.append(split, data, block.history_values, block.history_offsets)
                if split in judged:
                    judged[split].append((block.label, block.probability, block.columns["user_id"]))
        return builder.finish(
            split_method="drawn apart: a user's rows are all in one split",
            facts=bayes_facts(
                {split: tuple(map(np.concatenate, zip(*parts, strict=True))) for split, parts in judged.items()}
            ),
            disjoint=["user_id"] if "user_id" in names else [],
        )


def _complete_columns(columns: list[dict[str, Any]], spec: SyntheticSpec, where: str) -> list[dict[str, Any]]:
    """Refuse active columns that are not generated; fill in vocabulary sizes."""
    sizes = {"likes_level": LEVELS + 1, "views_level": LEVELS + 1, "item_tags": spec.num_tags + 1}
    complete = []
    for column in columns:
        name = column["name"]
        if column["active"]:
            known = ITEM_COLUMNS if column.get("source") == "item" else CONTEXT_COLUMNS
            if name not in known:
                raise ConfigError(f"{where}: column {name!r} is not generated. {did_you_mean(name, known)}")
            if name in sizes and column["type"] != "meta":
                column = {"vocab_size": sizes[name], **column}
        complete.append(column)
    return complete


def build_from_config(
    dataset_id: str,
    *,
    config_dir: str | Path,
    data_root: str | Path | None = None,
    overrides: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Build the dataset of an entry of `config_dir`, with fields of its `synthetic:` block replaced by `overrides`.

    Raises:
        ConfigError: the entry is missing, has no `synthetic:` block, or is wrong.
        StoreExistsError: the dataset is there and `overwrite` is not given.
    """
    from fuxictr_multimodal.config import load_dataset_config

    entry = load_dataset_config(config_dir, dataset_id)
    where = f"dataset {dataset_id!r} in {config_dir}: synthetic"
    if not entry.get("synthetic"):
        raise ConfigError(f"{where}: the entry has no such block; see Synthetic_demo for one")
    return build_synthetic(
        SyntheticSpec.from_dict({**entry["synthetic"], **(overrides or {})}, where=where),
        dataset_id=dataset_id,
        data_root=data_root or entry["data_root"],
        feature_cols=entry["feature_cols"],
        label_col=entry["label_col"],
        overwrite=overwrite,
    )
