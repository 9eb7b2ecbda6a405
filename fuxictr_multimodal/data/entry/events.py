"""Features of history events, encoded: age, weekday, hour, numbers in quantile bins, categories with a vocabulary.

Code 0 is a missing value, as padding is. The target has the matching feature: its own weekday, hour or value; where it
has none (it has no age) a code of its own. Everything that is learnt comes from the training split, and is kept as JSON
so that new samples are encoded equally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.tables.times import COUNTER, Clock
from fuxictr_multimodal.errors import DataError

Ints = NDArray[np.integer]
Kind = Literal["age", "weekday", "hour", "bins", "category"]
TIMES: tuple[Kind, ...] = ("age", "weekday", "hour")
CODES_OF_TIME = {"weekday": 7, "hour": 24}
AGE_BINS = 16
MOST_KEPT = 1 << 21
_FACTS = "event_features"


class EventSpec(Protocol):
    """What of an entry's `event_cols` says how to encode."""

    @property
    def name(self) -> str: ...
    @property
    def bins(self) -> int | None: ...
    @property
    def min_categr_count(self) -> int | None: ...


def kind_of(spec: EventSpec) -> Kind:
    """What kind of feature an entry of `event_cols` is: by its name, else by whether it has bins."""
    if spec.name in TIMES:
        return next(kind for kind in TIMES if kind == spec.name)
    return "category" if spec.bins is None else "bins"


@dataclass(frozen=True)
class EventFeature:
    """A feature of events, fitted.

    Attributes:
        name: name of its column.
        kind: what it is.
        clock: what the times are, for ages, weekdays and hours.
        boundaries: between the bins, increasing, for ages and numbers: a value that equals a boundary is above it.
        vocabulary: the categories in the order of their codes, as text.
    """

    name: str
    kind: Kind
    clock: Clock = COUNTER
    boundaries: NDArray[np.float64] | None = None
    vocabulary: tuple[str, ...] | None = None

    @property
    def values(self) -> int:
        """Number of codes of events, which are 1 to this number."""
        if self.boundaries is not None:
            return len(self.boundaries) + 1
        if self.vocabulary is not None:
            return len(self.vocabulary) + 1  # with the code of unknown categories
        return CODES_OF_TIME[self.kind]

    @property
    def vocab_size(self) -> int:
        """Size of the embedding: 0 for missing, the codes of events, and that of a target without a value."""
        return self.values + 2

    @property
    def tokens(self) -> dict[tuple[str, ...], int]:
        """What each code stands for: two builds of a dataset share a token that means the same.

        Every build has boundaries of its own: a bin is that of the same number among as many.

        >>> EventFeature("page", "category", vocabulary=("home",)).tokens
        {('missing',): 0, ('category', 'home'): 1, ('unknown',): 2, ('without value',): 3}
        """
        if self.vocabulary is not None:
            named = [*(("category", text) for text in self.vocabulary), ("unknown",)]
        else:
            named = [(self.kind, f"{number} of {self.values}") for number in range(1, self.values + 1)]
        return {token: code for code, token in enumerate([("missing",), *named, ("without value",)])}

    def column(self, **settings: Any) -> dict[str, Any]:
        """The feature as a column of `feature_cols`."""
        given = {name: value for name, value in settings.items() if value is not None}
        return {
            "name": self.name,
            "active": True,
            "dtype": "int",
            "type": "categorical",
            "source": "event",
            "vocab_size": self.vocab_size,
            **given,
        }

    def codes(self, values: NDArray | pl.Series) -> NDArray[np.int32]:
        """Codes of values, (N,) int32.

        Args:
            values: for an age the time between event and sample; for weekday and hour times; else the values
                themselves. Null and NaN are missing.
        """
        series = values if isinstance(values, pl.Series) else pl.Series(values=values)
        if self.kind == "category":
            return self._categories(series)
        # Dates and the like are handed over as whole numbers of the clock's unit.
        missing = series.is_null() | (series.is_nan() if series.dtype.is_float() else False)
        if self.kind in CODES_OF_TIME:
            times = series.fill_null(0).cast(pl.Int64).to_numpy()
            found = self.clock.weekdays(times) if self.kind == "weekday" else self.clock.hours(times)
        else:
            assert self.boundaries is not None
            numbers = series.cast(pl.Float64).fill_null(0).to_numpy()
            found = np.searchsorted(self.boundaries, numbers, side="right")
        codes = (found + 1).astype(np.int32)
        if missing.any():
            codes[missing.to_numpy()] = 0
        return codes

    def without_value(self, rows: int) -> NDArray[np.int32]:
        """Codes of targets that have no value, (rows,) int32."""
        return np.full(rows, self.values + 1, dtype=np.int32)

    def _categories(self, series: pl.Series) -> NDArray[np.int32]:
        assert self.vocabulary is not None
        distinct = series.unique()
        places = {category: code for code, category in enumerate(self.vocabulary, 1)}
        codes = [0 if value is None else places.get(value, len(places) + 1) for value in _as_text(distinct)]
        return series.replace_strict(distinct, codes, return_dtype=pl.Int32).to_numpy()

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        found: dict[str, Any] = {"kind": self.kind}
        if self.clock.unit is not None:
            found["time_unit"] = self.clock.unit
        if self.boundaries is not None:
            found["boundaries"] = self.boundaries.tolist()
        if self.vocabulary is not None:
            found["vocabulary"] = list(self.vocabulary)
        return found

    @classmethod
    def from_json(cls, name: str, stored: Mapping[str, Any]) -> EventFeature:
        """A feature as a dataset keeps it.

        Raises:
            DataError: it is damaged.
        """
        if stored.get("kind") not in get_args(Kind):
            raise DataError(f"event feature {name!r} is damaged: build the dataset again")
        boundaries, vocabulary = stored.get("boundaries"), stored.get("vocabulary")
        return cls(
            name,
            stored["kind"],
            Clock(stored.get("time_unit")),
            None if boundaries is None else np.array(boundaries, dtype=np.float64),
            None if vocabulary is None else tuple(vocabulary),
        )


def to_facts(features: Mapping[str, EventFeature]) -> dict[str, Any]:
    """The features by name as a manifest keeps them among its facts; nothing where there are none."""
    return {_FACTS: {name: feature.to_json() for name, feature in features.items()}} if features else {}


def from_facts(facts: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, EventFeature]:
    """Features that `to_facts` kept, by name: those of the names, or all.

    Raises:
        DataError: one is missing or damaged.
    """
    stored = facts.get(_FACTS, {})
    return {name: EventFeature.from_json(name, stored.get(name, {})) for name in (stored if names is None else names)}


class EventFitter:
    """Learns a feature from values of the training split, which come in pieces.

    Boundaries are quantiles of at most about two million of the values, evenly taken in their order; equal boundaries
    are one. Categories are ordered by their counts, then by their text.

    Args:
        spec: the feature's settings.
        where: what it belongs to, for messages.
        clock: what the times are.

    Raises:
        DataError: weekday or hour of times that only count.
    """

    def __init__(self, spec: EventSpec, *, where: str, clock: Clock = COUNTER) -> None:
        self._spec, self._where, self._clock = spec, where, clock
        self.kind = kind_of(spec)
        self._kept: list[NDArray[np.float64]] = []
        self._every, self._seen, self._size = 1, 0, 0
        self._counts: dict[str, int] = {}
        if self.kind in CODES_OF_TIME and clock.unit is None:
            raise DataError(
                f"{where}: the event feature {spec.name!r} needs dates, but the times are whole numbers that only "
                "count: set time_unit to s, ms, us or ns if they are times, or leave the feature out"
            )

    @property
    def learns(self) -> bool:
        """Whether values of the training split are needed at all."""
        return self.kind not in CODES_OF_TIME

    def add(self, values: NDArray | pl.Series) -> None:
        """Take the next values, as `EventFeature.codes` takes them.

        Raises:
            DataError: a number is infinite, or the column holds no numbers.
        """
        series = (values if isinstance(values, pl.Series) else pl.Series(values=values)).drop_nulls()
        if self.kind == "category":
            counts = series.value_counts()
            for category, count in zip(_as_text(counts.to_series(0)), counts.to_series(1), strict=True):
                self._counts[category] = self._counts.get(category, 0) + count
            return
        try:
            numbers = series.cast(pl.Float64).to_numpy()
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{self._where}: the event feature {self._spec.name!r} needs numbers, but its values are {series.dtype}"
            ) from None
        numbers = numbers[~np.isnan(numbers)]
        if np.isinf(numbers).any():
            raise DataError(f"{self._where}: the event feature {self._spec.name!r} has an infinite value")
        # Of all values that came, those at the places 0, every, 2 * every, ...
        kept = numbers[-self._seen % self._every :: self._every]
        self._seen += len(numbers)
        self._kept.append(kept)
        self._size += len(kept)
        if self._size > MOST_KEPT:
            self._kept, self._every = [np.concatenate(self._kept)[::2]], 2 * self._every
            self._size = len(self._kept[0])

    def fit(self) -> EventFeature:
        """The feature.

        Raises:
            DataError: there is no value to learn from.
        """
        name = self._spec.name
        if not self.learns:
            return EventFeature(name, self.kind, self._clock)
        if self.kind == "category":
            least = self._spec.min_categr_count or 1
            ordered = sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))
            vocabulary = tuple(category for category, count in ordered if count >= least)
            if not vocabulary:
                which = "" if least == 1 else f" that occurs {least} times"
                raise DataError(
                    f"{self._where}: the event feature {name!r} has no category{which} in the training split"
                )
            return EventFeature(name, self.kind, vocabulary=vocabulary)
        values = np.concatenate(self._kept) if self._kept else np.empty(0)
        if not len(values):
            raise DataError(f"{self._where}: the event feature {name!r} has no value in the training split")
        return EventFeature(name, self.kind, self._clock, quantile_boundaries(values, self._spec.bins or AGE_BINS))


def quantile_boundaries(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Boundaries of `bins` bins of equal counts, at most bins - 1; fewer where values repeat.

    A boundary is a value of the data, so no two of the bins are the same and none is empty.

    >>> quantile_boundaries(np.arange(8.0), 4).tolist()
    [2.0, 4.0, 6.0]
    >>> quantile_boundaries(np.array([1.0, 1.0, 1.0, 5.0]), 4).tolist()
    [5.0]
    """
    cuts = np.arange(1, bins) / bins
    found = np.unique(np.quantile(values, cuts, method="higher"))
    return found[found > values.min()]


def _as_text(series: pl.Series) -> pl.Series:
    return series if series.dtype == pl.String else series.cast(pl.String)
