"""Raw features of items to the arrays of the catalogue.

Shape legend: n items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engines import DTYPES, Engine
from .errors import FolderError, RequestError
from .folder import Model
from .ids import Id, IdMap
from .raw_values import MOST_INT64, shown
from .request import listed, mapping
from .storage import Stored
from .vocabulary import Vocabulary

# Items of one call of the item model.
BLOCK = 1024


class ItemEncoder:
    """What makes arrays of items.

    Args:
        model: whose catalogue they enter.
        vocabulary: encoders of raw features.
        graph: of the item model; None where the catalogue holds encoded features themselves.
        arrays: of the catalogue.
    """

    def __init__(
        self, model: Model, vocabulary: Vocabulary, graph: Engine | None, arrays: Mapping[str, Stored]
    ) -> None:
        self._model, self._vocabulary, self._graph = model, vocabulary, graph
        self._shapes = {name: stored.shape for name, stored in arrays.items()}

    def read(self, items: Any, ids: IdMap) -> tuple[list[Id], list[Mapping[str, Any]]]:
        """Check the form of items. Returns their ids as the map has them, and the items.

        Raises:
            RequestError: an id is missing, wrong or there twice.
        """
        column = self._vocabulary.item_column
        rows = [mapping(item, f"item {i} of the list") for i, item in enumerate(listed(items, "items"))]
        for i, item in enumerate(rows):
            if column not in item:
                raise RequestError(f"item {i} of the list has no {column!r}, which is its id")
        given = [item[column] for item in rows]
        keys: dict[Id, None] = {}
        for one, key in zip(given, ids.keys(given, what=column), strict=True):
            if key is None or (isinstance(key, int) and abs(key) > MOST_INT64):
                raise RequestError(f"{column}: {shown(one)} is no id; ids are whole numbers")
            if key in keys:
                raise RequestError(f"{column}: item {shown(one)} is given twice")
            keys[key] = None
        return list(keys), rows

    def arrays(self, items: Sequence[Mapping[str, Any]]) -> dict[str, NDArray]:
        """Arrays of items by name, (n, ...), n from 1.

        Raises:
            RequestError: a feature is missing, wrong or too large.
            FolderError: the item model is at fault.
        """
        parts = [self._block(items[i : i + BLOCK]) for i in range(0, len(items), BLOCK)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._shapes}

    def _block(self, items: Sequence[Mapping[str, Any]]) -> dict[str, NDArray]:
        features = self._vocabulary.items(items)
        found = self._encoded(features)
        for name, values in found.items():
            if values.shape != (len(items), *self._shapes[name]):
                raise self._error(name, f"shape {values.shape}")
            finite = np.isfinite(values).reshape(len(items), -1).all(axis=1)
            if finite.all():
                continue
            zeros = {key: np.zeros_like(one[:1]) for key, one in features.items()}
            if not np.isfinite(self._encoded(zeros)[name]).all():
                raise self._error(name, "values that are not finite")
            item = items[int(finite.argmin())][self._vocabulary.item_column]
            raise RequestError(f"item {shown(item)}: the model gives it no finite {name}: its numbers are too large")
        return found

    def _encoded(self, features: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Arrays of encoded features."""
        if self._graph is None:
            return {name: features[name] for name in self._shapes}
        inputs: dict[str, NDArray] = {
            one.name: features[one.name].astype(DTYPES[one.dtype]) for one in self._model.item_inputs
        }
        return dict(zip(self._shapes, self._graph.run(inputs), strict=True))

    def _error(self, name: str, fault: str) -> FolderError:
        return FolderError(f"{self._model.path}: the item model gave {name} with {fault}: export the model again")
