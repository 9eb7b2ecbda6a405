"""Numbers that a model would get unscaled and large: noticed while a dataset is built."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# Beyond this mean or standard deviation, a number drowns what it is added to or concatenated with.
LARGE = 10.0


@dataclass
class _Moments:
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: np.ndarray) -> None:
        wide = values.astype(np.float64)
        self.count += len(wide)
        self.total += float(wide.sum())
        self.squares += float(wide @ wide)

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)

    @property
    def std(self) -> float:
        return float(np.sqrt(max(self.squares / max(self.count, 1) - self.mean**2, 0.0)))


class NumberScales:
    """Means and standard deviations of the numeric columns without a `normalizer`.

    Args:
        feature_cols: complete columns of the dataset.
    """

    def __init__(self, feature_cols: Sequence[Mapping[str, Any]]) -> None:
        plain = [c["name"] for c in feature_cols if c["type"] == "numeric" and "normalizer" not in c]
        self._moments = {name: _Moments() for name in plain}

    def add(self, data: Mapping[str, np.ndarray]) -> None:
        """Take columns of training samples or of items, (rows,) each; those without interest are ignored."""
        for name, moments in self._moments.items():
            if name in data:
                moments.add(data[name])

    def warn(self, *, where: str) -> None:
        """Name the columns of large numbers in one warning."""
        large = [
            f"{name!r} (mean {moments.mean:.4g}, standard deviation {moments.std:.4g})"
            for name, moments in self._moments.items()
            if max(abs(moments.mean), moments.std) > LARGE
        ]
        if large:
            logger.warning(
                "%s: numbers without a scale spoil the training: %s. Give them `normalizer: StandardScaler`, or "
                "`type: categorical` with `category_processor: quantile_bucket`",
                where,
                ", ".join(large),
            )
