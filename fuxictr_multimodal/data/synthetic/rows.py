"""The rows of synthetic data: users with histories, targets, levels and labels, in independent blocks.

Shape legend: B rows, N history items of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fuxictr_multimodal.data.jagged import offsets_from_lengths, row_numbers, slices
from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.data.synthetic.rule import click_probability
from fuxictr_multimodal.data.synthetic.sizes import DerivedSizes
from fuxictr_multimodal.data.synthetic.world import LEVELS, World, generator

CONTEXT_COLUMNS = ("user_id", "likes_level", "views_level")
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


def _items_at(world: World, mass: np.ndarray) -> np.ndarray:
    """The items at points of the popularity mass: uniform points of a stretch give its items by popularity."""
    position = np.searchsorted(world.mass, mass, side="right") - 1
    return world.by_cluster[np.minimum(position, len(world.by_cluster) - 1)]


def _make_block(spec: DerivedSizes, world: World, split: str, index: int) -> Block:
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
        return _items_at(world, low + rng.random(len(user)) * (high - low))

    history = draw(row_numbers(lengths), 1.0 - HISTORY_NOISE)
    user = np.repeat(np.arange(users), spec.rows_per_user)
    target = draw(user, TARGET_ON_INTEREST)
    noise = np.rint(LEVEL_NOISE * rng.standard_normal((len(user), 2))).astype(np.int64)
    base = world.base_levels[target]
    levels = np.where(base > 0, np.clip(base + noise, 1, LEVELS), 0)
    uniform = rng.random(len(user))

    keep = min(len(user), spec.rows_of(split) - index * users * spec.rows_per_user)
    user, target, levels, uniform = user[:keep], target[:keep], levels[:keep], uniform[:keep]
    where, offsets = slices(offsets_from_lengths(lengths)[user], lengths[user])
    values = history[where]
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


def blocks(spec: DerivedSizes, world: World, split: str) -> Iterator[Block]:
    """The rows of a split, `USERS_PER_BLOCK` users at a time."""
    size = USERS_PER_BLOCK * spec.rows_per_user
    for index in range(-(-spec.rows_of(split) // size)):
        yield _make_block(spec, world, split, index)
