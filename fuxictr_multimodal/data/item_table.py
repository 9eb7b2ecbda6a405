"""Item features on one device, gathered by item id.

Shape legend: N items of the table (row 0 is padding), M gathered ids, T tags, d width of a pretrained embedding, K
folds of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.store import ITEM_FILE, read_item_table
from fuxictr_multimodal.data.store.damage import BUILD_AGAIN
from fuxictr_multimodal.data.store.manifest import folds_name
from fuxictr_multimodal.data.store.ranges import check_items
from fuxictr_multimodal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


class ItemTable:
    """Row i of every feature belongs to item i; row 0 is padding and all zero.

    Args:
        features: ids (N,), tags (N, T) or embeddings (N, d) by column name, all on one device.
        folds: of features whose values depend on the fold of a sample's user, those for each fold, (N, K, d).

    Attributes:
        features: the same; what samples without a fold read.
        folds: the same.
        num_items: rows of the table, the padding row included.
        device: where the table lives; `gather` takes ids of the same device.

    Raises:
        DataError: there is no feature, or the features disagree about the number of items. A dataset without items
            has the table of `without_items`.

    >>> table = ItemTable({"item_id": torch.arange(3), "item_tags": torch.tensor([[0, 0], [4, 5], [0, 6]])})
    >>> table.gather(torch.tensor([[2, 0]]))["item_tags"].tolist()
    [[0, 6], [0, 0]]
    """

    def __init__(self, features: Mapping[str, Tensor], folds: Mapping[str, Tensor] | None = None) -> None:
        if not features:
            raise DataError("an item table needs at least one feature: none has `source: item` in feature_cols")
        rows = {name: len(feature) for name, feature in features.items()}
        if len(set(rows.values())) > 1:
            raise DataError(f"the features of an item table must have one row per item, but have {rows} rows")
        self.features = dict(features)
        first = next(iter(features.values()))
        self.num_items, self.device = len(first), first.device
        self.folds = dict(folds or {})
        self._unfolded: ItemTable | None = None

    @classmethod
    def without_items(cls, device: torch.device | str = "cpu") -> ItemTable:
        """The table of a dataset without items: no feature, and the padding row alone."""
        table = cls.__new__(cls)
        table.features, table.num_items, table.device = {}, 1, torch.empty(0, device=device).device
        table.folds, table._unfolded = {}, None
        return table

    @classmethod
    def from_store(
        cls,
        path: str | Path,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        *,
        feature_map: FeatureMap | None = None,
    ) -> ItemTable:
        """Read the item table of a dataset on disk.

        Args:
            path: `item.h5`, or the folder that holds it.
            names: the features to keep, in this order. Default: those of `feature_map` with `source: item`, or all.
            device: where the table lives.
            feature_map: when given, ids are checked against its `vocab_size` (that of the item's own id is the number
                of items) and embeddings against its `pretrain_dim`.

        Raises:
            DataError: the file or a feature is missing or does not fit the feature map, values for folds do not fit
                their feature, a number is not finite, or the padding row is not all zero.
        """
        stored = read_item_table(path)
        if names is None:
            plain = [name for name in stored if name not in {folds_name(other) for other in stored}]
            names = plain if feature_map is None else item_features(feature_map)
        for name in names:
            if name not in stored:
                raise DataError(f"the item table {path} has no feature {name!r}. {did_you_mean(name, stored)}")
            if feature_map is not None:
                _check_against(feature_map.features.get(name, {}), stored[name], f"{path}: item feature {name!r}")
        specs = {} if feature_map is None else feature_map.features
        file = Path(path) / ITEM_FILE if Path(path).is_dir() else Path(path)
        folds = {name: stored[folds_name(name)] for name in names if folds_name(name) in stored}
        _check_folds(folds, stored, getattr(feature_map, "folds", None), str(file))
        check_items(file, {name: stored[name] for name in names}, specs)
        check_items(file, {folds_name(name): values for name, values in folds.items()}, {})
        return cls(
            {name: torch.from_numpy(_compact(stored[name])).to(device) for name in names},
            {name: torch.from_numpy(_compact(values)).to(device) for name, values in folds.items()},
        )

    def to(self, device: torch.device | str) -> ItemTable:
        """The same table on another device."""
        if not self.features:
            return ItemTable.without_items(device)
        folds = {name: values.to(device) for name, values in self.folds.items()}
        return ItemTable({name: feature.to(device) for name, feature in self.features.items()}, folds)

    def of_batch(self, batch: Batch) -> tuple[ItemTable, Batch]:
        """The table and the batch as a model reads them: features of each item as its sample's user may see them.

        Where features depend on the fold of a user, an item has a row for each fold: item i of a sample of fold k is
        row k N + i of the returned table, in target and histories of the returned batch. All ids are then rows; the
        item's own id is among the features. Without folds, and for samples without one, both are returned as they are.

        >>> folds = torch.tensor([[[0.0], [0.0]], [[2.0], [3.0]]])
        >>> table = ItemTable({"v": torch.tensor([[0.0], [1.0]])}, {"v": folds})
        >>> one = torch.tensor([1, 1, 1])
        >>> rows, batch = table.of_batch(Batch({}, one, Jagged.empty(3), fold=torch.tensor([0, 1, 2])))
        >>> rows.gather(batch.target)["v"].tolist()
        [[1.0], [2.0], [3.0]]
        """
        if not self.folds or batch.fold is None:
            return self, batch
        if self._unfolded is None:
            self._unfolded = ItemTable({name: self._all_rows(name) for name in self.features})
        fold = batch.fold.to(batch.target.device).long()

        def rows_of(history: Jagged) -> Jagged:
            first = fold.to(history.values.device)[history.row_index()] * self.num_items
            return replace(history, values=history.values + first)

        behaviours = {name: rows_of(history) for name, history in batch.behaviours.items()}
        target, history = batch.target + fold * self.num_items, rows_of(batch.history)
        return self._unfolded, replace(batch, target=target, history=history, behaviours=behaviours, fold=None)

    def _all_rows(self, name: str) -> Tensor:
        """A feature of all items for no fold, then for each fold, ((K + 1) N, ...)."""
        feature = self.features[name]
        if name in self.folds:
            return torch.cat([feature, self.folds[name].transpose(0, 1).flatten(0, 1)])
        folds = next(iter(self.folds.values())).shape[1]
        return feature.repeat(1 + folds, *[1] * (feature.ndim - 1))

    def forget(self) -> None:
        """Drop what was made of the features; call it where they are replaced."""
        self._unfolded = None

    def gather(self, ids: Tensor) -> dict[str, Tensor]:
        """Features of the M items in `ids` (any shape, int32 or int64), flat: (M,), (M, T) or (M, d).

        Raises:
            IndexError: an id is not in the table (on the CPU; a CUDA device reports a failed assertion).
        """
        flat = ids.reshape(-1)
        return {name: feature.index_select(0, flat) for name, feature in self.features.items()}


def item_features(feature_map: FeatureMap) -> list[str]:
    """Names of the features with `source: item` that are model inputs, in the order of the feature map."""
    return [
        name for name, spec in feature_map.features.items() if spec.get("source") == "item" and spec["type"] != "meta"
    ]


def _check_against(spec: Mapping[str, Any], values: np.ndarray, where: str) -> None:
    """Refuse ids that an embedding table of `vocab_size` rows cannot look up, and another width than `pretrain_dim`."""
    width, vocab_size = spec.get("pretrain_dim"), spec.get("vocab_size")
    if spec.get("type") == "embedding" and width is not None and values.shape[1:] != (width,):
        raise DataError(
            f"{where} has {values.shape[1:]} numbers per item, but its pretrain_dim in feature_map.json is {width}: "
            "rebuild the dataset, or correct pretrain_dim in feature_cols"
        )
    if spec.get("type") not in ("categorical", "sequence") or vocab_size is None:
        return
    is_own_id = values.ndim == 1 and np.array_equal(values, np.arange(len(values)))
    if values.min() < 0 or values.max() >= vocab_size or (is_own_id and len(values) != vocab_size):
        raise DataError(
            f"{where} holds ids from {values.min()} to {values.max()} in {len(values)} rows, but its vocab_size in "
            f"feature_map.json is {vocab_size}: rebuild the dataset, or correct vocab_size in feature_cols"
        )


def _check_folds(
    folds: Mapping[str, np.ndarray], stored: Mapping[str, np.ndarray], expected: int | None, file: str
) -> None:
    """Refuse values for folds of another shape than (N, K, d), or of another K than the samples' folds have.

    Args:
        folds: values for each fold by the name of their feature.
        stored: all columns of the file.
        expected: K by the manifest, 0 without folds; None where that is not known.
        file: for messages.
    """
    if expected and not any(folds_name(name) in stored for name in stored):
        raise DataError(
            f"{file} has no column {folds_name('<feature>')!r}, but each sample has one of {expected} folds of users: "
            f"{BUILD_AGAIN}"
        )
    for name, values in folds.items():
        base = stored[name].shape
        if expected is None and values.ndim > 1:
            expected = values.shape[1]
        shape = (base[0], expected, *base[1:])
        if not expected or values.shape != shape or values.dtype.kind != "f":
            raise DataError(
                f"{file}: column {folds_name(name)!r} has {values.dtype} values of shape {values.shape}, but beside "
                f"{name!r} it needs numbers of shape {shape}, for {expected} folds of users: {BUILD_AGAIN}"
            )


def _compact(values: np.ndarray) -> np.ndarray:
    """int32 ids stay as they are; numbers become float32."""
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values
