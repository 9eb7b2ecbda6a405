"""Features of history events, and the matching ones of the target, to the codes that a model reads.

An event encoder is a JSON object of `vocabulary.json`:

| key | means |
|---|---|
| `name`, `kind` | the feature: `age`, `weekday`, `hour`, `bins`, `category`, or `encoded` (codes as they are) |
| `unit` | of the times that ages, weekdays and hours are computed of; null where they only count |
| `boundaries`, `tokens`, `vocab_size` | of ages and `bins`; of `category`; of `encoded` |
| `without_value` | code of a target that has no value |
| `reads` | by the name of a history, the key of a request's `events` that is read; null where it has none |
| `column` | of the context with the target's own value or time; null where the target has none |
| `times`, `column_times` | form of whole numbers that are times, of the events and of `column` |
| `of_request` | whether the request's `time` stands in for `column` |

Code 0 is a missing value, as padding is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .raw_values import number, shown, token, whole_number
from .stored import reals, text, text_or_none, tokens, whole
from .times import PER_DAY, TimeForm, hours, weekdays

TIMES = ("age", "weekday", "hour")
KINDS = (*TIMES, "bins", "category", "encoded")


class EventEncoder:
    """Encodes one feature of events.

    Args:
        stored: the encoder as JSON.

    Attributes:
        name: of the feature, which is also the column of the target's code.
        reads: key of a request's `events`, by history.
        column: of the context; None where the target has no value of its own.
        of_request: whether the request's time stands in for the column.
    """

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.name = text(stored, "name")
        self.kind = text(stored, "kind", KINDS)
        self.reads = _reads(stored)
        self.column = text_or_none(stored, "column")
        self.of_request: bool = stored.get("of_request", False)
        self._unit = text_or_none(stored, "unit", PER_DAY)
        if self._unit is None and self.kind in ("weekday", "hour"):
            raise ValueError(f"'unit' of {self.name!r} is missing: weekdays and hours are of dates")
        self._boundaries = reals(stored, "boundaries") if stored.get("boundaries") else []
        self._bins = np.array(self._boundaries, np.float64)
        self._tokens = {
            one: code for code, one in enumerate(tokens(stored, "tokens") if stored.get("tokens") else (), 1)
        }
        self._size = whole(stored, "vocab_size") if self.kind == "encoded" else 0
        self._without = whole(stored, "without_value") if "without_value" in stored else 0
        self._form = TimeForm.of(stored.get("times") or {})
        self._column_form = TimeForm.of(stored.get("column_times") or {})

    def codes(
        self, values: Sequence[Any], what: str, *, context: Mapping[str, Any], time: Any = None
    ) -> NDArray[np.int64]:
        """Codes of the events of one history, (n,).

        Args:
            values: of the events: their times, or their values; not empty.
            what: they are, for messages.
            context: of the request.
            time: of the request.

        Raises:
            RequestError: a value is wrong, or the request has no time for ages.
        """
        if self.kind in TIMES:
            times = self._form.read(values, self._unit, what)
            if self.kind == "age":
                return np.searchsorted(self._bins, self._now(context, time) - times, side="right") + 1
            return self._of_calendar(times)
        return np.fromiter((self._code(value, what) for value in values), np.int64, len(values))

    def target(self, *, context: Mapping[str, Any], time: Any = None) -> int:
        """Code of the target.

        Raises:
            RequestError: its value or time is missing or wrong.
        """
        if self.column is None or self.kind == "age":
            return self._without
        if self.kind in TIMES:
            return int(self._of_calendar(np.array([self._now(context, time)], np.int64))[0])
        if self.column not in context:
            raise RequestError(f"context: column {self.column!r} is missing")
        return self._code(context[self.column], f"column {self.column!r}")

    def _of_calendar(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        assert self._unit is not None, "weekdays and hours are of dates"
        return (weekdays if self.kind == "weekday" else hours)(times, self._unit) + 1

    def _now(self, context: Mapping[str, Any], time: Any) -> int:
        """The time of the sample."""
        own = None if self.column is None else context.get(self.column)
        if own is not None:
            return int(self._column_form.read([own], self._unit, f"column {self.column!r}")[0])
        if time is None or not self.of_request:
            also = "" if self.column is None else f", or its column {self.column!r} in the context"
            raise RequestError(f"the request needs its `time`{also}: the model reads {self.name!r}")
        return int(self._column_form.read([time], self._unit, "time")[0])

    def _code(self, value: Any, what: str) -> int:
        if self.kind == "category":
            key = token(value, what)
            return 0 if key is None else self._tokens.get(key, len(self._tokens) + 1)
        if self.kind == "bins":
            found = number(value, what)
            return 0 if found is None else bisect_right(self._boundaries, found) + 1
        code = whole_number(value, what)
        if code is None or not 0 <= code < self._size:
            raise RequestError(f"{what}: {shown(value)} is not a code of {self.name!r}, 0 to {self._size - 1}")
        return code


def _reads(stored: Mapping[str, Any]) -> Mapping[str, str | None]:
    found = stored.get("reads")
    if not isinstance(found, dict) or not all(isinstance(one, str | None) for one in found.values()):
        raise ValueError(f"'reads' of {stored['name']!r} must map histories to texts, but it is {shown(found)}")
    return found
