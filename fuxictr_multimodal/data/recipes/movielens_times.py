"""When each film of a MovieLens history was rated: its age at the time of the sample, its weekday and its hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.entry.events import EventFitter, to_facts
from fuxictr_multimodal.data.entry.tables.times import Clock
from fuxictr_multimodal.data.recipes.histories import Timeline
from fuxictr_multimodal.data.recipes.movielens_recipe import Recipe

AGE, WEEKDAY, HOUR = "event_age", "event_weekday", "event_hour"  # `age` is that of the user
AGE_BINS = 16
CLOCK = Clock("s")


@dataclass(frozen=True)
class _Spec:
    """What `EventFitter` reads of a feature."""

    name: str
    bins: int | None = None
    min_categr_count: int | None = None


class EventTimes:
    """Event features of a recipe's histories.

    Ages are in quantile bins, whose boundaries come from training rows; a target has an age of its own. Weekday and
    hour are in UTC, since the raw files have no time zones.

    Args:
        recipe: of the download.
        history: as the recipe was given it.
    """

    def __init__(self, recipe: Recipe, *, history: str, max_len: int) -> None:
        self._times = recipe.times
        keep = recipe.labels == 1 if history == "liked" else np.ones(len(recipe.times), dtype=bool)
        # The same slices as the recipe's histories, with their times.
        timeline = Timeline(recipe.user_codes, recipe.times)
        self._history = timeline.history(recipe.items, keep, max_len=max_len, columns={"time": recipe.times})
        fitter = EventFitter(_Spec("age", AGE_BINS), where="MovieLens", clock=CLOCK)
        fitter.add(self._ages(np.flatnonzero(recipe.is_train)))
        self._age = fitter.fit()
        self._weekday = EventFitter(_Spec("weekday"), where="MovieLens", clock=CLOCK).fit()
        self._hour = EventFitter(_Spec("hour"), where="MovieLens", clock=CLOCK).fit()

    def _ages(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Seconds between each history event of some rows and its row, end to end, (N,)."""
        taken = self._history.take(rows)
        return taken.of_rows(self._times[rows]) - taken.column("time")

    def of_targets(self) -> dict[str, pl.Series]:
        """Columns of a rating, one entry per rating."""
        found = {
            AGE: self._age.without_value(len(self._times)),
            WEEKDAY: self._weekday.codes(self._times),
            HOUR: self._hour.codes(self._times),
        }
        return {name: pl.Series(name, values) for name, values in found.items()}

    def of_histories(self, rows: NDArray[np.integer]) -> dict[str, NDArray[np.int32]]:
        """Event features of the histories of some rows, end to end, each (N,)."""
        times = self._history.take(rows).column("time")
        return {
            AGE: self._age.codes(self._ages(rows)),
            WEEKDAY: self._weekday.codes(times),
            HOUR: self._hour.codes(times),
        }

    def facts(self) -> dict[str, Any]:
        """Metadata of the dataset: the features as `from_facts` reads them."""
        return to_facts({AGE: self._age, WEEKDAY: self._weekday, HOUR: self._hour})
