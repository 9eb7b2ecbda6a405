"""Rules of what is positive, against Python's own comparison."""

import operator

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry.log.labels import Rule
from fuxictr_multimodal.errors import ConfigError, DataError

COMPARISONS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


@given(
    st.sampled_from([*COMPARISONS]),
    st.integers(-3, 3) | st.sampled_from([-1.5, 0.0, 2.5]),
    st.lists(st.integers(-4, 4), min_size=1),
    st.sampled_from(["int", "float", "text"]),
)
def test_a_comparison_is_that_of_numbers(sign, number, labels, kind):
    series = pl.Series(labels)
    series = {"int": series, "float": series.cast(pl.Float32), "text": series.cast(pl.String)}[kind]
    found = Rule.parse(f"{sign}{number}", "positive").holds(series, where="log")
    assert found.tolist() == [COMPARISONS[sign](label, number) for label in labels]


@pytest.mark.parametrize(
    ("rule", "labels", "positive"),
    [
        ("in [4, 5]", [3, 4, 5], [False, True, True]),
        ("== buy", ["buy", "view", "Buy"], [True, False, False]),
        ("!= 'view'", ["buy", "view"], [True, False]),
        ('in ["buy", cart]', ["buy", "view", "cart"], [True, False, True]),
        ("== true", [True, False], [True, False]),
        ("> 0", [True, False], [True, False]),
        ("== 1", ["1", "0"], [True, False]),
        ("== 1", ["1.0", " 1"], [True, True]),
        ("== true", ["true", "false"], [True, False]),
    ],
)
def test_rules(rule, labels, positive):
    assert Rule.parse(rule, "positive").holds(pl.Series(labels), where="log").tolist() == positive


def test_nan_is_a_text_where_texts_are_compared():
    assert Rule.parse("== buy", "positive").holds(pl.Series(["buy", "nan"]), where="log").tolist() == [True, False]


def test_categories_are_texts():
    labels = pl.Series(["buy", "view"], dtype=pl.Categorical)
    assert Rule.parse("== buy", "positive").holds(labels, where="log").tolist() == [True, False]


@pytest.mark.parametrize("rule", ["4", "=> 4", "", ">=", "> high", "in 4, 5", "in []", "__import__('os')", ">= nan"])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(ConfigError, match="^interactions: positive is "):
        Rule.parse(rule, "interactions: positive")


@pytest.mark.parametrize(
    ("rule", "labels", "message"),
    [
        ("> 1", pl.Series([1, None]), r"log.csv: column 'r', row 3: the label is missing"),
        ("!= 1", pl.Series([1.0, float("nan")]), r"log.csv: column 'r', row 3: the label is missing"),
        (">= 3", pl.Series(["1", " NaN"]), r"log.csv: column 'r', row 3: the label is missing"),
        ("> 1", pl.Series(["2", "two"]), r"row 3: label 'two' is no number, but the rule compares with 1"),
        ("== buy", pl.Series([1, 2]), r"holds Int64, but the rule compares with 'buy'"),
        ("> 1", pl.Series([[1]]), r"holds List\(Int64\), but labels are numbers or texts"),
    ],
)
def test_labels_that_do_not_fit_are_named(rule, labels, message):
    with pytest.raises(DataError, match=message):
        Rule.parse(rule, "positive").holds(labels, where="log.csv: column 'r'", first_row=2)
