"""Odd tables: columns missing, renamed, twice, of another type, with odd cells; drawn by hypothesis."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from polars.testing.parametric import series

from tests.torture.fuzz.harness import Numbers

# Inputs that are drawn together: hypothesis begins with the simplest ones.
CHUNK = 100
CELLS: tuple[Any, ...] = (
    None, "", " ", "nan", "NaN", "inf", "-inf", "null", "\x00", "\u202e", "é", "1e400", "0x10", "1_000", "1,5", "-0",
    "9" * 25, "A" * 3000, "a|b", "a^b^", "[1,2]", "2025-01-01", "true", 0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63),
    0.5, 1e308, float("nan"), float("inf"), float("-inf"), True, False, b"\xff",
)  # fmt: skip
_TYPES: tuple[Any, ...] = (
    pl.Int8, pl.UInt64, pl.Int64, pl.Float32, pl.Float64, pl.String, pl.Boolean, pl.Binary, pl.Date, pl.Null,
    pl.Datetime("us"), pl.Datetime("ns", "Europe/Berlin"), pl.Duration("ms"), pl.Time, pl.Categorical,
    pl.List(pl.Int64), pl.List(pl.String), pl.List(pl.Float64), pl.List(pl.List(pl.Int64)), pl.Array(pl.Float32, 3),
    pl.Struct({"a": pl.Int64}), pl.Enum(["a", "b"]), pl.Int128, pl.Decimal(38, 3),
)  # fmt: skip


@st.composite
def odd_frames(draw: Any, frames: Mapping[str, pl.DataFrame]) -> tuple[str, pl.DataFrame]:
    """One of the tables by name, with one to three changes."""
    name = draw(st.sampled_from(sorted(frames)))
    frame = frames[name]
    for _ in range(draw(st.integers(1, 3))):
        frame = _changed(draw, frame)
    return name, frame


def _changed(draw: Any, frame: pl.DataFrame) -> pl.DataFrame:
    kind = draw(st.sampled_from(_KINDS))
    if not frame.width or kind == "empty":
        return frame.clear()
    column = draw(st.sampled_from(frame.columns))
    values = frame[column]
    if kind == "drop":
        return frame.drop(column)
    if kind == "rename":
        other = draw(
            st.sampled_from(["", " ", "x", f"{column} ", column.upper(), "label", "item_id", "é\x00", "\u202e"])
        )
        return frame if other in frame.columns else frame.rename({column: other})
    if kind == "swap":
        other = frame[draw(st.sampled_from(frame.columns))]
        return frame.with_columns(other.alias(column))
    if kind == "twice":
        return frame.with_columns(values.alias(f"{column}_duplicated_0"))
    if kind == "retype":
        return frame.with_columns(_cast(values, draw(st.sampled_from(_TYPES))))
    if kind == "rows":
        return draw(st.sampled_from([frame.head(1), frame.head(2), pl.concat([frame, frame]), frame.reverse()]))
    if kind == "cells":
        return frame.with_columns(_with_cells(draw, values))
    if kind == "lists" and values.dtype == pl.List:
        return frame.with_columns(_with_lists(draw, values))
    # An own limit on the depth of types; objects have no file.
    made = draw(series(min_size=frame.height, max_size=frame.height, excluded_dtypes=[pl.Object], allow_null=True))
    return frame.with_columns(made.alias(column))


_KINDS = (
    "cells",
    "cells",
    "cells",
    "retype",
    "retype",
    "lists",
    "series",
    "drop",
    "rename",
    "swap",
    "twice",
    "rows",
    "empty",
)


def _cast(values: pl.Series, kind: Any) -> pl.Series:
    try:
        return values.cast(kind, strict=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return pl.Series(values.name, [None] * len(values), dtype=kind)


def _with_cells(draw: Any, values: pl.Series) -> pl.Series:
    """A few cells replaced, as texts where the column cannot hold them."""
    cells = python_cells(values)
    for _ in range(draw(st.integers(1, 3))):
        if cells:
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(CELLS))
    try:
        return pl.Series(values.name, cells, dtype=values.dtype, strict=False)
    except Exception:  # whatever polars cannot hold in one column
        return pl.Series(values.name, [None if cell is None else str(cell) for cell in cells])


def _with_lists(draw: Any, values: pl.Series) -> pl.Series:
    lists = python_cells(values)
    for _ in range(draw(st.integers(1, 3))):
        if lists:
            place = draw(st.integers(0, len(lists) - 1))
            lists[place] = draw(
                st.sampled_from([None, [], [None], (lists[place] or [None]) * 5, [None, *(lists[place] or [])]])
            )
    return pl.Series(values.name, lists, dtype=values.dtype)


def drawn(strategy: st.SearchStrategy[Any]) -> Callable[[random.Random], Any]:
    """Makes the inputs of a strategy, the same for a seed and a number whatever was drawn before."""

    @functools.lru_cache(maxsize=2)
    def chunk(name: str, number: int) -> list[Any]:
        found: list[Any] = []

        @seed(f"{name}/{number}")
        @settings(
            max_examples=CHUNK + 1,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def collect(value: Any) -> None:
            found.append(value)

        collect()
        return found

    def make(rng: Numbers) -> Any:
        inputs = chunk(rng.seed_text, rng.number // CHUNK)
        return inputs[rng.number % CHUNK % len(inputs)]

    return make


def python_cells(values: pl.Series) -> list[Any]:
    """Values as Python has them; nothing where it has no such dates, at which polars panics."""
    try:
        return values.to_list()
    except (pl.exceptions.PanicException, pl.exceptions.PolarsError, ValueError, OverflowError):
        return [None] * len(values)


def _texts(values: pl.Series) -> pl.Series:
    """Values as Python writes them."""
    return pl.Series(
        values.name, [None if value is None else str(value) for value in python_cells(values)], dtype=pl.String
    )


def as_bytes(frame: pl.DataFrame, suffix: str) -> bytes:
    """A table as a file; nested and binary columns are texts in csv, and so are dates that polars cannot write."""
    try:
        return _as_bytes(frame, suffix)
    except pl.exceptions.PanicException:
        columns = [_texts(c) if c.dtype.is_temporal() or c.dtype.is_nested() else c for c in frame.get_columns()]
        return _as_bytes(pl.DataFrame(columns), suffix)


def _as_bytes(frame: pl.DataFrame, suffix: str) -> bytes:
    import io

    buffer = io.BytesIO()
    if suffix == ".parquet":
        frame.write_parquet(buffer)
    elif suffix == ".jsonl":
        frame.write_ndjson(buffer)
    else:
        flat = [
            _texts(c)
            if c.dtype.is_nested()
            or isinstance(c.dtype, pl.BaseExtension)
            or c.dtype in (pl.Binary, pl.Object, pl.Duration)
            else c
            for c in frame.get_columns()
        ]
        pl.DataFrame(flat).write_csv(buffer, separator="\t" if suffix == ".tsv" else ",")
    return buffer.getvalue()
