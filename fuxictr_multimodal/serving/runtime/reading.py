"""Reads requests: ids to rows of the catalogue, histories cut, raw values to codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .feeds import Encoded, Slots
from .folder import Model
from .ids import UNKNOWN
from .items import Version
from .request import Request, histories, listed, mapping
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Read:
    """A request that was read.

    Attributes:
        encoded: its values; an unknown candidate has the row -1.
        candidates: as the caller gave them, (C,).
        unknown_history: number of history items that are not in the catalogue.
    """

    encoded: Encoded
    candidates: Sequence[Any]
    unknown_history: int

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which candidates are not in the catalogue, (C,)."""
        return self.encoded.rows == UNKNOWN

    def at(self, places: NDArray[np.bool_]) -> list[Any]:
        """Candidates at the True places."""
        return [self.candidates[i] for i in np.flatnonzero(places).tolist()]


def read(request: Request, model: Model, vocabulary: Vocabulary, version: Version) -> Read:
    """Read a request.

    Args:
        request: as the caller gave it.
        model: that it is for.
        vocabulary: encoders of its values.
        version: of the catalogue.

    Raises:
        RequestError: a value is missing or wrong.
    """
    if not isinstance(request, Request):
        raise RequestError(f"a request must be a Request, but it is a {type(request).__name__}")
    context = mapping(request.context, "context")
    columns = vocabulary.context(context, time=request.time)
    slots, unknown = {}, 0
    # An older folder does not say which histories its dataset has.
    known = (*vocabulary.histories, *(name for name in model.behaviours if name not in vocabulary.histories))
    for name, given in histories(request, model.behaviours, known).items():
        rows = version.ids.rows(version.ids.keys(given, what=name))
        events = vocabulary.events(
            name, request.events.get(name, {}), length=len(rows), context=context, time=request.time
        )
        kept = np.flatnonzero(rows != UNKNOWN)
        unknown += len(rows) - len(kept)
        kept = kept[-model.max_len :]
        slots[name] = Slots(rows[kept], {column: codes[kept] for column, codes in events.items()})
    candidates = listed(request.candidates, "candidates")
    if model.has_items:
        rows = version.ids.rows(version.ids.keys(candidates, what="candidates"))
    elif len(candidates):
        raise RequestError("candidates: the model's dataset has no items; leave them out")
    else:
        # The sample itself is what is scored.
        rows = np.zeros(1, np.int64)
    return Read(Encoded(columns, slots, rows), candidates, unknown)
