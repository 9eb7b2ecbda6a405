"""Raw values of requests and items as plain Python values, read as a dataset's own files are: numbers, texts, lists.

A value of numpy is the Python value that it holds. A text of a number counts as that number, and an empty one as a
missing value, as in a csv file.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import RequestError

# Whole numbers beyond are not exact in a float.
EXACT_FLOAT = 2**53
MOST_INT64 = 2**63 - 1
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_SHOWN = 60
# More digits are no number of 64 bits.
_MOST_DIGITS = 40


def shown(value: Any) -> str:
    """A value in a message: one line, cut where it is long."""
    try:
        text = " ".join(repr(value).splitlines())
    # Python writes no whole number of thousands of digits, and a class of a caller may have any fault.
    except Exception:
        text = f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def plain(value: Any) -> Any:
    """The Python value of a numpy scalar; other values as they are."""
    return value.item() if isinstance(value, np.generic) else value


def whole_number(value: Any, what: str) -> int | None:
    """A whole number of 64 bits; None for a missing value.

    Args:
        value: of the caller.
        what: the column, for the message.

    Raises:
        RequestError: it is no whole number.

    >>> whole_number(7, "hour"), whole_number(" 7 ", "hour"), whole_number(7.0, "hour"), whole_number("", "hour")
    (7, 7, 7, None)
    """
    found = value = plain(value)
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _WHOLE.fullmatch(text) and len(text) <= _MOST_DIGITS:
            found = int(text)
        elif _NUMBER.fullmatch(text):
            found = float(text)
    if isinstance(found, float) and abs(found) < EXACT_FLOAT and found.is_integer():
        found = int(found)
    if found is None:
        return None
    if not isinstance(found, int) or abs(found) > MOST_INT64:
        raise RequestError(f"{what}: {shown(value)} is no whole number")
    return int(found)


def number(value: Any, what: str) -> float | None:
    """A finite number; None for a missing value.

    Raises:
        RequestError: it is no number, or not a finite one.
    """
    found = value = plain(value)
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _NUMBER.fullmatch(text):
            found = float(text)
    if found is None:
        return None
    if not isinstance(found, int | float):
        raise RequestError(f"{what}: {shown(value)} is no number")
    try:
        found = float(found)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise RequestError(f"{what}: {shown(value)} is not a finite number")
    return found


def token(value: Any, what: str, *, whole: bool = False) -> str | None:
    """A category as text; None for a missing value.

    Args:
        value: text, or a number.
        what: the column, for the message.
        whole: whether 5.0 is the category "5"; else it is "5.0".

    Raises:
        RequestError: it is neither text nor a number.

    >>> token("a", "tags"), token(5, "tags"), token(5.0, "tags"), token(5.0, "tags", whole=True), token(True, "tags")
    ('a', '5', '5.0', '5', 'true')
    """
    if isinstance(value, str):
        return str(value)
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python writes no more than some thousands of digits.
        with contextlib.suppress(ValueError):
            return str(value)
    if isinstance(value, float) and math.isfinite(value):
        if whole and value.is_integer() and abs(value) < EXACT_FLOAT:
            return str(int(value))
        text = repr(value)
        # Files write these in several forms, each of which would be another category.
        if "e-" not in text:
            return text
    raise RequestError(f"{what}: {shown(value)} is no category; categories are texts or whole numbers")


def listed(value: Any) -> Sequence[Any] | None:
    """The values of a list, a tuple, an array of one dimension or a column; None for anything else."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray) and value.ndim != 1:
        return None
    for name in ("tolist", "to_list"):
        if hasattr(value, name) and not isinstance(value, np.generic):
            return getattr(value, name)()
    return None
