"""The items of synthetic data: clustered content, popularity, levels, tags and a noisy multimodal embedding.

Shape legend: I items (row 0 is padding), C latent content width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.data.synthetic.sizes import DerivedSizes

LEVELS = 10
TAG_SLOTS = 5
EMBEDDING_WIDTH = 128
CONTENT_WIDTH = 16
CLUSTER_SPREAD = 0.4
POPULARITY_EXPONENT = 0.8
POPULARITY_SHIFT = 10.0
LEVEL_SPREAD = 0.5
LEVEL_MISSING = 0.01
OWN_TAG_SHARE = 0.85
FILLED_TAG_SHARE = 0.7
EMBEDDING_LENGTH = 0.1 * EMBEDDING_WIDTH**0.5
EMBEDDING_NOISE = 0.3
ITEMS_PER_SLICE = 8192


@dataclass(frozen=True)
class World:
    """The items of a spec and what is known about them.

    Attributes:
        cluster: (I,) the content cluster of each item; -1 for padding.
        content: (I, C) float32, unit vectors rounded to 1/1024, so that their inner products are exact.
        by_cluster: (I - 1,) ids of the items, cluster after cluster.
        mass: (I,) float64, cumulative popularity in the order of `by_cluster`, from 0 to 1.
        cluster_mass: (clusters + 1,) values of `mass` at the clusters' edges.
        base_levels: (I, 2) int, likes and views level around which rows are drawn; 0 is none.
        tags: (I, TAG_SLOTS) int32, left-padded with 0.
        embedding: (I, EMBEDDING_WIDTH) float32.
    """

    cluster: np.ndarray
    content: np.ndarray
    by_cluster: np.ndarray
    mass: np.ndarray
    cluster_mass: np.ndarray
    base_levels: np.ndarray
    tags: np.ndarray
    embedding: np.ndarray

    @property
    def popularity(self) -> np.ndarray:
        """Probability of each item when drawn by popularity, (I,); 0 for padding."""
        share = np.zeros(len(self.content))
        share[self.by_cluster] = np.diff(self.mass)
        return share


def generator(spec: DerivedSizes, *key: int) -> np.random.Generator:
    """The random numbers of one part of the data; a part's numbers depend on no other part."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(spec.seed, spawn_key=key)))


def make_world(spec: DerivedSizes) -> World:
    """Draw items: clustered content, power-law popularity, levels, tags, noisy multimodal embedding."""
    rng = generator(spec, len(SPLITS))
    count, clusters = spec.items, spec.num_interests
    centre = rng.standard_normal((clusters, CONTENT_WIDTH))
    centre /= np.sqrt((centre**2).sum(1, keepdims=True))
    # Every cluster has an item; the rest fall at random.
    cluster = np.concatenate([np.arange(clusters), rng.integers(clusters, size=count - clusters)])
    rng.shuffle(cluster)
    content = centre[cluster] + rng.standard_normal((count, CONTENT_WIDTH)) * (CLUSTER_SPREAD / CONTENT_WIDTH**0.5)
    content /= np.sqrt((content**2).sum(1, keepdims=True))
    content = np.round(content * 1024) / 1024
    popularity = (rng.permutation(count) + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT
    popularity /= popularity.sum()

    order = np.argsort(cluster, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(popularity[order])])
    mass /= mass[-1]
    cluster_mass = mass[np.searchsorted(cluster[order], np.arange(clusters + 1))]

    base_levels = np.zeros((count + 1, 2), dtype=np.int64)
    for column in range(2):
        # Quantile bins divide the impressions, not the items, into ten equal parts: all bins occur in samples.
        rank = np.argsort(np.log(popularity) + LEVEL_SPREAD * rng.standard_normal(count), kind="stable")
        share = np.empty(count)
        share[rank] = np.cumsum(popularity[rank]) - popularity[rank] / 2
        base_levels[1:, column] = 1 + np.minimum((share * LEVELS).astype(np.int64), LEVELS - 1)
        base_levels[1:, column][rng.random(count) < LEVEL_MISSING] = 0

    return World(
        cluster=np.concatenate([[-1], cluster]),
        content=np.concatenate([np.zeros((1, CONTENT_WIDTH)), content]).astype(np.float32),
        by_cluster=(order + 1).astype(np.int32),
        mass=mass,
        cluster_mass=cluster_mass,
        base_levels=base_levels,
        tags=_make_tags(spec, rng, cluster),
        embedding=np.concatenate(
            [
                np.zeros((1, EMBEDDING_WIDTH), dtype=np.float32),
                *embedding_slices(rng, content, width=EMBEDDING_WIDTH, noise=EMBEDDING_NOISE),
            ]
        ),
    )


def _make_tags(spec: DerivedSizes, rng: np.random.Generator, cluster: np.ndarray) -> np.ndarray:
    """Tags (I, TAG_SLOTS): most from the cluster's own tags, the frequent ones first; some slots stay empty."""
    shape = (spec.items, TAG_SLOTS)
    per_cluster = max(1, spec.num_tags // spec.num_interests)
    own = cluster[:, None] * per_cluster + np.floor(per_cluster * rng.random(shape) ** 2).astype(np.int64)
    other = np.floor(spec.num_tags * rng.random(shape) ** 2).astype(np.int64)
    tags = 1 + np.where(rng.random(shape) < OWN_TAG_SHARE, own % spec.num_tags, other)
    filled = rng.binomial(TAG_SLOTS, FILLED_TAG_SHARE, size=spec.items)
    tags[np.arange(TAG_SLOTS) < (TAG_SLOTS - filled)[:, None]] = 0
    # A tag is given once; the zeros of empty and repeated slots sort to the left.
    tags.sort(axis=1)
    tags[:, 1:][tags[:, 1:] == tags[:, :-1]] = 0
    tags.sort(axis=1)
    return np.concatenate([np.zeros((1, TAG_SLOTS)), tags]).astype(np.int32)


def embedding_slices(
    rng: np.random.Generator, content: np.ndarray, *, width: int, noise: float
) -> Iterator[np.ndarray]:
    """A linear map of [content, 1] plus noise, as an encoder of title or cover would give.

    Args:
        rng: where the map and the noise come from.
        content: (items, C), without padding.
        width: width of the embedding.
        noise: standard deviation of the noise; that of what the content gives is about 1.

    Yields:
        float32 (`ITEMS_PER_SLICE` items or what is left, width), scaled so that vectors are about as long at any width.
    """
    directions = rng.standard_normal((content.shape[1] + 1, width))
    scale = EMBEDDING_LENGTH / width**0.5
    for start in range(0, len(content), ITEMS_PER_SLICE):
        # Not a matrix product: its sums depend on the linear algebra library of the machine.
        rows = np.einsum("ic,cd->id", content[start : start + ITEMS_PER_SLICE].astype(np.float64), directions[:-1])
        rows += directions[-1] + noise * rng.standard_normal(rows.shape)
        yield np.round(rows * scale, 4).astype(np.float32)
