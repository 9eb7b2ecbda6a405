"""Ranks the candidates of requests with an exported model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FolderError, RequestError
from .feeds import Feeds
from .folder import VOCABULARY, Model, read_model
from .ids import UNKNOWN, IdMap
from .item_encoder import ItemEncoder
from .items import Catalogue, Version
from .raw_values import shown
from .reading import Read, read
from .request import Ranked, Request, Scores, checked_k, listed
from .scorer import Scorer, best
from .vocabulary import Vocabulary

# More would be a slip of the hand, and take all that a machine has.
MOST_THREADS = 1024


class Ranker:
    """A model that ranks. Threads may share it, also while items change.

    A request sees the catalogue as it is when the request starts; so does each of `score_many` and `rank_many`.

    Args:
        folder: that `fxmm export` wrote.
        threads: that one call of the graph uses; None leaves it to the engine.

    Attributes:
        model: what the folder's model.json says.

    Raises:
        FolderError: the folder is missing, damaged or of a newer format.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        if threads is not None and (
            isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS
        ):
            raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS}, but it is {threads!r}")
        self.model = model = read_model(Path(folder))
        self._vocabulary = vocabulary = Vocabulary.read(model.path / VOCABULARY)
        arrays = model.stored()
        rows = len(next(iter(arrays.values())).rows.base) if arrays else 1
        self._catalogue = Catalogue(_ids(model, vocabulary, rows), arrays, rows)
        feeds = Feeds(model, arrays, vocabulary.context_columns, vocabulary.event_columns)
        self._scorer = Scorer(model, model.graph(threads), feeds)
        self._items = None
        if model.has_items:
            graph = model.item_graph(threads, vocabulary.item_features)
            self._items = ItemEncoder(model, vocabulary, graph, arrays)

    @property
    def name(self) -> str:
        """Name of the run that was exported."""
        return self.model.name

    @property
    def item_column(self) -> str:
        """Name of the column of an item's id, in what `upsert_items` takes; empty without items."""
        return self._vocabulary.item_column

    @property
    def version(self) -> str:
        """The model, and the number of changes of the catalogue since it was loaded, as in `3f9a1c2e.0`."""
        return f"{self.model.fingerprint}.{self._catalogue.version.number}"

    def __len__(self) -> int:
        return self._catalogue.version.ids.size

    def __contains__(self, item: Any) -> bool:
        ids = self._catalogue.version.ids
        try:
            return bool(ids.rows(ids.keys([item], what="item"))[0] != UNKNOWN)
        except RequestError:
            return False

    def score(self, request: Request) -> Scores:
        """Score the candidates of a request, in their order. An unknown one has the score of the padding item.

        Raises:
            RequestError: the request is wrong.
            FolderError: the model is at fault.
        """
        return self.score_many([request])[0]

    def score_many(self, requests: Sequence[Request]) -> list[Scores]:
        """Score several requests; those of like sizes share a call of the graph."""
        version = self._catalogue.version
        reads = [read(request, self.model, self._vocabulary, version) for request in requests]
        unknown = []
        for one in reads:
            missing = one.missing
            unknown.append(_distinct(one.at(missing)))
            one.encoded.rows[missing] = 0
        found = self._scores(reads, version)
        return [
            Scores(self._scorer.calibrated(scores), missing, one.unknown_history)
            for scores, missing, one in zip(found, unknown, reads, strict=True)
        ]

    def rank(
        self,
        request: Request | Mapping[str, Any] | None = None,
        history_item_ids: Sequence[Any] | None = None,
        candidate_ids: Sequence[Any] | None = None,
        k: int | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        behaviours: Mapping[str, Sequence[Any]] | None = None,
        events: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        time: Any = None,
    ) -> Ranked:
        """Rank the candidates of a request: `rank(request, k=10)`, or `rank(context, history_item_ids, candidate_ids)`.

        Args:
            request: the request, or its context.
            history_item_ids: ids of the main history, newest last.
            candidate_ids: ids of the items to rank.
            k: number of items to return; all of them where None.
            context: raw values of the context columns.
            behaviours: further histories by name.
            events: values of events by history and column.
            time: of the request.

        Raises:
            RequestError: the request is wrong.
            FolderError: the model is at fault.
        """
        parts = {
            "context": context,
            "history": history_item_ids,
            "candidates": candidate_ids,
            "behaviours": behaviours,
            "events": events,
            "time": time,
        }
        parts = {name: part for name, part in parts.items() if part is not None}
        if isinstance(request, Request):
            if parts:
                raise RequestError(f"rank takes a request or its parts, but not both: leave out {', '.join(parts)}")
            return self.rank_many([request], k=k)[0]
        if request is not None:
            if context is not None:
                raise RequestError("rank takes one context, but was given two")
            parts["context"] = request
        return self.rank_many([Request(**parts)], k=k)[0]

    def rank_many(self, requests: Sequence[Request], k: int | None = None) -> list[Ranked]:
        """Rank several requests; those of like sizes share a call of the graph."""
        if not self.model.has_items:
            raise RequestError("the model's dataset has no items to rank: use score")
        k = checked_k(k)
        version = self._catalogue.version
        reads, unknown = [], []
        for request in requests:
            one = read(request, self.model, self._vocabulary, version)
            missing = one.missing
            unknown.append(_distinct(one.at(missing)))
            if unknown[-1]:
                encoded = replace(one.encoded, rows=one.encoded.rows[~missing])
                one = replace(one, encoded=encoded, candidates=one.at(~missing))
            reads.append(one)
        found = self._scores(reads, version)
        ranked = []
        for scores, gone, one in zip(found, unknown, reads, strict=True):
            # By the model's own scores: a calibration that has steps makes equal what the model tells apart.
            order = best(scores, k)
            items = [one.candidates[i] for i in order.tolist()]
            ranked.append(Ranked(items, self._scorer.calibrated(scores[order]), gone, one.unknown_history))
        return ranked

    def upsert_items(self, items: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Add items, or change those that are there; all of them appear at once, for requests that start later.

        Args:
            items: the id and the raw features of each, by column. All features are needed, also where only some
                change: the catalogue keeps what the model made of the others, not their values.

        Returns:
            How many were added, and how many changed.

        Raises:
            RequestError: an id or a feature is missing or wrong; then nothing has changed.
        """
        if self._items is None:
            raise RequestError("the model's dataset has no items to add or change")
        keys, rows = self._items.read(items, self._catalogue.version.ids)
        if not keys:
            return 0, 0
        try:
            return self._catalogue.upsert(keys, self._items.arrays(rows))
        except OverflowError as error:
            raise RequestError(f"the items cannot be kept, since {error}") from None

    def remove_items(self, ids: Sequence[Any]) -> int:
        """Remove items, for requests that start later; ids that are not there are passed over.

        Returns:
            How many were removed.
        """
        if self._items is None:
            raise RequestError("the model's dataset has no items to remove")
        keys = self._catalogue.version.ids.keys(listed(ids, "ids"), what="ids")
        return self._catalogue.remove([key for key in keys if key is not None])

    def _scores(self, reads: Sequence[Read], version: Version) -> list[NDArray[np.float64]]:
        """Finite scores of requests that were read, each (C,)."""
        found = self._scorer.scores([one.encoded for one in reads], version)
        for one, scores in zip(reads, found, strict=True):
            if not np.isfinite(scores).all():
                place = self._scorer.fault(one.encoded, scores, version)
                if place is not None:
                    raise RequestError(
                        f"candidate {shown(one.candidates[place])} has no finite score: numbers of the item are too "
                        "large"
                    )
                where = "the context or of the history's items" if one.encoded.histories else "the context"
                raise RequestError(f"the scores are not finite: numbers of {where} are too large")
        return found


def _ids(model: Model, vocabulary: Vocabulary, rows: int) -> IdMap:
    """Ids of the rows of the catalogue; they are the numbers of the rows where the dataset has no others."""
    file = model.path / VOCABULARY
    if not model.has_items:
        return IdMap.of([None])
    known = vocabulary.rows if vocabulary.ids is None else len(vocabulary.ids)
    if known != rows:
        raise FolderError(f"{file} has {known} items, but items.safetensors has {rows} rows: export the model again")
    try:
        return vocabulary.own_ids
    except ValueError as error:
        raise FolderError(f"{file} is damaged ({error}): export the model again") from None


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
