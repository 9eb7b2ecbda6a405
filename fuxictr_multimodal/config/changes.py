"""Which settings differ between two runs, by dotted key, as they are logged and named in errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


class _NotSet:
    def __str__(self) -> str:
        return "not set"


NOT_SET = _NotSet()


@dataclass(frozen=True)
class Change:
    """A setting with two values; one of them may be `NOT_SET`, which is not null.

    >>> str(Change("epochs", 2, NOT_SET))
    'epochs: 2 then, not set now'
    """

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.then} then, {self.now} now"


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """All settings that differ, mappings compared key by key; types that JSON does not tell apart are equal.

    >>> [str(change) for change in changes({"a": {"b": 1, "c": (2,)}}, {"a": {"b": 3, "c": [2]}, "d": None})]
    ['a.b: 1 then, 3 now', 'd: not set then, None now']
    """
    # Settings that were read from a report have been through JSON.
    return list(_changes(*json.loads(json.dumps([then, now])), prefix=""))


def _changes(then: Mapping[str, Any], now: Mapping[str, Any], *, prefix: str) -> Iterator[Change]:
    for key in dict.fromkeys([*then, *now]):
        old, new = then.get(key, NOT_SET), now.get(key, NOT_SET)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            yield Change(prefix + key, old, new)
