"""What a caller asks and is answered, and the checks of its form.

Shape legend: C candidates of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import raw_values
from .errors import RequestError, did_you_mean
from .raw_values import shown


@dataclass(frozen=True)
class Request:
    """One user and the candidates to score.

    Attributes:
        context: raw values of the context columns, such as the user's features and the hour.
        history: ids of the items of the main history, newest last.
        candidates: ids of the items to score; an id may come twice.
        behaviours: further histories by name; those of the dataset that the model does not read may be there.
        events: by the name of a history, values of its events by column, each as long as the history.
        time: of the request, where the dataset has features of time.
    """

    context: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Any] = ()
    candidates: Sequence[Any] = ()
    behaviours: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    events: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    time: Any = None


@dataclass(frozen=True)
class Scores:
    """Scores of one request.

    Attributes:
        scores: in the order of the candidates, (C,) float64; (1,) for a dataset without items.
        unknown: candidates that are not in the catalogue, each once; their scores are those of the padding item.
        unknown_history: number of history items that are not in the catalogue and were left out.
    """

    scores: NDArray[np.float64]
    unknown: list[Any]
    unknown_history: int


@dataclass(frozen=True)
class Ranked:
    """The best candidates of one request.

    Attributes:
        items: best first, as the caller gave them; equal scores keep the order of the candidates.
        scores: of these items, float64.
        unknown: candidates that are not in the catalogue, each once; they are not ranked.
        unknown_history: number of history items that are not in the catalogue and were left out.
    """

    items: list[Any]
    scores: NDArray[np.float64]
    unknown: list[Any]
    unknown_history: int


def listed(values: Any, what: str) -> Sequence[Any]:
    """Values of a list, a tuple, a range, an array or a column.

    Raises:
        RequestError: they are no list.
    """
    if isinstance(values, range):
        return values
    found = raw_values.listed(values)
    if found is None:
        raise RequestError(f"{what} must be a list, but it is {shown(values)}")
    return found


def mapping(values: Any, what: str, known: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Values by name.

    Raises:
        RequestError: they are no mapping, or a name is not known.
    """
    if not isinstance(values, Mapping):
        raise RequestError(f"{what} must map names to values, but it is {shown(values)}")
    if known is not None:
        for name in values:
            if name not in known:
                raise RequestError(f"{what}: {name!r} is unknown{did_you_mean(str(name), known)}")
    return values


def histories(request: Request, names: Sequence[str], known: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Ids of each history that the model reads; empty where the request has none.

    Args:
        request: of a caller, who need not know which of the dataset's histories this model reads.
        names: of the histories that it reads.
        known: histories of the dataset, the main one first.

    Raises:
        RequestError: a history is no list, is not one of the dataset's, or its events do not belong to one.
    """
    further = mapping(request.behaviours, "behaviours", known[1:])
    mapping(request.events, "events", known)
    main = listed(request.history, "history")
    if not known:
        if len(main):
            raise RequestError("history: the model reads no history; leave it out")
        return {}
    given = {known[0]: main} | {name: listed(further.get(name, ()), f"behaviours {name!r}") for name in known[1:]}
    return {name: given[name] for name in names}


def checked_k(k: Any) -> int | None:
    """Number of items to return; None for all.

    Raises:
        RequestError: it is no whole number from 1.
    """
    if k is None:
        return None
    if isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1:
        return int(k)
    raise RequestError(f"k must be a whole number from 1, but it is {shown(k)}")
