"""Texts that people write for dates and times, such as `31/01/2026 12:30`, which no reader can tell the order of."""

from __future__ import annotations

import polars as pl

_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2}(?:[.,]\d+)?)?(?: ?[ap]\.?m\.?)?"
_ZONE = r"(?: ?(?:z|[a-z]{2,4}|[+-]\d{2}:?\d{2}))?"
_DATES = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}",
    r"\d{1,2}[-/.]\d{1,2}[-/.]\d{4}",
    r"\d{1,2}/\d{1,2}/\d{2}",
    rf"{_DAY}[ /-]?{_MONTH}[ /,-]+\d{{2,4}}",
    rf"{_MONTH} ?{_DAY},? \d{{4}}",
)
# 1.2.3 may be a version, and is a date only with a time behind it.
_WITH_CLOCK = (*_DATES, r"\d{1,2}[-.]\d{1,2}[-.]\d{2}", r"\d{8}")
_PATTERN = (
    r"(?i)^\s*(?:[a-z]{3,9},? )?(?:"
    rf"(?:{'|'.join(_DATES)})|(?:{'|'.join(_WITH_CLOCK)})[t ,]+{_CLOCK}{_ZONE}|{_MONTH} {_DAY} {_CLOCK}{_ZONE} \d{{4}}"
    r")\s*$"
)
_EXAMINED = 2000


def remedy(texts: pl.Series) -> str:
    """How dates are to be written so that they are read as such."""
    iso = texts.head(_EXAMINED).str.contains(r"^\d{4}-\d\d-\d\d").all()
    return "looks like dates; " + ("store them as datetimes" if iso else "write them as 2026-01-31 12:30:00")


def are_dates(texts: pl.Series) -> bool:
    """Whether nearly all of some texts are dates, with or without a time of day.

    >>> are_dates(pl.Series(["31/01/2026 12:30", "1 Feb 2026"])), are_dates(pl.Series(["1.2.3", "10 12"]))
    (True, False)
    """
    sample = texts.head(_EXAMINED).str.contains(_PATTERN)
    return len(sample) > 0 and float(sample.cast(pl.Float64).to_numpy().mean()) >= 0.9
