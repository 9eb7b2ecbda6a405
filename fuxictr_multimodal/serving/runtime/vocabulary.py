"""What an exported model knows of raw values: `vocabulary.json`, and how it encodes requests and items.

    vocabulary = Vocabulary.read(path)
    vocabulary.context({"city": "rome", "hour": 5}, time=None)  # {column: (1, ...)}, event features of the target too
    vocabulary.events("history", {"time": [...]}, length=3, context={...}, time=...)  # {feature: codes (3,)}
    vocabulary.items([{"item_id": "x", "tags": [...]}])  # {feature: (n, ...)}
    vocabulary.ids, vocabulary.item_column, vocabulary.item_features
    vocabulary.request_columns, vocabulary.context_columns, vocabulary.event_columns

The values are those that the dataset's own encoders give for the same raw sample. Differences of a request to a file of
samples: features of users, which such a file may leave to `user_data`, come with the context; texts of an item
(`type: text`) were made vectors of the whole catalogue while the dataset was built, so that an item has its vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoders import Encoder, encoder_of
from .errors import FolderError, RequestError, did_you_mean
from .event_encoders import EventEncoder
from .ids import IdMap
from .raw_values import listed, shown
from .stored import listed as listed_of
from .stored import text, whole

FORMAT = 1
# Key of a history's `events` with the times of its items.
TIME = "time"


class Vocabulary:
    """Encodes requests and items.

    Args:
        content: of `vocabulary.json`; see `fuxictr_multimodal/serving/vocabulary.py`, which writes it.

    Attributes:
        request_columns: raw values that the context of every request must have.
        context_columns: what `context` gives: context columns, then event features of the target.
        event_columns: what `events` gives.
        item_column: of an item's id; empty in a dataset without items.
        item_features: what `items` gives: features of the item table that the model reads.
        ids: of the items by row, row 0 is None; None where an item's id is its row number.
        rows: number of rows of the item table, with padding; 0 without items.
        histories: of the dataset, the main one first; a model need not read all of them.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._context = [encoder_of(stored) for stored in listed_of(content, "context", dict)]
        self._events = [EventEncoder(stored) for stored in listed_of(content, "events", dict)]
        items = content["items"] or {}
        self.item_column = text(items, "column") if items else ""
        self.ids: list[str | int | None] | None = None
        if items.get("ids") is not None:
            self.ids = listed_of(items, "ids", str, int, type(None))
        self.rows = whole(items, "rows") if items else 0
        self.histories: tuple[str, ...] = tuple(content.get("histories", ()))
        self._features = [
            (text(one, "name"), _of_item(one)) for one in (listed_of(items, "features", dict) if items else ())
        ]
        self.item_features = tuple(name for name, _ in self._features)
        self.event_columns = tuple(event.name for event in self._events)
        self.context_columns = (*(one.name for one in self._context), *self.event_columns)
        needed = [one.source for one in self._context]
        needed += [one.column for one in self._events if one.column is not None and not one.of_request]
        self.request_columns = tuple(dict.fromkeys(needed))
        self._needed = frozenset(self.request_columns)
        optional = [one.column for one in self._events if one.column is not None]
        # Columns of the dataset that this model does not read may be there.
        self._known = self._needed | frozenset(optional) | frozenset(content.get("unread", ()))
        self._known_events = frozenset(content.get("unread_events", ())) | {TIME}

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read `vocabulary.json`.

        Raises:
            FolderError: the file is missing, damaged or of a newer format.
        """
        try:
            if Path(path).exists() and not Path(path).is_file():
                raise FolderError(f"{path} is no regular file: export the model again")
            content = json.loads(Path(path).read_bytes())
            if content["format"] != FORMAT:
                raise FolderError(
                    f"{path} has format {content['format']!r}, but this release reads {FORMAT}: export the model again"
                )
            return cls(content)
        except FileNotFoundError:
            raise FolderError(f"{path} is missing: export the model again") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, FolderError):
                raise
            raise FolderError(
                f"{path} is damaged ({error if isinstance(error, ValueError) else repr(error)}): export the model again"
            ) from None

    @cached_property
    def own_ids(self) -> IdMap:
        """Rows of the items at the time of the export.

        Raises:
            ValueError: the ids of `vocabulary.json` are no ids, or one is there twice.
        """
        return IdMap.of([None, *range(1, self.rows)] if self.ids is None else self.ids)

    def context(self, values: Mapping[str, Any], *, time: Any = None) -> dict[str, NDArray]:
        """Columns of one request as the model reads them, each (1, ...): int64 codes, float32 numbers.

        Args:
            values: raw values by the names of the user's files; None is a missing value. Columns of the dataset that
                the model does not read may be there.
            time: of the request: a whole number, or ISO text, as in the training data.

        Raises:
            RequestError: a column is missing, unknown or wrong.
        """
        if not values.keys() <= self._known:
            name = next(name for name in values if name not in self._known)
            raise RequestError(f"context: column {shown(name)} is unknown{did_you_mean(name, self.request_columns)}")
        if not self._needed <= values.keys():
            missing = next(name for name in self.request_columns if name not in values)
            raise RequestError(f"context: column {missing!r} is missing")
        found: dict[str, NDArray] = {one.name: one.encode_many((values[one.source],)) for one in self._context}
        for event in self._events:
            found[event.name] = np.array([event.target(context=values, time=time)], np.int64)
        return found

    def events(
        self,
        behaviour: str,
        values: Mapping[str, Any],
        *,
        length: int,
        context: Mapping[str, Any] | None = None,
        time: Any = None,
    ) -> dict[str, NDArray[np.int64]]:
        """Codes of the events of one history by feature, each (length,).

        Args:
            behaviour: name of the history.
            values: lists beside the history: `time` for ages, weekdays and hours, else by the name of the feature.
            length: of the history as the request has it.
            context: of the request, which may hold its time.
            time: of the request.

        Raises:
            RequestError: a list is missing, unknown, of another length or wrong.
        """
        if not isinstance(values, Mapping):
            raise RequestError(f"events of {behaviour!r}: {shown(values)} is no mapping of names to lists")
        keys = {event.name: event.reads.get(behaviour) for event in self._events}
        known = self._known_events | {key for key in keys.values() if key is not None}
        lists: dict[str, Sequence[Any]] = {}
        for name, given in values.items():
            what = f"events of {behaviour!r}"
            if name not in known:
                raise RequestError(f"{what}: {shown(name)} is unknown{did_you_mean(name, known)}")
            found = listed(given)
            if found is None:
                raise RequestError(f"{what}: {name!r} must be a list, but it is {shown(given)}")
            if len(found) != length:
                raise RequestError(f"{what}: {name!r} has {len(found)} values for {length} items of the history")
            lists[name] = found
        codes: dict[str, NDArray[np.int64]] = {}
        for event in self._events:
            key = keys[event.name]
            if key is None or not length:
                codes[event.name] = np.zeros(length, np.int64)
                continue
            if key not in lists:
                raise RequestError(f"events of {behaviour!r}: {key!r} is missing: the model reads {event.name!r}")
            what = f"events of {behaviour!r}, {key!r}"
            codes[event.name] = event.codes(lists[key], what, context=context or {}, time=time)
        return codes

    def items(self, values: Sequence[Mapping[str, Any]]) -> dict[str, NDArray]:
        """Features of items as the item table holds them, each (n, ...): int64 codes, float32 numbers.

        The feature that is the item's own id is its row; 0 for an item that the model was not trained with.

        Args:
            values: of each item, raw features by the names of the user's item file, with its id; None is a missing
                value. Columns that the model does not read are left out.

        Raises:
            RequestError: a feature is missing or wrong; the message names the item.
        """
        found: dict[str, NDArray] = {}
        for name, encoder in self._features:
            if encoder is None:
                keys = self.own_ids.keys([value.get(self.item_column) for value in values], what=self.item_column)
                found[name] = np.maximum(self.own_ids.rows(keys), 0)
                continue
            for value in values:
                if encoder.source not in value:
                    there = ", ".join(one if isinstance(one, str) else shown(one) for one in value)
                    item = shown(value.get(self.item_column))
                    raise RequestError(f"item {item}: column {encoder.source!r} is missing; it has {there}")
            try:
                found[name] = encoder.encode_many([value[encoder.source] for value in values])
            except RequestError:
                self._name_item(encoder, values)
                raise
        return found

    def _name_item(self, encoder: Encoder, values: Sequence[Mapping[str, Any]]) -> None:
        """Raise the error of the first item that is wrong, with its id."""
        for value in values:
            try:
                encoder.encode(value[encoder.source])
            except RequestError as error:
                raise RequestError(f"item {shown(value.get(self.item_column))}: {error}") from None


def _of_item(stored: Mapping[str, Any]) -> Encoder | None:
    """The encoder of an item feature; None for the item's own id."""
    return None if text(stored, "kind") == "item" else encoder_of(stored)
