"""Times of requests in any usual form to whole numbers of one unit, and their weekday and hour in UTC.

Whole numbers count in a unit; dates such as `2026-01-31` are days, datetimes such as `2026-01-31 12:30:00` (ISO, with a
zone or in UTC) microseconds. Units are `s`, `ms`, `us`, `ns` and `d`; None are times that only count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .raw_values import MOST_INT64, plain, shown, whole_number
from .stored import text_or_none, whole

PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000, "d": 1}
# Units of whole numbers by their size: seconds up to the year 5138, and so on.
LIMITS = {"s": 10**11, "ms": 10**14, "us": 10**17}
# Before 1973 in seconds: a counter rather than a date.
LEAST_SECONDS = 10**8
# The last year of a whole number whose unit is known: a later one is rather of a finer unit, such as JavaScript's ms.
LAST_YEAR = 2200
_DAYS_OF_LAST = (date(LAST_YEAR + 1, 1, 1) - date(1970, 1, 1)).days
COUNT = "count"
EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TimeForm:
    """How whole numbers count that are times.

    Attributes:
        unit: theirs, or `count`; None where it is recognised by their size.
        limit: a time from which on they cannot be in this unit; None where any can.
    """

    unit: str | None = None
    limit: int | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> TimeForm:
        """The form as JSON holds it."""
        limit = whole(stored, "limit") if stored.get("limit") is not None else None
        return cls(text_or_none(stored, "unit", (*PER_DAY, COUNT)), limit)

    def read(self, values: Sequence[Any], to: str | None, what: str) -> NDArray[np.int64]:
        """Times in a unit, (n,).

        Args:
            values: whole numbers, dates or datetimes, all alike; text or objects of Python.
            to: the unit; None for times that only count.
            what: they are, for messages.

        Raises:
            RequestError: a value is missing or no time, or they are not alike.

        >>> TimeForm("s").read([1_700_000_000], "s", "time"), TimeForm().read(["2023-11-14T22:13:20Z"], "s", "time")
        (array([1700000000]), array([1700000000]))
        """
        if not len(values):
            return np.zeros(0, np.int64)
        times, found = self._parsed(values, what)
        if found == to:
            return times
        if found is None or to is None:
            wanted = (
                "only count: give a whole number as they are"
                if to is None
                else "are dates: give a date such as 2026-01-31 or 2026-01-31 12:30:00"
            )
            raise RequestError(
                f"{what}: {shown(values[0])} cannot be compared with the times of the training data, which {wanted}"
            )
        mine, other = PER_DAY[found], PER_DAY[to]
        return times * (other // mine) if other >= mine else times // (mine // other)

    def _parsed(self, values: Sequence[Any], what: str) -> tuple[NDArray[np.int64], str | None]:
        """Times, and their unit."""
        if set(map(type, values)) == {int}:
            return self._whole(values, what)
        parsed = [_parsed(value, what) for value in values]
        kinds = {kind for _, kind in parsed}
        times = [time for time, _ in parsed]
        if len(kinds) > 1:
            raise RequestError(f"{what}: times are not alike: give whole numbers, dates or datetimes only")
        if kinds == {COUNT}:
            return self._whole(times, what)
        return np.array(times, np.int64), kinds.pop()

    def _whole(self, values: Sequence[int], what: str) -> tuple[NDArray[np.int64], str | None]:
        most = max(max(values), -min(values))
        if most > MOST_INT64:
            raise RequestError(f"{what}: {shown(most)} is no time")
        if self.unit in PER_DAY and max(values) >= _DAYS_OF_LAST * PER_DAY[self.unit]:
            raise RequestError(
                f"{what}: {max(values)} is after the year {LAST_YEAR} in {self.unit}, the unit of the training data: "
                f"give it in {self.unit}, or as an ISO date"
            )
        if self.limit is not None and most >= self.limit:
            raise RequestError(
                f"{what}: {most} is too great for a time in {self.unit}, the unit of the dataset's times: give times "
                "as in the training data, or as datetimes"
            )
        unit = self.unit or unit_of(most)
        return np.array(values, np.int64), None if unit == COUNT else unit


def unit_of(most: int) -> str:
    """The unit of whole numbers by the greatest of them, or `count`.

    >>> unit_of(1_700_000_000), unit_of(1_700_000_000_000), unit_of(5_000)
    ('s', 'ms', 'count')
    """
    if most < LEAST_SECONDS:
        return COUNT
    return next((unit for unit, limit in LIMITS.items() if most < limit), "ns")


def weekdays(times: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """0 for Monday to 6, (n,)."""
    return (times // PER_DAY[unit] + EPOCH_WEEKDAY) % 7


def hours(times: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """0 to 23, (n,)."""
    day = PER_DAY[unit]
    return times % day * 24 // day


def _parsed(value: Any, what: str) -> tuple[int, str]:
    """One time as a number of its unit; the unit is `count` for whole numbers."""
    if isinstance(value, np.datetime64):
        value = str(value)
    value = plain(value)
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        value = _of_text(value.strip(), what)
    if isinstance(value, datetime):
        # Of pandas: a time that is missing, which equals nothing.
        if value != value:
            raise RequestError(f"{what}: the time is missing")
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(microseconds=1), "us"
    if isinstance(value, date):
        return (value - _EPOCH.date()).days, "d"
    if value is None or isinstance(value, bool):
        raise RequestError(f"{what}: {'the time is missing' if value is None else f'{value} is no time'}")
    number = whole_number(value, what)
    assert number is not None
    return number, COUNT


def _of_text(text: str, what: str) -> date:
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else datetime.fromisoformat(_with_offset(text))
    except ValueError:
        raise RequestError(
            f"{what}: {shown(text)} is no time: give whole numbers, or dates such as 2026-01-31 or 2026-01-31 12:30:00"
        ) from None


def _with_offset(text: str) -> str:
    # Python before 3.11 does not know the letter.
    return f"{text[:-1]}+00:00" if text.endswith("Z") else text
