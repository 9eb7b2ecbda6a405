"""Times of every usual form, their unit, weekday and hour against the standard library."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry.tables.times import COUNTER, PER_DAY, Clock, TimeReader, unit_of
from fuxictr_multimodal.errors import DataError

MOMENT = dt.datetime(2026, 1, 31, 12, 30, 15)
SECONDS = 1_769_862_615


def read(*pieces: pl.Series, unit: str | None = None):
    reader = TimeReader("log.csv: column 'ts'", unit)
    times = [reader.read(piece, first_row=1) for piece in pieces]
    return np.concatenate(times).tolist(), reader.clock


@pytest.mark.parametrize(
    ("values", "times", "unit"),
    [
        (pl.Series([SECONDS]), [SECONDS], "s"),
        (pl.Series([SECONDS * 1000], dtype=pl.UInt64), [SECONDS * 1000], "ms"),
        (pl.Series([SECONDS * 10**6]), [SECONDS * 10**6], "us"),
        (pl.Series([SECONDS * 10**9]), [SECONDS * 10**9], "ns"),
        (pl.Series([float(SECONDS)]), [SECONDS], "s"),
        (pl.Series([3, 1, 2], dtype=pl.Int8), [3, 1, 2], None),
        (pl.Series([MOMENT], dtype=pl.Datetime("ms")), [SECONDS * 1000], "ms"),
        (pl.Series([MOMENT], dtype=pl.Datetime("ns", "UTC")), [SECONDS * 10**9], "ns"),
        (pl.Series([MOMENT.date()]), [SECONDS // 86_400], "d"),
        (pl.Series([f" {SECONDS}"]), [SECONDS], "s"),
        (pl.Series(["2026-01-31"]), [SECONDS // 86_400], "d"),
        (pl.Series(["2026-01-31 12:30:15"]), [SECONDS * 10**6], "us"),
        (pl.Series(["2026-01-31T12:30:15.250"]), [SECONDS * 10**6 + 250_000], "us"),
        (pl.Series(["2026-01-31T13:30:15+01:00"]), [SECONDS * 10**6], "us"),
        (pl.Series(["2026-01-31T12:30:15Z"]), [SECONDS * 10**6], "us"),
    ],
)
def test_times_are_read_in_their_own_unit(values, times, unit):
    assert read(values) == (times, Clock(unit))


def test_a_given_unit_is_taken():
    assert read(pl.Series([5_000]), unit="ms")[1] == Clock("ms")


def test_the_unit_of_a_build_is_that_of_later_times():
    units = []
    for times in ([SECONDS], [5, 99_999_999]):
        built = TimeReader("log.csv", None)
        built.read(pl.Series(times))
        later = TimeReader("new.csv", built=built.recognised)
        assert later.read(pl.Series([1, 10**10])).tolist() == [1, 10**10]
        assert later.clock == built.clock
        assert later.recognised is None
        units.append(built.recognised)
    assert units == ["s", "count"]
    # A unit that was given, or dates, need no recognition.
    for times, unit in ((pl.Series([5]), "s"), (pl.Series([MOMENT]), None)):
        reader = TimeReader("log.csv", unit)
        reader.read(times)
        assert reader.recognised is None


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([pl.Series([1, None])], r"log.csv: column 'ts', row 2: the time is missing, so that the event has no place"),
        ([pl.Series(["1", "x"])], r"row 2: 'x' is no time: give whole numbers, or dates such as 2026-01-31"),
        ([pl.Series(["2026-01-31", "31.1.2026"])], r"row 2: '31.1.2026' is no time"),
        ([pl.Series([0.5])], r"has fractions: give times as whole numbers"),
        ([pl.Series([float("inf")])], r"row 1: inf is no time"),
        ([pl.Series([True])], r"holds Boolean, but times are whole numbers, dates or datetimes"),
        ([pl.Series(["5"]), pl.Series(["2026-01-31"])], r"row 1: '2026-01-31' is no time"),
        ([pl.Series(["2026-01-31"]), pl.Series(["5"])], r"times are dates first and whole numbers from row 1"),
    ],
)
def test_what_is_no_time_is_named(pieces, message):
    with pytest.raises(DataError, match=message):
        read(*pieces)


@given(st.datetimes(dt.datetime(1931, 1, 1), dt.datetime(2200, 1, 1)), st.sampled_from([*PER_DAY]))
def test_weekday_and_hour_are_those_of_the_calendar(moment, unit):
    since = moment - dt.datetime(1970, 1, 1)
    time = np.array([since // dt.timedelta(days=1) if unit == "d" else since // dt.timedelta(microseconds=1)])
    if unit in ("s", "ms"):
        time //= {"s": 10**6, "ms": 10**3}[unit]
    time *= 1000 if unit == "ns" else 1
    clock = Clock(unit)
    assert clock.weekdays(time).tolist() == [moment.weekday()]
    assert clock.hours(time).tolist() == [0 if unit == "d" else moment.hour]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_as_text(unit):
    assert Clock(unit).text(SECONDS * PER_DAY[unit] // 86_400).startswith("2026-01-31 12:30:15")
    assert Clock("d").text(SECONDS // 86_400) == "2026-01-31"
    assert COUNTER.text(17) == "17"


def test_the_unit_of_whole_numbers_is_told_by_their_size():
    found = {unit_of(SECONDS * factor) for factor in (1,)} | {unit_of(10**9), unit_of(4 * 10**9)}
    assert found == {"s"}
    assert unit_of(10**7) is None
