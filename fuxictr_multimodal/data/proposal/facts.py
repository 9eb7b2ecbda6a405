"""What the values of one column look like: kind, range, distinct values, lists and their widths, units of times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from fuxictr_multimodal.data.proposal.dates import are_dates
from fuxictr_multimodal.data.proposal.hints import words

Kind = Literal["int", "float", "text", "bool", "time", "list", "empty", "other"]
# Whole numbers of times since 1970 lie in a range of their own for each unit: from 1985 to 2128.
TIME_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EARLIEST, LATEST = 475_000_000, 5_000_000_000
SPLITTERS = ("|", "^", ";", ",", " ")
_IN_WORDS = {"int": "whole numbers", "float": "numbers", "text": "texts", "bool": "truth values", "time": "times"}


@dataclass(frozen=True)
class Facts:
    """A column as its examined values show it.

    Attributes:
        name: of the column.
        kind: of its values; `other` is what no column of a dataset can be.
        values: the examined values that are not missing, typed: texts of numbers of a csv file are numbers here.
        missing: examined values that are missing.
        distinct: different values; 0 for lists.
        inner: kind of the values in the lists, or of the parts of a text with a splitter.
        splitter: between the parts of a text that is a list, else "".
        lengths: least, median, 95th percentile and largest number of values in a list.
        lists: the values as lists, where they are; a sample of them.
        dtype: in words of polars, as the file has it.
        true: text that stands for true in a csv file, else "".
    """

    name: str
    kind: Kind
    values: pl.Series
    missing: int
    distinct: int
    dtype: str
    true: str = ""
    inner: Kind = "empty"
    splitter: str = ""
    lengths: tuple[int, int, int, int] = (0, 0, 0, 0)
    lists: pl.Series | None = None

    @property
    def examined(self) -> int:
        """Number of examined values, the missing ones too."""
        return len(self.values) + self.missing

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the name.

        >>> look(pl.Series("lastUserID", [1])).words
        ('last', 'user', 'id')
        """
        return words(self.name)

    @property
    def unique(self) -> bool:
        """Whether no value occurs twice and none is missing."""
        return self.kind in ("int", "text") and not self.missing and self.distinct == len(self.values) > 0

    @property
    def constant(self) -> bool:
        """Whether all values are the same one."""
        return self.kind != "list" and self.distinct <= 1 and not (self.distinct and self.missing)

    @property
    def binary(self) -> bool:
        """Whether the values are 0 and 1, both there."""
        if self.kind == "bool":
            return self.distinct == 2
        return self.kind in ("int", "float") and self.distinct == 2 and {*self.values.unique().to_list()} == {0, 1}

    @property
    def width(self) -> int | None:
        """Numbers in each vector, where all lists have equally many, more than one."""
        least, _, _, most = self.lengths
        return most if self.kind == "list" and self.inner == "float" and least == most > 1 else None

    @property
    def time_unit(self) -> str | None:
        """Unit of whole numbers that can be times since 1970: s, ms, us or ns; of dates `date` or `datetime`."""
        if self.kind == "time":
            return "date" if self.values.dtype == pl.Date else "datetime"
        return _unit(self.values) if self.kind in ("int", "float") else None

    def shown(self) -> str:
        """What was seen, in a few words.

        >>> look(pl.Series("city", ["a", "b", "a", None])).shown()
        '2 distinct texts, 25% missing'
        >>> look(pl.Series("v", [[0.5, 1.0], [2.0, 3.0]])).shown()
        'lists of 2 numbers'
        """
        missing = f", {_percent(self.missing / self.examined)} missing" if self.missing else ""
        if self.kind == "list" or self.splitter:
            least, median, _, most = self.lengths
            count = str(most) if least == most else f"{least} to {most:,} (median {median})"
            what = f"lists of {count} {_IN_WORDS.get(self.inner, 'values')}"
            if self.splitter:
                what += f" with {self.splitter!r} between them"
        elif self.kind == "empty":
            return "no values"
        elif self.kind == "other":
            what = f"values of type {self.dtype}"
        elif self.binary:
            what = f"0 and 1, {_percent(mean(self.values.cast(pl.Float64)))} are 1"
        elif self.constant:
            what = f"always {self.values[0]!r}"
        elif self.kind == "time" or self.kind == "float":
            what = f"{_IN_WORDS[self.kind]} from {_short(self.values.min())} to {_short(self.values.max())}"
        else:
            what = f"{self.distinct:,} distinct {_IN_WORDS[self.kind]}"
        return what + missing


def look(series: pl.Series, *, text_file: bool = False) -> Facts:
    """Look at the values of a column.

    Args:
        series: the examined values, as the file has them.
        text_file: whether they are texts of a csv file, which may be numbers or times.
    """
    dtype, written = str(series.dtype), series
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    # Comparisons and means of decimals are not those of numbers.
    if series.dtype.is_decimal():
        series = series.cast(pl.Float64)
    elif isinstance(series.dtype, pl.List | pl.Array) and series.dtype.inner.is_decimal():
        series = series.cast(pl.List(pl.Float64))
    if text_file:
        series = _typed(series)
    if series.dtype.is_float():
        # A gap turns whole numbers of pandas into floats.
        series = series.fill_nan(None)
    missing, values = series.null_count(), series.drop_nulls()
    kind = _kind(values.dtype) if len(values) else "empty"
    plain = kind not in ("list", "other", "empty")
    facts = Facts(series.name, kind, values, missing, values.n_unique() if plain else 0, dtype)
    if kind == "bool" and text_file and values.any():
        facts = replace(facts, true=str(written.filter(series.fill_null(False))[0]).strip())
    if kind == "list":
        return _with_lists(facts, values.arr.to_list() if isinstance(values.dtype, pl.Array) else values)
    no_list = kind == "text" and (are_dates(values) or _in_brackets(values))
    if kind == "text" and not no_list and (splitter := _splitter(values)):
        lists = values.str.split(splitter).list.eval(pl.element().str.strip_chars())
        lists = lists.list.eval(pl.element().filter(pl.element() != ""))
        return _with_lists(facts, _typed_lists(lists), splitter)
    return facts


def flat(lists: pl.Series) -> pl.Series:
    """The values of all lists, end to end, without missing ones.

    >>> flat(pl.Series([[1], [], None, [2, None]])).to_list()
    [1, 2]
    """
    # The meaning of polars' explode for an empty list differs between versions.
    return pl.Series(lists.name, lists.rechunk().to_arrow().flatten()).drop_nulls()


def mean(values: pl.Series) -> float:
    """The mean of numbers or flags; 0 of none."""
    return float(values.cast(pl.Float64).to_numpy().mean()) if len(values) else 0.0


def overlap(values: pl.Series, known: pl.Series) -> float:
    """Fraction of the distinct values that are among the known ones; 0 where the types are of different kinds."""
    if not len(values) or not len(known) or _kind(values.dtype) != _kind(known.dtype):
        return 0.0
    if values.dtype != known.dtype:
        values, known = values.cast(pl.String), known.cast(pl.String)
    distinct = values.unique()
    return mean(distinct.is_in(known.unique().implode()))


def _kind(dtype: Any) -> Kind:
    if isinstance(dtype, pl.List | pl.Array):
        return "other" if isinstance(dtype.inner, pl.List | pl.Array | pl.Struct) else "list"
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "int"
    if dtype.is_float() or dtype.is_decimal():
        return "float"
    if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        return "text"
    return "time" if dtype == pl.Date or isinstance(dtype, pl.Datetime) else "empty" if dtype == pl.Null else "other"


def _typed(texts: pl.Series) -> pl.Series:
    """Texts of a csv file as numbers, truth values or times, where each of them is one; an empty one is missing."""
    stripped = texts.str.strip_chars()
    texts = texts.set(stripped == "", None)
    given = stripped.filter(stripped != "")
    if not len(given):
        return texts
    # 007 is a name, not the number 7.
    if not given.str.contains(r"^[+-]?0\d").any():
        for dtype in (pl.Int64, pl.Float64):
            numbers = given.cast(dtype, strict=False)
            if not numbers.is_null().any():
                return stripped.cast(dtype, strict=False).alias(texts.name)
    if {*given.head(1000).str.to_lowercase().unique().to_list()} <= {"true", "false"}:
        lower = given.str.to_lowercase()
        if lower.is_in(["true", "false"]).all():
            return (stripped.str.to_lowercase() == "true").set(stripped == "", None).alias(texts.name)
    if given.head(1000).str.contains(r"^\d{4}-\d\d-\d\d").all():
        for kind in (pl.Date(), pl.Datetime("us")):
            try:
                return stripped.str.strptime(kind, strict=True).alias(texts.name)
            except pl.exceptions.PolarsError:
                continue
    return texts


def _typed_lists(lists: pl.Series) -> pl.Series:
    """Lists of texts as lists of numbers, where each text is one."""
    inner = flat(lists)
    kind = _typed(inner).dtype if len(inner) else pl.String
    return lists.cast(pl.List(kind)) if kind in (pl.Int64, pl.Float64) else lists


def _splitter(texts: pl.Series) -> str:
    """What stands between the parts of texts that are lists of names or numbers, else ""."""
    for splitter in SPLITTERS:
        has = texts.str.contains(splitter, literal=True)
        if mean(has) < 0.2:
            continue
        parts = flat(texts.filter(has).head(2000).str.split(splitter)).str.strip_chars()
        parts = parts.filter(parts != "")
        if not len(parts):
            continue
        numbers = not parts.cast(pl.Float64, strict=False).is_null().any()
        # Prose has spaces too, and commas with a space behind.
        prose = splitter in " ," and not numbers and _prose(texts.filter(has).head(2000), parts, splitter)
        if not prose and (numbers or parts.n_unique() < 0.5 * len(parts)):
            return splitter
    return ""


def _prose(texts: pl.Series, parts: pl.Series, splitter: str) -> bool:
    if splitter == " ":
        # Words repeat as tags do: only codes, which have digits, are taken for a list.
        return mean(parts.str.contains(r"\d")) < 0.9
    return mean(parts.str.contains(r"\s")) > 0.1 or mean(texts.str.len_chars()) > 200


def _with_lists(facts: Facts, lists: pl.Series, splitter: str = "") -> Facts:
    lengths = lists.list.len()
    inner = flat(lists)
    quantiles = (lengths.min(), lengths.quantile(0.5, "lower"), lengths.quantile(0.95, "lower"), lengths.max())
    kind: Kind = _kind(inner.dtype) if len(inner) else "empty"
    of_lists = [0 if value is None else int(value) for value in quantiles]  # type: ignore[arg-type]
    return Facts(
        name=facts.name, kind="text" if splitter else "list", values=facts.values, missing=facts.missing,
        distinct=facts.distinct, dtype=facts.dtype, inner=kind, splitter=splitter,
        lengths=(of_lists[0], of_lists[1], of_lists[2], of_lists[3]), lists=lists,
    )  # fmt: skip


def _unit(values: pl.Series) -> str | None:
    real = values.filter(values != 0)
    if not len(real):
        return None
    least, most = float(real.min()), float(real.max())  # type: ignore[arg-type]
    return next((u for u, size in TIME_UNITS.items() if EARLIEST * size < least <= most < LATEST * size), None)


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}" if 0.01 <= fraction <= 0.99 else f"{fraction:.2%}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_prose(facts: Facts) -> bool:
    """Whether a column holds titles or longer texts: several words, most of them once."""
    if facts.kind != "text" or facts.splitter or facts.distinct < 0.5 * max(len(facts.values), 1):
        return False
    sample = facts.values.head(2000)
    return mean(sample.str.strip_chars().str.count_matches(r"\s+")) >= 1.5


def is_bracketed(facts: Facts) -> bool:
    """Whether a column holds texts such as `['a', 'b']`, which pandas writes to csv for a list."""
    return facts.kind == "text" and not facts.splitter and _in_brackets(facts.values)


def _in_brackets(texts: pl.Series) -> bool:
    return mean(texts.head(2000).str.contains(r"^\s*\[[^\[\]]*\]\s*$")) >= 0.9


def is_dates(facts: Facts) -> bool:
    """Whether a column holds dates as texts that cannot be read as such."""
    return facts.kind == "text" and not facts.splitter and are_dates(facts.values)


def is_rating(facts: Facts) -> bool:
    """Whether numbers are few and small, as ratings are."""
    if facts.kind not in ("int", "float") or not 2 < facts.distinct <= 21:
        return False
    return float(facts.values.min()) >= 0 and 2 < float(facts.values.max()) <= 100  # type: ignore[arg-type]


def kinds(facts: Facts) -> list[str]:
    """The values of a column of few values, the most frequent first."""
    counts = facts.values.cast(pl.String).value_counts(sort=True, name="count")
    return counts[facts.name].to_list()
