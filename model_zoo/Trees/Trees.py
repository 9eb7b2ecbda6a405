"""Gradient-boosted trees on hand features as a model of the FuxiCTR zoo; it is fitted at once, not step by step."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fuxictr.pytorch.models import BaseModel
from numpy.typing import NDArray
from torch import Tensor

from fuxictr_multimodal.config.binder import bind_known
from fuxictr_multimodal.errors import ConfigError, DataError
from model_zoo.Trees.features import HandFeatures
from model_zoo.Trees.forest import empty_forest, fill_forest, log_odds, problem_of, size_of
from model_zoo.Trees.samples import Items, Samples
from model_zoo.Trees.settings import TreesSettings

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

    from fuxictr_multimodal.data.batch import Batch
    from fuxictr_multimodal.data.item_table import ItemTable

STAGE = 10
# What a sample of train reads of other users: where nothing tells users apart, it would read its own target.
OF_OTHER_USERS = frozenset({"counts", "cooccurrence"})


@dataclass(frozen=True)
class Stage:
    """The trees so far.

    Attributes:
        trees: their number.
        train_loss: log loss of train.
        scores: of valid, (B,).
        kept: whether the model ends here.
    """

    trees: int
    train_loss: float
    scores: NDArray[np.float64]
    kept: bool


class Trees(BaseModel):
    """scikit-learn's `HistGradientBoostingClassifier` on the features of `features.py`, always on the CPU.

    It reads a `Batch`; an item table must be attached, and train and valid be read (`read_splits`). Its state are the
    trees as arrays.

    Args:
        feature_map: features and labels; `source: item` marks what an item has.
        learning_rate, max_leaf_nodes, min_samples_leaf, l2_regularization, max_features, without_features: see
            `TreesSettings`, which has their defaults.
        epochs: trees at most.
        seed: of the choice of features.
        **params: the rest of FuxiCTR's parameter dictionary.

    Raises:
        ConfigError: a value that a setting does not have.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        learning_rate: float | None = None,
        max_leaf_nodes: int | None = None,
        min_samples_leaf: int | None = None,
        l2_regularization: float | None = None,
        max_features: float | None = None,
        without_features: list[str] | None = None,
        epochs: int = 300,
        seed: int = 0,
        **params: Any,
    ) -> None:
        given = locals()
        super().__init__(feature_map, **{**params, "gpu": -1})
        if params.get("task", "binary_classification") != "binary_classification":
            raise ConfigError(f"task: Trees classifies, but the task is {params['task']!r}: use another model")
        own = {name: given[name] for name in inspect.signature(Trees).parameters if name in TreesSettings.model_fields}
        self.settings = bind_known(TreesSettings, own, f"expid {self.model_id!r}")
        self.epochs, self.seed = epochs, seed
        self.items: Items | None = None
        self.features: HandFeatures | None = None
        for name, values in empty_forest(epochs, self.settings.max_leaf_nodes).items():
            self.register_buffer(name, values)

    @property
    def _specs(self) -> dict[str, Mapping[str, Any]]:
        return {name: spec for name, spec in self.feature_map.features.items() if spec["type"] != "meta"}

    @property
    def _arrays(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    @property
    def size(self) -> int:
        """Numbers that training chose."""
        return size_of(self._arrays)

    def attach(self, item_table: ItemTable) -> None:
        """Give the model the item features that a `Batch` refers to; they are not part of its state."""
        self.items = Items.of(item_table, self._specs)

    def read_splits(self, train: Iterable[Batch], valid: Iterable[Batch]) -> None:
        """Count what the features need: histories and click rates of train, and of valid which values are known."""
        assert self.items is not None, "an item table is attached first"
        label = self.feature_map.labels[0]
        without: set[str] = set(self.settings.without_features)
        if self.feature_map.group_id is None and not without >= OF_OTHER_USERS:
            logging.info(
                "Left out, since no group_id says which samples are of one user: %s", ", ".join(sorted(OF_OTHER_USERS))
            )
            without |= OF_OTHER_USERS
        self.features = HandFeatures.of(
            self._specs,
            self.items,
            ((Samples.of(batch, train=True), batch.features[label].numpy()) for batch in train),
            map(Samples.of, valid),
            without=without,
        )

    def fit_at_once(self, train: Iterable[Batch], valid: Iterable[Batch]) -> Iterator[Stage]:
        """Fit the trees; they end where the log loss of valid is lowest. Yields the way there, every few trees.

        Raises:
            ConfigError: all labels of train are the same, or there is no feature.
        """
        # It takes a second to import.
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        (x, y, weight), (x_valid, y_valid, _) = self._matrix(train, train=True), self._matrix(valid)
        if len(np.unique(y)) < 2:
            raise ConfigError(f"all labels of the training split are {y[0]}: there is nothing to learn")
        if not x.shape[1]:
            raise ConfigError("without_features: no feature is left")
        classifier = HistGradientBoostingClassifier(
            **self.settings.model_dump(exclude={"without_features"}),
            max_iter=self.epochs,
            early_stopping=True,
            n_iter_no_change=self._early_stop_patience,
            random_state=self.seed,
        )
        with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
            classifier.fit(x, y, sample_weight=weight, X_val=x_valid, y_val=y_valid)
            # The first score is that of no tree.
            best = max(1, int(np.argmax(classifier.validation_score_)))
            fill_forest(self._arrays, classifier, best)
            for trees, scores in enumerate(classifier.staged_predict_proba(x_valid), start=1):
                if trees % STAGE == 0 or trees == best:
                    yield Stage(trees, -float(classifier.train_score_[trees]), scores[:, 1], kept=trees == best)

    def forward(self, inputs: Batch) -> dict[str, Tensor]:
        """Return `y_pred` (B, 1), a probability."""
        assert self.features is not None, "train is read first"
        scores = log_odds(self._arrays, self.features.matrix(Samples.of(inputs)))
        return {"y_pred": torch.from_numpy(1 / (1 + np.exp(-scores))).float()[:, None]}

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **named: Any) -> Any:
        """As of any model, but refuse arrays that are no trees.

        Raises:
            DataError: they are damaged.
        """
        loaded = super().load_state_dict(state_dict, *arguments, **named)
        if self.features is not None and (problem := problem_of(self._arrays, len(self.features.names))):
            raise DataError(f"{self.checkpoint} holds no trees of this model: {problem}; train again with --overwrite")
        return loaded

    def _matrix(self, batches: Iterable[Batch], *, train: bool = False) -> tuple[NDArray, NDArray, NDArray | None]:
        """Features, labels and weights of a split."""
        assert self.features is not None, "train is read first"
        label = self.feature_map.labels[0]
        features, labels, weights = [], [], []
        for batch in batches:
            features.append(self.features.matrix(Samples.of(batch, train=train)))
            labels.append(batch.features[label].numpy().astype(np.int64))
            if batch.weight is not None:
                weights.append(batch.weight.numpy())
        return np.concatenate(features), np.concatenate(labels), np.concatenate(weights) if weights else None
