"""Requests to the tensors that a graph reads: rows of the catalogue gathered, histories padded, codes stacked.

Shape legend: R requests of one call; C candidates, T slots of a history, the most that one of these requests has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .engines import DTYPES
from .errors import FolderError
from .folder import Model
from .items import Version
from .storage import Stored


@dataclass(frozen=True)
class Slots:
    """One history of a request.

    Attributes:
        rows: of its items in the catalogue, newest last, (t,).
        events: codes of its events by column, (t,).
    """

    rows: NDArray[np.int64]
    events: Mapping[str, NDArray]


@dataclass(frozen=True)
class Encoded:
    """A request whose values are encoded.

    Attributes:
        context: encoded columns, (1, ...).
        histories: the model's histories by name.
        rows: of the candidates in the catalogue, (C,).
    """

    context: Mapping[str, NDArray]
    histories: Mapping[str, Slots]
    rows: NDArray[np.int64]

    @property
    def slots(self) -> int:
        """Items of all histories."""
        return sum(len(one.rows) for one in self.histories.values())


class Feeds:
    """Makes the tensors of calls.

    Args:
        model: whose graph reads them.
        arrays: of the catalogue.
        columns: of the context and of events that requests are encoded to.

    Raises:
        FolderError: the graph reads what neither the catalogue nor a request has.
    """

    def __init__(
        self, model: Model, arrays: Mapping[str, Stored], columns: Sequence[str], events: Sequence[str]
    ) -> None:
        self._model = model
        self._context: list[tuple[str, str, type]] = []
        self._masks: list[tuple[str, str]] = []
        self._items: list[tuple[str, str, str]] = []
        self._events: list[tuple[str, str, str]] = []
        self._candidates: list[tuple[str, str]] = []
        for one in model.inputs:
            kind, _, rest = one.name.partition(".")
            behaviour = next((b for b in model.behaviours if rest.startswith((f"{b}.items.", f"{b}.events."))), "")
            part = rest[len(behaviour) + 1 :]
            if kind == "context" and rest in columns:
                self._context.append((one.name, rest, DTYPES[one.dtype]))
                continue
            if kind == "candidates" and rest in arrays:
                self._candidates.append((one.name, rest))
                array = arrays[rest]
            elif kind == "behaviours" and rest.removesuffix(".mask") in model.behaviours and rest.endswith(".mask"):
                self._masks.append((one.name, rest.removesuffix(".mask")))
                continue
            elif kind == "behaviours" and part.removeprefix("items.") in arrays and part.startswith("items."):
                self._items.append((one.name, behaviour, part.removeprefix("items.")))
                array = arrays[part.removeprefix("items.")]
            elif kind == "behaviours" and part.removeprefix("events.") in events and part.startswith("events."):
                self._events.append((one.name, behaviour, part.removeprefix("events.")))
                continue
            else:
                raise FolderError(f"{model.path}: the graph reads {one.name!r}, which nothing in the folder gives")
            if tuple(one.dims[2:]) != array.shape or np.dtype(one.dtype) != array.dtype:
                raise FolderError(
                    f"{model.path}: the graph reads {one.name!r} as {one.dtype} {one.dims[2:]}, but a row of "
                    f"items.safetensors gives {array.dtype} {array.shape}: export the model again"
                )

    def of_users(self, requests: Sequence[Encoded], version: Version) -> dict[str, NDArray]:
        """Tensors of the requests' own parts: context (R, ...), and histories (R, T, ...)."""
        found: dict[str, NDArray] = {}
        for name, column, dtype in self._context:
            parts = [one.context[column] for one in requests]
            found[name] = (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(dtype, copy=False)
        places = {name: self._places(requests, name) for name in self._model.behaviours}
        for name, behaviour in self._masks:
            found[name] = places[behaviour]
        rows = {
            behaviour: _filled(mask, [one.histories[behaviour].rows for one in requests])
            for behaviour, mask in places.items()
        }
        for name, behaviour, array in self._items:
            found[name] = _gathered(version.arrays[array], rows[behaviour])
            mask = places[behaviour]
            if not mask.all():
                found[name][~mask] = 0
        for name, behaviour, column in self._events:
            found[name] = _filled(places[behaviour], [one.histories[behaviour].events[column] for one in requests])
        return found

    def of_candidates(self, rows: NDArray[np.int64], version: Version) -> dict[str, NDArray]:
        """Tensors of candidates, (R, C, ...), whose rows are given, (R, C)."""
        return {name: _gathered(version.arrays[array], rows) for name, array in self._candidates}

    def _places(self, requests: Sequence[Encoded], behaviour: str) -> NDArray[np.bool_]:
        """Where items of a history are, (R, T)."""
        lengths = np.array([[len(one.histories[behaviour].rows)] for one in requests])
        slots = self._model.fixed_slots or max(int(lengths.max()), 1)
        steps = np.arange(slots)
        return steps >= slots - lengths if self._model.padding == "pre" else steps < lengths


def _filled(mask: NDArray[np.bool_], values: Sequence[NDArray]) -> NDArray[np.int64]:
    """Values of each request at the True places of its row, 0 elsewhere, (R, T)."""
    found = np.zeros(mask.shape, np.int64)
    found[mask] = values[0] if len(values) == 1 else np.concatenate(values)
    return found


def _gathered(array: Stored, rows: NDArray[np.int64]) -> NDArray:
    return array.gather(rows.ravel()).reshape(*rows.shape, *array.shape)
