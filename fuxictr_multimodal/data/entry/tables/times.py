"""Times of events in any usual form to whole numbers of one unit, and their weekday and hour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError

# Units of a day in each unit of time; `d` are days.
PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000, "d": 1}
# The greatest time that is still in the unit: seconds up to the year 5138, and so on.
_LIMITS = (("s", 10**11), ("ms", 10**14), ("us", 10**17))
# Before 1973 in seconds: a counter rather than a date.
_LEAST_SECONDS = 10**8
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday; Monday is 0


@dataclass(frozen=True)
class Clock:
    """What times are: their unit (`s`, `ms`, `us`, `ns` or `d`), or None where they only count, as row numbers do."""

    unit: str | None

    def weekdays(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Weekday in UTC, 0 for Monday to 6, (N,).

        >>> Clock("s").weekdays(np.array([0, 4 * 86_400 - 1, 4 * 86_400])).tolist()
        [3, 6, 0]
        """
        return (times // PER_DAY[self._calendar()] + _EPOCH_WEEKDAY) % 7

    def hours(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Hour of the day in UTC, 0 to 23, (N,).

        >>> Clock("ms").hours(np.array([0, 3_599_999, 3_600_000, -1])).tolist()
        [0, 0, 1, 23]
        """
        day = PER_DAY[self._calendar()]
        return times % day * 24 // day

    def converted(self, times: NDArray[np.int64], to: Clock) -> NDArray[np.int64]:
        """The same times in the unit of another clock.

        Raises:
            DataError: one of both only counts.

        >>> Clock("ms").converted(np.array([5_999]), Clock("s")).tolist()
        [5]
        """
        if self.unit == to.unit or not len(times):
            return times
        if self.unit is None or to.unit is None:
            raise DataError("times that only count cannot be compared with dates: give them as in the training data")
        mine, other = PER_DAY[self.unit], PER_DAY[to.unit]
        return times * (other // mine) if other >= mine else times // (mine // other)

    @property
    def told(self) -> str:
        """The unit in a sentence: times are ...

        >>> Clock("ms").told, Clock(None).told
        ('in ms', 'whole numbers without a unit')
        """
        return f"in {self.unit}" if self.unit else "whole numbers without a unit"

    def text(self, time: int) -> str:
        """A time as people read it."""
        if self.unit is None:
            return str(time)
        values = pl.Series([time], dtype=pl.Int64)
        kind = pl.Date() if self.unit == "d" else pl.Datetime("ms")
        factor = {"s": 1000, "ms": 1, "d": 1}.get(self.unit)
        scaled = values * factor if factor else values // {"us": 1000, "ns": 1_000_000}[self.unit]
        return str(scaled.cast(pl.Int32).cast(kind)[0] if self.unit == "d" else scaled.cast(kind)[0])

    def _calendar(self) -> str:
        assert self.unit is not None, "a counter has no calendar"
        return self.unit


_DATETIMES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f%z")
# Times that only count, and how a dataset's metadata calls them in place of a unit.
COUNTER = Clock(None)
COUNT = "count"


class TimeReader:
    """Reads one column of times, piece by piece.

    Whole numbers stay as they are; dates are days; datetimes are counted in their own unit; texts are whole numbers or
    ISO dates and datetimes, all of the same kind.

    Args:
        where: file and column, for messages.
        unit: of whole numbers, or `COUNT`; by default it is recognised by their size.
        built: the unit that the build of a dataset recognised, of times that are compared with those of the dataset.
    """

    def __init__(self, where: str, unit: str | None = None, *, built: str | None = None) -> None:
        self._where = where
        self._given = unit or built
        # A unit that was recognised has a greatest time.
        self._limit = None if unit else dict(_LIMITS).get(built or "")
        self._unit: str | None = None
        self._kind: str | None = None
        self._most = 0

    def read(
        self, values: pl.Series, *, first_row: int = 0, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Times of the next rows, (N,) int64.

        Args:
            values: the next times, (N,).
            first_row: row that they begin with, for messages.
            rows: of each time where a row has several, (N,), counted from `first_row`; by default each has its own.

        Raises:
            DataError: a value is missing or is no time, or the column's type has no times.
        """
        if values.null_count():
            row = _row(values.is_null(), first_row, rows)
            raise DataError(
                f"{self._where}, row {row}: the time is missing, so that the event has no place in a history: fill it "
                "in or remove the row"
            )
        kind, times = self._parse(values, first_row, rows)
        if len(times) and kind != (self._kind or kind):
            raise DataError(f"{self._where}: times are {self._kind} first and {kind} from row {first_row}")
        if len(times):
            self._kind = kind
            if kind == "whole numbers":
                self._most = max(self._most, int(np.abs(times).max()))
                self._check_limit(times, first_row, rows)
        return times

    @property
    def clock(self) -> Clock:
        """The unit of the times that were read."""
        if self._kind != "whole numbers":
            return Clock(self._unit)
        unit = self._given or unit_of(self._most)
        return COUNTER if unit == COUNT else Clock(unit)

    @property
    def recognised(self) -> str | None:
        """The unit, or `COUNT`, that was recognised by the size of whole numbers; None where none was needed."""
        return (self.clock.unit or COUNT) if self.guessed else None

    @property
    def guessed(self) -> bool:
        """Whether the unit was recognised by size."""
        return self._kind == "whole numbers" and self._given is None

    def _check_limit(self, times: NDArray[np.int64], first_row: int, rows: NDArray[np.int64] | None) -> None:
        if self._limit is not None and self._most >= self._limit:
            at = int(np.argmax(np.abs(times)))
            row = first_row + (at if rows is None else int(rows[at]))
            raise DataError(
                f"{self._where}, row {row}: {times[at]} is too great for a time in {self._given}, the "
                "unit of the dataset's times: give times as in the training data, or as datetimes"
            )

    def _parse(
        self, values: pl.Series, first_row: int, rows: NDArray[np.int64] | None
    ) -> tuple[str, NDArray[np.int64]]:
        dtype = values.dtype
        if dtype.is_integer():
            whole = values.cast(pl.Int64, strict=False)
            if whole.null_count():
                row = _row(whole.is_null(), first_row, rows)
                raise DataError(f"{self._where}, row {row}: {values.filter(whole.is_null())[0]} is no time")
            return "whole numbers", whole.to_numpy()
        if dtype.is_float():
            numbers = values.to_numpy()
            wrong = ~np.isfinite(numbers) | (np.abs(numbers) >= 2**63)
            if wrong.any():
                row = _row(pl.Series(wrong), first_row, rows)
                raise DataError(f"{self._where}, row {row}: {numbers[wrong][0]} is no time")
            if (numbers != np.floor(numbers)).any():
                raise DataError(
                    f"{self._where} has fractions: give times as whole numbers, such as milliseconds, or datetimes"
                )
            return "whole numbers", numbers.astype(np.int64)
        if dtype == pl.Date:
            self._unit = "d"
            return "dates", values.cast(pl.Int32).cast(pl.Int64).to_numpy()
        if isinstance(dtype, pl.Datetime):
            self._unit = dtype.time_unit
            return "datetimes", values.cast(pl.Int64).to_numpy()
        if dtype == pl.String:
            return self._parse_text(values, first_row, rows)
        raise DataError(f"{self._where} holds {dtype}, but times are whole numbers, dates or datetimes")

    def _parse_text(
        self, values: pl.Series, first_row: int, rows: NDArray[np.int64] | None
    ) -> tuple[str, NDArray[np.int64]]:
        text = values.str.strip_chars()
        numbers = text.cast(pl.Int64, strict=False)
        if not numbers.null_count():
            return "whole numbers", numbers.to_numpy()
        wrong = numbers.is_null()
        if self._kind != "whole numbers" and wrong.all():
            found = _parsed(text)
            if not found.null_count():
                return self._parse(found, first_row, rows)
            wrong = found.is_null()
        row = _row(wrong, first_row, rows)
        raise DataError(
            f"{self._where}, row {row}: {values.filter(wrong)[0]!r} is no time: give whole numbers, or dates such as "
            "2026-01-31 or 2026-01-31 12:30:00, in every row alike"
        )


def _row(wrong: pl.Series, first_row: int, rows: NDArray[np.int64] | None) -> int:
    """The row of the first value that is wrong."""
    at = int(wrong.arg_max() or 0)
    return first_row + (at if rows is None else int(rows[at]))


def unit_of(most: int) -> str | None:
    """The unit of whole numbers by the greatest of them; None for a counter.

    >>> unit_of(1_700_000_000), unit_of(1_700_000_000_000), unit_of(5_000)
    ('s', 'ms', None)
    """
    if most < _LEAST_SECONDS:
        return None
    return next((unit for unit, limit in _LIMITS if most < limit), "ns")


def _parsed(text: pl.Series) -> pl.Series:
    """ISO dates, or datetimes to the microsecond (with a zone in UTC), in the form that fits; else what fits best."""
    best = text.str.to_date("%Y-%m-%d", strict=False)
    plain = text.str.replace("T", " ", literal=True)
    for form in _DATETIMES:
        if not best.null_count():
            break
        found = plain.str.replace("Z$", "+00:00") if form.endswith("%z") else plain
        found = found.str.to_datetime(form, strict=False, time_unit="us")
        best = min(best, found, key=pl.Series.null_count)
    return best
