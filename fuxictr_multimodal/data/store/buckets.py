"""Numbers in quantile bins and values in hash buckets: what FuxiCTR's `category_processor` names and cannot do.

Code 0 is padding, buckets are numbered from 1, and the last code is for what is missing. The state of a column is JSON,
kept in the manifest.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError

PROCESSORS = ("quantile_bucket", "hash_bucket")
DEFAULT_BUCKETS = 10  # FuxiCTR's


def is_bucketed(column: Mapping[str, Any]) -> bool:
    """Whether a column of `feature_cols` comes raw and goes into buckets."""
    return column.get("category_processor") is not None and "vocab_size" not in column


def quantile_boundaries(values: NDArray, counts: NDArray[np.integer] | None, buckets: int) -> list[float]:
    """Where each bin but the first begins: exact quantiles, so that bins hold equally many values where ties allow.

    Args:
        values: finite numbers, in any order.
        counts: how often each of them occurs; once each where None.
        buckets: the most bins; there are fewer where values repeat, and none is empty.

    >>> quantile_boundaries(np.array([7, 1, 3, 2, 9, 5]), None, 3)
    [3.0, 7.0]
    >>> quantile_boundaries(np.array([0, 4, 6]), np.array([5, 2, 1]), 4)
    [4.0]
    """
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    reached = np.arange(1, len(ordered) + 1) if counts is None else np.cumsum(np.asarray(counts, np.int64)[order])
    ranks = np.arange(1, buckets, dtype=np.int64) * int(reached[-1]) // buckets
    begins = np.unique(ordered[np.searchsorted(reached, ranks, side="right")])
    return begins[begins > ordered[0]].tolist()


def fit_buckets(
    column: Mapping[str, Any], values: pl.Series | None, counts: NDArray[np.integer] | None = None
) -> dict[str, Any]:
    """The state of a bucketed column, as JSON.

    Args:
        column: of `feature_cols`.
        values: of the training samples; not read for hash buckets.
        counts: how often each value occurs; once each where None.

    Raises:
        DataError: there is no number to make bins of.
    """
    kind, buckets = column["category_processor"], column.get("num_buckets", DEFAULT_BUCKETS)
    if kind == "hash_bucket":
        return {"category_processor": kind, "num_buckets": buckets}
    assert values is not None
    numbers = _numbers(values, column).to_numpy()
    there = np.isfinite(numbers) if counts is None else np.isfinite(numbers) & (counts > 0)
    if not there.any():
        raise DataError(f"training rows: column {column['name']!r} has no number to make quantile bins of")
    weights = None if counts is None else counts[there]
    return {"category_processor": kind, "boundaries": quantile_boundaries(numbers[there], weights, buckets)}


def bucket_tokens(state: Mapping[str, Any]) -> dict[str, int]:
    """What each code stands for, as FuxiCTR's vocabularies say it: two datasets share a token that means the same.

    >>> bucket_tokens({"category_processor": "quantile_bucket", "boundaries": [2.0]})
    {'__PAD__': 0, '[-inf, 2.0)': 1, '[2.0, inf)': 2, '__OOV__': 3}
    """
    if state["category_processor"] == "hash_bucket":
        names = [f"{number} of {state['num_buckets']}" for number in range(1, state["num_buckets"] + 1)]
    else:
        edges = [float("-inf"), *state["boundaries"], float("inf")]
        names = [f"[{low!r}, {high!r})" for low, high in itertools.pairwise(edges)]
    return {"__PAD__": 0, **{name: code for code, name in enumerate(names, 1)}, "__OOV__": len(names) + 1}


def bucket_codes(column: Mapping[str, Any], state: Mapping[str, Any], values: pl.Series) -> NDArray[np.int32]:
    """The bucket of each value, (rows,); the last code for a missing one."""
    if state["category_processor"] == "hash_bucket":
        return _hashed(values, column, state["num_buckets"])
    boundaries: Sequence[float] = state["boundaries"]
    numbers = _numbers(values, column).to_numpy()
    codes = np.searchsorted(boundaries, numbers, side="right") + 1
    return np.where(np.isnan(numbers), len(boundaries) + 2, codes).astype(np.int32)


def _numbers(values: pl.Series, column: Mapping[str, Any]) -> pl.Series:
    """Numbers as float64, missing ones as NaN or as `fill_na` says."""
    return values.cast(pl.Float64).fill_null(column.get("fill_na", float("nan")))


def _hashed(values: pl.Series, column: Mapping[str, Any], buckets: int) -> NDArray[np.int32]:
    """CRC-32 of the UTF-8 text, the same on every machine and in every release."""
    texts = values.cast(pl.String)
    if "fill_na" in column:
        texts = texts.fill_null(str(column["fill_na"]))
    distinct = texts.unique().drop_nulls()
    codes = [1 + zlib.crc32(text.encode()) % buckets for text in distinct]
    table = pl.DataFrame({"text": distinct, "code": codes}, schema={"text": pl.String, "code": pl.Int32})
    found = texts.to_frame("text").join(table, on="text", how="left", maintain_order="left")["code"]
    return found.fill_null(buckets + 1).to_numpy(writable=True)
