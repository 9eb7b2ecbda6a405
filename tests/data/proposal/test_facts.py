"""What is seen in a column: kinds, also in text files, lists, units of times."""

import polars as pl
import pytest

from fuxictr_multimodal.data.proposal.facts import is_prose, is_rating, look, overlap


def seen(values, **options):
    return look(pl.Series("x", values), **options)


@pytest.mark.parametrize(
    ("texts", "kind", "distinct"),
    [
        (["1", "2", " 2 ", ""], "int", 2),
        (["1.5", "2", "-3e2"], "float", 3),
        (["007", "7", "8"], "text", 3),  # zeros in front are part of a name
        (["true", "False", ""], "bool", 2),
        (["2024-01-31", "2024-02-01"], "time", 2),
        (["2024-01-31 10:00:00", "2024-02-01 11:30:00"], "time", 2),
        (["a", "1"], "text", 2),
        (["", ""], "empty", 0),
    ],
)
def test_texts_of_a_csv_file_are_what_all_of_them_are(texts, kind, distinct):
    found = seen(texts, text_file=True)
    assert (found.kind, found.distinct, found.missing) == (kind, distinct, texts.count(""))
    assert seen(texts).kind == "text"  # the same in a parquet file is what it says


def test_binary_constant_and_unique():
    assert seen([0, 1, 1]).binary
    assert seen([0.0, 1.0, float("nan")]).binary
    assert seen([True, False]).binary
    assert not seen([1, 2]).binary
    assert not seen([1, 1]).binary
    assert seen(["a", "a"]).constant
    assert not seen(["a", None]).constant  # missing or not is something
    assert seen(["a", "b"]).unique
    assert not seen(["a", None]).unique


def test_lists():
    vectors = seen([[0.5, 1.0], [1.5, 2.0]])
    assert (vectors.width, vectors.inner) == (2, "float")
    assert seen([[0.5], [1.5, 2.0]]).width is None
    tags = seen([["a", "b"], [], ["c"]])
    assert (tags.kind, tags.inner, tags.lengths) == ("list", "text", (0, 1, 1, 2))
    assert seen([[[1]], [[2]]]).kind == "other"


@pytest.mark.parametrize(
    ("texts", "splitter", "inner"),
    [
        (["Action|Drama", "Drama", "Comedy|Action"] * 5, "|", "text"),
        (["1^2^3", "4", ""], "^", "int"),
        (["5 7 9", "12 5"], " ", "int"),
        (["red,blue", "red", "blue,green,red"] * 5, ",", "text"),
        (["A fine, old house", "Some thing, or other", "One more"], "", "empty"),
        (["New York", "Los Angeles", "New York"], "", "empty"),
    ],
)
def test_texts_that_are_lists(texts, splitter, inner):
    found = seen(texts, text_file=True)
    assert (found.splitter, found.inner) == (splitter, inner)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_700_000_000, 1_700_000_100], "s"),
        ([1_700_000_000_000], "ms"),
        ([1_700_000_000_000_000], "us"),
        ([1_700_000_000_000_000_000], "ns"),
        ([5, 1_700_000_000], None),
        ([0, 1_700_000_000], "s"),  # 0 is often none
        ([12, 13], None),
    ],
)
def test_units_of_times(values, unit):
    assert seen(values).time_unit == unit


def test_ratings_and_prose():
    assert is_rating(seen([0.5, 1.0, 4.5, 5.0]))
    assert not is_rating(seen([0, 1]))
    assert not is_rating(seen(list(range(100))))
    assert is_prose(seen([f"the {i} brown foxes" for i in range(9)]))
    assert not is_prose(seen(["red car of mine"] * 9))


def test_overlap_is_of_distinct_values_of_one_kind():
    assert overlap(pl.Series(["a", "a", "b"]), pl.Series(["a", "c"])) == 0.5
    assert overlap(pl.Series([1, 2], dtype=pl.Int32), pl.Series([2, 3], dtype=pl.Int64)) == 0.5
    assert overlap(pl.Series([1]), pl.Series(["1"])) == 0
