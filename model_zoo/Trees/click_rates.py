"""Click rates of the values of a column in train; a sample of train reads those of the other folds.

The fold of a sample is a hash of its user, its target and its columns, not of its label: flipping a label changes none
of the features of its fold, its own among them. Leaving out the sample alone would not do: of two samples with the same
value the clicked one would see one click fewer, which gives its label away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_zoo.Trees.hashing import FOLDS

# Samples of the mean rate that each value has beside its own.
PRIOR = 20.0
# Where the clicks of the values vary less than half as much as chance would make them, each click came with a fixed
# number of drawn negatives: the rate says nothing, and the other samples of a value give a label away.
LEAST_DISPERSION = 0.5
# The fraction of the samples of valid whose value must be known from train.
LEAST_KNOWN = 0.5
# Samples of train a value of a context column, on average. Users and the like have fewer: other features, such as bins
# of a user's clicks, tell such values apart, and then the rate in the other folds gives away that in the own one.
LEAST_SAMPLES = 50


@dataclass(frozen=True)
class ClickRates:
    """Clicks and samples of each value of one column by fold.

    Attributes:
        values: that occur in train, ascending, (V,).
        clicks: (FOLDS, V).
        shown: (FOLDS, V).
    """

    values: NDArray
    clicks: NDArray
    shown: NDArray

    @classmethod
    def of(cls, values: NDArray, labels: NDArray, folds: NDArray) -> ClickRates:
        """Count a column of train, its labels and folds, each (samples,)."""
        known, place = np.unique(values, return_inverse=True)
        cell = folds * len(known) + place
        shape = (FOLDS, len(known))
        clicks = np.bincount(cell, labels, minlength=FOLDS * len(known)).reshape(shape)
        return cls(known, clicks, np.bincount(cell, minlength=FOLDS * len(known)).reshape(shape))

    @property
    def dispersion(self) -> float:
        """Variance of the clicks of the values over that of chance; 0 where no value has two samples."""
        shown, clicks = self.shown.sum(axis=0), self.clicks.sum(axis=0)
        mean = clicks.sum() / max(shown.sum(), 1)
        many = shown > 1
        chance = shown[many] * mean * (1 - mean)
        return float((((clicks[many] - shown[many] * mean) ** 2).sum()) / max(chance.sum(), 1e-12))

    def known_fraction(self, values: NDArray) -> float:
        """The fraction of samples whose value occurs in train."""
        return float(np.isin(values, self.values).mean()) if len(values) else 0.0

    def rates(self, values: NDArray, folds: NDArray | None) -> tuple[NDArray, NDArray]:
        """The smoothed click rate of each value, and its samples, each (B,).

        Args:
            values: of the column, (B,).
            folds: of samples of train, (B,): their own one is left out, and samples are scaled to all. None of others.
        """
        place = np.minimum(np.searchsorted(self.values, values), len(self.values) - 1)
        known = self.values[place] == values

        def others(counts: NDArray) -> tuple[NDArray, NDArray]:
            of_value, every = counts.sum(axis=0)[place], np.asarray(counts.sum())
            if folds is not None:
                of_value, every = of_value - counts[folds, place], every - counts.sum(axis=1)[folds]
            return np.where(known, of_value, 0), every

        clicks, all_clicks = others(self.clicks)
        shown, all_shown = others(self.shown)
        mean = all_clicks / np.maximum(all_shown, 1)
        scale = 1 if folds is None else FOLDS / (FOLDS - 1)
        return (clicks + PRIOR * mean) / (shown + PRIOR), shown * scale


def fitting(
    columns: Mapping[str, ClickRates], valid: Mapping[str, NDArray], *, of_context: Collection[str] = ()
) -> dict[str, ClickRates]:
    """The columns whose rates say something, and are known of enough samples of valid.

    Args:
        columns: counts of train.
        valid: values of the samples of valid.
        of_context: columns that are no feature of the target.
    """
    return {
        name: rates
        for name, rates in columns.items()
        if rates.dispersion >= LEAST_DISPERSION
        and rates.known_fraction(valid[name]) >= LEAST_KNOWN
        and (name not in of_context or rates.shown.sum() >= LEAST_SAMPLES * len(rates.values))
    }
