"""What FuxiCTR's encoders are fitted on, from an item table and how often each item occurs in training.

The statistics are those of the training samples joined with the item columns, without the join.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.store.token_codes import exploded

COUNT = "__count"


def weighted_statistics(
    items: pl.DataFrame, counts: NDArray[np.integer], columns: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Statistics of raw item columns by name, in the form of FuxiCTR's `_collect_statistics`.

    Args:
        items: preprocessed columns, one row an item; sequences are text.
        counts: occurrences of each item among the targets of training samples, (items,).
        columns: the columns to fit, of types categorical, sequence and numeric.
    """
    weights = pl.Series(COUNT, counts, dtype=pl.Int64)
    seen = items.with_columns(weights).filter(pl.col(COUNT) > 0)
    return {column["name"]: _statistics(seen, column) for column in columns}


def _statistics(seen: pl.DataFrame, column: Mapping[str, Any]) -> dict[str, Any]:
    name = column["name"]
    if column["type"] == "numeric":
        there = seen.select(pl.col(name).cast(pl.Float64), COUNT).drop_nulls()
        return number_statistics(there[name].to_numpy(), there[COUNT].to_numpy())
    if column["type"] == "categorical":
        return {"value_counts": _value_counts(seen.select(value=name, count=COUNT))}
    lists = seen.select(value=pl.col(name).str.split(column.get("splitter", "^")), count=COUNT)
    lengths = lists["value"].list.len().to_numpy()
    return {"value_counts": _value_counts(exploded(lists)), "max_len": int(lengths.max(initial=0))}


def number_statistics(values: NDArray[np.float64], counts: NDArray[np.integer] | None = None) -> dict[str, Any]:
    """Least, greatest, mean, standard deviation (ddof 0) and number of values, each occurring `counts` times.

    >>> number_statistics(np.array([0.1, 0.1, 0.1]))["std"]
    0.0
    """
    if not len(values):
        return {"min": None, "max": None, "mean": float("nan"), "std": float("nan"), "count": 0}
    low, high = float(values.min()), float(values.max())
    count = len(values) if counts is None else int(counts.sum())
    if low == high:  # the mean of equal numbers is rounded, and their deviation from it would be taken for a scale
        return {"min": low, "max": high, "mean": low, "std": 0.0, "count": count}
    mean = float(values.mean() if counts is None else np.average(values, weights=counts))
    std = float(values.std() if counts is None else np.sqrt(np.average((values - mean) ** 2, weights=counts)))
    return {"min": low, "max": high, "mean": mean, "std": std, "count": count}


def _value_counts(values: pl.DataFrame) -> dict[Any, int]:
    counted = values.drop_nulls().group_by("value").agg(pl.col("count").sum())
    return dict(zip(counted["value"].to_list(), counted["count"].to_list(), strict=True))
