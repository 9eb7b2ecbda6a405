"""Synthetic multimodal CTR data whose click probability is known: rows in independent blocks, and their store.

Shape legend: B rows, N history items of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fuxictr_multimodal.errors import ConfigError, did_you_mean
from fuxictr_multimodal.synthetic_rule import auc_of_weights, click_probability, logloss_of_weights
from fuxictr_multimodal.synthetic_spec import SPLITS, SyntheticSpec
from fuxictr_multimodal.synthetic_world import LEVELS, World, generator, make_world

if TYPE_CHECKING:
    from fuxictr_multimodal.store.manifest import Manifest

# Raise it whenever the same spec gives other bytes than before.
GENERATOR_VERSION = 1
CONTEXT_COLUMNS = ("user_id", "likes_level", "views_level")
ITEM_COLUMNS = ("item_id", "item_tags", "item_emb_d128")
USERS_PER_BLOCK = 16_384
HISTORY_SPREAD = 0.85
HISTORY_NOISE = 0.3
ITEMS_PER_INTEREST = 3.0
TARGET_ON_INTEREST = 0.5
LEVEL_NOISE = 2.5


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a split.

    Attributes:
        columns: `CONTEXT_COLUMNS` and the target's `item_id`, each (B,).
        label: (B,) uint8.
        history_values, history_offsets: jagged histories, (N,) and (B + 1,); newest last.
        probability: (B,) float64, the true click probability.
    """

    columns: dict[str, np.ndarray]
    label: np.ndarray
    history_values: np.ndarray
    history_offsets: np.ndarray
    probability: np.ndarray


def _draw(world: World, low: np.ndarray | float, high: np.ndarray | float, uniform: np.ndarray) -> np.ndarray:
    """Items drawn by popularity from the stretch [low, high) of the popularity mass."""
    position = np.searchsorted(world.mass, low + uniform * (high - low), side="right") - 1
    return world.by_cluster[np.minimum(position, len(world.by_cluster) - 1)]


def _make_block(spec: SyntheticSpec, world: World, split: str, index: int) -> Block:
    """Block `index` of a split: always drawn whole, so a shorter split is a prefix of a longer one."""
    rng = generator(spec, SPLITS.index(split), index)
    users = USERS_PER_BLOCK
    mu = np.log(spec.mean_history) - HISTORY_SPREAD**2 / 2
    lengths = np.rint(np.exp(mu + HISTORY_SPREAD * rng.standard_normal(users))).astype(np.int64)
    lengths = np.minimum(lengths, spec.max_len)

    # A longer history spans more interests, so that a target meets few items of its own at any length.
    breadth = 1 + np.floor(lengths / ITEMS_PER_INTEREST + rng.random(users)).astype(np.int64)
    interests = np.searchsorted(world.cluster_mass, rng.random((users, int(breadth.max()))), side="right") - 1

    def draw(user: np.ndarray, on_interest: float) -> np.ndarray:
        pick = interests[user, (rng.random(len(user)) * breadth[user]).astype(np.int64)]
        own = rng.random(len(user)) < on_interest
        low = np.where(own, world.cluster_mass[pick], 0.0)
        high = np.where(own, world.cluster_mass[pick + 1], 1.0)
        return _draw(world, low, high, rng.random(len(user)))

    history = draw(np.repeat(np.arange(users), lengths), 1.0 - HISTORY_NOISE)
    user = np.repeat(np.arange(users), spec.rows_per_user)
    target = draw(user, TARGET_ON_INTEREST)
    noise = np.rint(LEVEL_NOISE * rng.standard_normal((len(user), 2))).astype(np.int64)
    base = world.base_levels[target]
    levels = np.where(base > 0, np.clip(base + noise, 1, LEVELS), 0)
    uniform = rng.random(len(user))

    keep = min(len(user), spec.rows_of(split) - index * users * spec.rows_per_user)
    user, target, levels, uniform = user[:keep], target[:keep], levels[:keep], uniform[:keep]
    starts = np.concatenate([[0], np.cumsum(lengths)])[user]
    offsets = np.concatenate([[0], np.cumsum(lengths[user])])
    values = history[np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths[user])]
    probability = click_probability(world, target, levels[:, 0], levels[:, 1], values, offsets)
    return Block(
        columns={
            "user_id": (spec.first_user(split) + index * users + user).astype(np.int64),
            "item_id": target,
            "likes_level": levels[:, 0].astype(np.int32),
            "views_level": levels[:, 1].astype(np.int32),
        },
        label=(uniform < probability).astype(np.uint8),
        history_values=values,
        history_offsets=offsets,
        probability=probability,
    )


def blocks(spec: SyntheticSpec, world: World, split: str) -> Iterator[Block]:
    """The rows of a split, `USERS_PER_BLOCK` users at a time."""
    size = USERS_PER_BLOCK * spec.rows_per_user
    for index in range(-(-spec.rows_of(split) // size)):
        yield _make_block(spec, world, split, index)


def item_columns(world: World) -> dict[str, np.ndarray]:
    """The item table: `ITEM_COLUMNS`, row i is item i."""
    return {
        "item_id": np.arange(len(world.content), dtype=np.int32),
        "item_tags": world.tags,
        "item_emb_d128": world.embedding,
    }


def bayes_facts(scores: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
    """What the true probabilities reach, from (probability, label) of each split; rounded to six digits."""
    auc, logloss = {}, {}
    for split, (probability, label) in scores.items():
        auc[split] = auc_of_weights(probability, label.astype(np.float64))
        logloss[split] = logloss_of_weights(probability, label.astype(np.float64))
    every = np.concatenate([probability for probability, _ in scores.values()])
    auc["expected"], logloss["expected"] = auc_of_weights(every, every), logloss_of_weights(every, every)
    return {
        "bayes_auc": {name: round(value, 6) for name, value in auc.items()},
        "bayes_logloss": {name: round(value, 6) for name, value in logloss.items()},
    }


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

    The manifest's facts hold `bayes_auc` and `bayes_logloss`: what the true probabilities reach on valid, on test, and
    in expectation over both. No model can do better but by luck.

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
        scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"valid": [], "test": []}
        for split in SPLITS:
            for block in blocks(spec, world, split):
                data = {name: values for name, values in block.columns.items() if name in names}
                data[label] = block.label
                builder.append(split, data, block.history_values, block.history_offsets)
                if split in scores:
                    scores[split].append((block.probability, block.label))
        return builder.finish(
            split_method="drawn apart: a user's rows are all in one split",
            facts=bayes_facts(
                {split: tuple(map(np.concatenate, zip(*pairs, strict=True))) for split, pairs in scores.items()}
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
