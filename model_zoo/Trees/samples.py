"""What the trees read: a batch and the item table as numpy arrays.

Shape legend: B samples, N history items of all of them, I items of the table, T tags, d width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.hashing import mixed
from fuxictr_multimodal.data.jagged import row_numbers

if TYPE_CHECKING:
    from fuxictr_multimodal.data.batch import Batch
    from fuxictr_multimodal.data.item_table import ItemTable

Specs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Samples:
    """Samples without their labels.

    Attributes:
        columns: context columns by name, (B,) or (B, T).
        target: item ids, (B,); all 0 in a dataset without items.
        history: ids of history items of all samples, newest last, (N,).
        offsets: where the history of each sample begins and ends, (B + 1,).
        user: of samples of train the group id, (B,), or a hash of the history where there are no groups; None of other
            samples.
        fold: of each sample's user, (B,), where embeddings depend on it; else None.
    """

    columns: Mapping[str, NDArray]
    target: NDArray
    history: NDArray
    offsets: NDArray
    user: NDArray | None
    fold: NDArray | None = None

    @classmethod
    def of(cls, batch: Batch, *, train: bool = False) -> Samples:
        """The samples of a batch on the host, with the first kind of history.

        Args:
            batch: of any split.
            train: whether they are those that statistics are counted of, which must leave them out.
        """
        history = batch.history.values.numpy().astype(np.int64)
        user = None
        if train and batch.group is not None:
            user = batch.group.numpy().astype(np.int64)
        elif train:
            hashed = np.zeros(len(batch), np.uint64)
            np.add.at(hashed, batch.history.row_index().numpy(), mixed(history))
            user = hashed.astype(np.int64)
        return cls(
            columns={name: values.numpy() for name, values in batch.features.items()},
            target=batch.target.numpy().astype(np.int64),
            history=history,
            offsets=batch.history.offsets.numpy(),
            user=user,
            fold=None if batch.fold is None else batch.fold.cpu().numpy().astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.target)

    @property
    def lengths(self) -> NDArray:
        """Items of each history, (B,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray:
        """The sample of each history item, (N,)."""
        return row_numbers(self.lengths)


@dataclass(frozen=True)
class Items:
    """Features of the items.

    Attributes:
        number: I, the padding row included.
        vectors: pretrained embeddings by name, (I, d): less the mean of all items that have one, of length 1. Those
            that depend on the fold of a sample's user are (K I + I, d): without a fold, then of each fold.
        codes: categorical features by name but for the item's own id, (I, T); 0 is no value.
    """

    number: int
    vectors: Mapping[str, NDArray]
    codes: Mapping[str, NDArray]

    @classmethod
    def of(cls, table: ItemTable, specs: Specs) -> Items:
        """The features of an item table, by the specs of the feature map."""
        vectors, codes = {}, {}
        for name, feature in table.features.items():
            values = feature.cpu().numpy()
            if specs[name]["type"] == "embedding":
                folds = table.folds[name].cpu().unbind(1) if name in table.folds else ()
                vectors[name] = _directions(np.concatenate([values, *(of_fold.numpy() for of_fold in folds)]))
            elif specs[name]["type"] in ("categorical", "sequence") and not _is_own_id(values):
                codes[name] = values.reshape(len(values), -1)
        return cls(table.num_items, vectors, codes)

    def of_samples(self, name: str, samples: Samples) -> tuple[NDArray, NDArray]:
        """An embedding of the history items (N, d) and of the targets (B, d), as the samples' users may see it."""
        vectors, history, target = self.vectors[name], samples.history, samples.target
        if len(vectors) > self.number and samples.fold is not None:
            first = samples.fold * self.number
            history, target = history + first[samples.rows], target + first
        return vectors[history], vectors[target]


def _is_own_id(values: NDArray) -> bool:
    return values.ndim == 1 and np.array_equal(values, np.arange(len(values)))


def _directions(values: NDArray) -> NDArray:
    """Rows less their mean, of length 1; rows of zeros, which are no embedding, stay zeros and out of the mean."""
    there = (values != 0).any(axis=1, keepdims=True)
    centred = (values - values.sum(axis=0) / max(there.sum(), 1)) * there
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
