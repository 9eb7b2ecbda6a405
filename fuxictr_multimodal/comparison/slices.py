"""Partitions of a split's samples, to see where a model is good: history length, item frequency, unseen items, tags.

Everything is counted on training samples alone. A partition is independent of any model: a bin number for each sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.comparison.statistics import Spread
from fuxictr_multimodal.data.store import SplitReader, Store, read_item_table
from fuxictr_multimodal.metrics.classification import UndefinedMetric, auc

LEAST_OF_A_CLASS = 20  # an AUC of fewer positives or negatives is meaningless


@dataclass(frozen=True)
class Partition:
    """`bins` (N,) gives each sample the index of its label in `labels`."""

    name: str
    title: str
    labels: tuple[str, ...]
    bins: NDArray[np.int64]


@dataclass(frozen=True)
class ItemCounts:
    """How often each item, by id, occurs in training samples: as the target, and in a history."""

    as_target: NDArray[np.int64]
    in_history: NDArray[np.int64]

    @classmethod
    def of(cls, train: SplitReader, *, items: int, item_col: str) -> ItemCounts:
        """Count in blocks, in memory that does not grow with the split."""
        as_target, in_history = np.zeros(items, np.int64), np.zeros(items, np.int64)
        for start, stop in train.blocks:
            as_target += np.bincount(train.read(item_col, start, stop), minlength=items)
            in_history += np.bincount(train.read_history(start, stop)[0], minlength=items)
        return cls(as_target, in_history)


def partitions(store: Store, split: str) -> list[Partition]:
    """The partitions of a split that its dataset allows; empty bins are dropped."""
    manifest = store.manifest
    if manifest.item_col is None:  # without items and histories there is nothing to slice by
        return []
    with store.reader(split) as rows:
        target = rows.read(manifest.item_col, 0, rows.rows)
        lengths = np.concatenate([np.diff(rows.read_history(start, stop)[1]) for start, stop in rows.blocks])
    found = [by_edges("history", "History length, items", lengths, doubling(int(lengths.max(initial=0))))]
    if store.split_path("train") is not None:
        with store.reader("train") as train:
            counts = ItemCounts.of(train, items=manifest.items, item_col=manifest.item_col)
        frequency = counts.as_target[target]
        found.append(by_edges("frequency", "Times the item is a training target", frequency, (0, 1, 10, 100, 1000)))
        known = np.where(frequency > 0, 2, np.where(counts.in_history[target] > 0, 1, 0))
        labels = ("never", "in histories", "as target")
        found.append(Partition("cold", "Item seen in training", labels, known.astype(np.int64)))
    tags = next((c["name"] for c in manifest.feature_cols if _is_item_sequence(c)), None)
    if tags is not None:
        per_item = (store.read(read_item_table)[tags] != 0).sum(axis=1)
        found.append(by_edges("tags", f"Tags of the item ({tags})", per_item[target], tuple(range(per_item.max() + 1))))
    return [dense for partition in found if len((dense := _without_empty(partition)).labels) > 1]


def by_edges(name: str, title: str, values: NDArray, edges: Sequence[int]) -> Partition:
    """Whole numbers into bins that start at `edges`, the last one open.

    >>> p = by_edges("history", "", np.array([0, 3, 9]), (0, 1, 4))
    >>> p.labels, p.bins.tolist()
    (('0', '1-3', '4+'), [0, 1, 2])
    """
    labels = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)]
    last = str(edges[-1]) if values.max(initial=0) <= edges[-1] else f"{edges[-1]}+"
    return Partition(name, title, (*labels, last), np.searchsorted(edges, values, side="right") - 1)


def doubling(most: int) -> tuple[int, ...]:
    """0, then powers of two up to `most`.

    >>> doubling(10)
    (0, 1, 2, 4, 8)
    """
    edges = [0]
    while (edges[-1] * 2 or 1) <= most:
        edges.append(edges[-1] * 2 or 1)
    return tuple(edges)


def counts(partition: Partition, labels: NDArray) -> tuple[tuple[str, int, int], ...]:
    """Label, samples and positives of each bin."""
    rows = np.bincount(partition.bins, minlength=len(partition.labels))
    positives = np.bincount(partition.bins, weights=labels > 0.5, minlength=len(partition.labels))
    return tuple((label, int(r), int(p)) for label, r, p in zip(partition.labels, rows, positives, strict=True))


def sliced_aucs(
    partition: Partition, labels: NDArray, runs: Sequence[NDArray[np.float32]]
) -> tuple[Spread | None, ...]:
    """AUC within each bin over the runs of one experiment; None where a bin has too few samples of a class."""
    found: list[Spread | None] = []
    for index, (_, rows, positives) in enumerate(counts(partition, labels)):
        if min(positives, rows - positives) < LEAST_OF_A_CLASS:
            found.append(None)
            continue
        chosen = partition.bins == index
        try:
            found.append(Spread(tuple(auc(labels[chosen], scores[chosen]) for scores in runs)))
        except UndefinedMetric:
            found.append(None)
    return tuple(found)


def _is_item_sequence(column: dict) -> bool:
    return column.get("type") == "sequence" and column.get("source") == "item"


def _without_empty(partition: Partition) -> Partition:
    used, bins = np.unique(partition.bins, return_inverse=True)
    return Partition(partition.name, partition.title, tuple(partition.labels[i] for i in used), bins.astype(np.int64))
