"""Which events are positive, by a rule such as `>= 4`, `== buy` or `in [4, 5]`; nothing of it is evaluated as code."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.errors import ConfigError, DataError

_COMPARISON = re.compile(r"(>=|<=|==|!=|>|<)\s*(.+)", re.DOTALL)
_MEMBERSHIP = re.compile(r"in\s*\[(.*)\]", re.DOTALL)
_EQUALITY = ("==", "!=", "in")
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Rule:
    """A comparison with a number or a text, or a list of them.

    Attributes:
        operator: one of `>=`, `<=`, `==`, `!=`, `>`, `<` and `in`.
        values: what is compared with, as written.
        numbers: the same as numbers, or None where one of them is a text.
    """

    operator: str
    values: tuple[str, ...]
    numbers: tuple[float, ...] | None

    @classmethod
    def parse(cls, text: str, where: str) -> Rule:
        """Read a rule.

        Raises:
            ConfigError: it is none.

        >>> Rule.parse(">= 4", "positive")
        Rule(operator='>=', values=('4',), numbers=(4.0,))
        >>> Rule.parse("in [buy, 'add to cart']", "positive").values
        ('buy', 'add to cart')
        """
        given = str(text).strip()
        if comparison := _COMPARISON.fullmatch(given):
            operator, values = comparison[1], [comparison[2]]
        elif membership := _MEMBERSHIP.fullmatch(given):
            operator, values = "in", membership[1].split(",")
        else:
            raise ConfigError(
                f'{where} is {text!r}, but must be a rule such as ">= 4", "> 0", "== buy" or "in [4, 5]" (in quotes)'
            )
        words = tuple(_unquoted(value) for value in values)
        numbers = tuple(_number(word) for word in words)
        rule = cls(operator, words, None if None in numbers else tuple(n for n in numbers if n is not None))
        if "" in words:
            raise ConfigError(f"{where} is {text!r}: a value is missing")
        if rule.numbers is None and operator not in _EQUALITY:
            raise ConfigError(f"{where} is {text!r}, but {operator} compares numbers, and {words[0]!r} is none")
        return rule

    def holds(self, labels: pl.Series, *, where: str, first_row: int = 0) -> NDArray[np.bool_]:
        """Which labels fit, (rows,).

        Args:
            labels: numbers, truth values or texts.
            where: file and column, for messages.
            first_row: row of the file that `labels` begin with.

        Raises:
            DataError: a label is missing (NaN is), or is no number where one is compared.

        >>> Rule.parse("> 3", "positive").holds(pl.Series([3, 4, 5]), where="log").tolist()
        [False, True, True]
        """
        if isinstance(labels.dtype, pl.Categorical | pl.Enum):
            labels = labels.cast(pl.String)
        labels = self.without_nan(labels)
        if labels.null_count():
            row = first_row + int(np.argmax(labels.is_null().to_numpy()))
            raise DataError(f"{where}, row {row}: the label is missing: fill it in or remove the row")
        if labels.dtype == pl.String:
            return self._holds_text(labels, where, first_row)
        if not (labels.dtype.is_numeric() or labels.dtype == pl.Boolean):
            raise DataError(f"{where} holds {labels.dtype}, but labels are numbers or texts")
        if self.numbers is None:
            raise DataError(f"{where} holds {labels.dtype}, but the rule compares with {self.values[0]!r}")
        return self._compare(labels.cast(pl.Float64).to_numpy())

    def without_nan(self, labels: pl.Series) -> pl.Series:
        """The same with NaN as a missing label, also where it is written as text and the rule compares numbers."""
        if labels.dtype.is_float():
            return labels.fill_nan(None)
        if labels.dtype != pl.String or self.numbers is None:
            return labels
        nan = labels.str.strip_chars().cast(pl.Float64, strict=False).is_nan().fill_null(False)
        return labels.set(nan, None) if nan.any() else labels

    def _holds_text(self, labels: pl.Series, where: str, first_row: int) -> NDArray[np.bool_]:
        numbers = labels.str.strip_chars().cast(pl.Float64, strict=False)
        if self.numbers is None or (numbers.null_count() and self.operator in _EQUALITY):
            found = labels.is_in(list(self.values)).to_numpy()
            return ~found if self.operator == "!=" else found
        if numbers.null_count():
            row = int(np.argmax(numbers.is_null().to_numpy()))
            raise DataError(
                f"{where}, row {first_row + row}: label {labels[row]!r} is no number, but the rule compares with "
                f"{self.values[0]}"
            )
        return self._compare(numbers.to_numpy())

    def _compare(self, labels: NDArray[np.float64]) -> NDArray[np.bool_]:
        assert self.numbers is not None
        first = self.numbers[0]
        match self.operator:
            case ">=":
                return labels >= first
            case "<=":
                return labels <= first
            case ">":
                return labels > first
            case "<":
                return labels < first
            case "!=":
                return labels != first
            case _:
                return np.isin(labels, self.numbers)


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value


def _number(word: str) -> float | None:
    if word.lower() in _TRUTH:
        return _TRUTH[word.lower()]
    try:
        number = float(word)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
