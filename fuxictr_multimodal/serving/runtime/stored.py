"""Reads keys of the JSON objects of an exported folder, each of the type that it must be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from .raw_values import MOST_INT64, shown

# No list of a request is longer, and no vector: memory is taken for all slots at once.
MOST_SLOTS = 10**6


def text(stored: Mapping[str, Any], key: str, known: Collection[str] = ()) -> str:
    """A text that is not empty, and one of `known` where they are given.

    Raises:
        ValueError: it is missing or something else; the message names the key, and the object by its `name`.

    >>> text({"padding": "pre"}, "padding", ("pre", "post"))
    'pre'
    """
    value = _of(stored, key)
    if not isinstance(value, str) or not value or (known and value not in known):
        raise _wrong(stored, key, f"one of {', '.join(known)}" if known else "a text")
    return value


def text_or_none(stored: Mapping[str, Any], key: str, known: Collection[str] = ()) -> str | None:
    """The same, or an empty text; None where it is null or not there."""
    value = stored.get(key)
    return value if value is None or value == "" else text(stored, key, known)


def whole(stored: Mapping[str, Any], key: str, *, least: int = 0, most: int = MOST_INT64) -> int:
    """A whole number from `least` to `most`. Raises ValueError as `text` does."""
    value = _of(stored, key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = "" if most == MOST_INT64 else f" to {most:,}"
        raise _wrong(stored, key, f"a whole number from {least}{limit}")
    return value


def real(stored: Mapping[str, Any], key: str) -> float:
    """A finite number. Raises ValueError as `text` does."""
    value = _of(stored, key)
    if not _is_real(value):
        raise _wrong(stored, key, "a finite number")
    return value


def reals(stored: Mapping[str, Any], key: str) -> list[float]:
    """Finite numbers that do not fall. Raises ValueError as `text` does."""
    values = _of(stored, key)
    if not isinstance(values, list) or not all(map(_is_real, values)) or sorted(values) != values:
        raise _wrong(stored, key, "a list of numbers in their order")
    return values


def tokens(stored: Mapping[str, Any], key: str) -> list[Any]:
    """Texts or whole numbers. Raises ValueError as `text` does."""
    return listed(stored, key, str, int)


def listed(stored: Mapping[str, Any], key: str, *types: type) -> list[Any]:
    """A list of values of some types. Raises ValueError as `text` does."""
    values = _of(stored, key)
    if not isinstance(values, list) or not set(map(type, values)) <= set(types):
        names = {str: "texts", int: "whole numbers", dict: "objects", type(None): "nulls"}
        raise _wrong(stored, key, f"a list of {' or '.join(names[one] for one in types)}")
    return values


def _is_real(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _of(stored: Mapping[str, Any], key: str) -> Any:
    if key not in stored:
        raise ValueError(f"{_named(stored, key)} is missing")
    return stored[key]


def _named(stored: Mapping[str, Any], key: str) -> str:
    return f"{key!r} of {shown(stored['name'])}" if key != "name" and "name" in stored else repr(key)


def _wrong(stored: Mapping[str, Any], key: str, wanted: str) -> ValueError:
    return ValueError(f"{_named(stored, key)} must be {wanted}, but it is {shown(stored[key])}")
