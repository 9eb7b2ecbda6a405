"""Event features: what is learnt, the codes, and that new samples are encoded equally from what a dataset keeps."""

import json
import math
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry import events
from fuxictr_multimodal.data.entry.events import EventFeature, EventFitter, quantile_boundaries
from fuxictr_multimodal.data.entry.tables.times import Clock
from fuxictr_multimodal.errors import DataError


@dataclass(frozen=True)
class Spec:
    name: str
    bins: int | None = None
    min_categr_count: int | None = None


def fitted(spec: Spec, *pieces, clock: Clock = events.COUNTER) -> EventFeature:
    fitter = EventFitter(spec, where="log", clock=clock)
    for piece in pieces:
        fitter.add(piece)
    return fitter.fit()


numbers = st.lists(st.integers(0, 50).map(float), min_size=1, max_size=60)


@given(numbers, st.integers(2, 8))
def test_bins_are_those_of_the_definition(values, bins):
    boundaries = quantile_boundaries(np.array(values), bins)
    in_order = sorted(values)
    cuts = {in_order[math.ceil(round(part / bins * (len(values) - 1), 9))] for part in range(1, bins)}
    assert boundaries.tolist() == sorted(cuts - {in_order[0]})
    feature = EventFeature("x", "bins", boundaries=boundaries)
    codes = feature.codes(np.array(values))
    assert codes.tolist() == [1 + sum(value >= cut for cut in boundaries) for value in values]
    # Every bin has a value of the data.
    assert {*codes.tolist()} == {*range(1, feature.values + 1)}


@given(numbers, st.integers(1, 5))
def test_pieces_make_no_difference(values, piece):
    whole = fitted(Spec("dwell", bins=4), np.array(values))
    pieces = [np.array(values[start : start + piece]) for start in range(0, len(values), piece)]
    assert fitted(Spec("dwell", bins=4), *pieces).to_json() == whole.to_json()


@settings(max_examples=30)
@given(st.integers(1, 400), st.integers(1, 30))
def test_of_many_values_every_second_is_kept(size, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "MOST_KEPT", 50)
        fitter = EventFitter(Spec("dwell", bins=3), where="log")
        values = np.arange(float(size))
        for start in range(0, size, piece):
            fitter.add(values[start : start + piece])
        kept = np.concatenate(fitter._kept).tolist()
        step = fitter._every
        assert kept == values[::step].tolist()
        assert len(kept) <= 50
        assert step == 1 or len(values[:: step // 2]) > 50


def test_a_vocabulary_is_in_the_order_of_counts_then_of_texts():
    feature = fitted(
        Spec("page", min_categr_count=2), pl.Series(["b", "a", None, "c"]), pl.Series(["c", "a", "b", "c", "z"])
    )
    assert feature.vocabulary == ("c", "a", "b")
    codes = feature.codes(pl.Series(["a", "b", "c", "z", "new", None]))
    assert codes.tolist() == [2, 3, 1, 4, 4, 0]
    assert feature.vocab_size == 6
    assert feature.without_value(2).tolist() == [5, 5]


def test_numbers_are_categories_too():
    feature = fitted(Spec("page"), pl.Series([3, 3, 1]))
    assert feature.codes(pl.Series([1, 3, 2])).tolist() == [2, 1, 3]


def test_ages_have_sixteen_bins_and_missing_values_are_padding():
    feature = fitted(Spec("age"), np.arange(1000), clock=Clock("s"))
    codes = feature.codes(pl.Series([0, 999, 10**12, None, -5]))
    assert codes.tolist() == [1, 16, 16, 0, 1]
    assert feature.without_value(1).tolist() == [17]
    assert feature.vocab_size == 18


def test_a_number_that_is_missing_or_not_a_number_is_padding():
    feature = fitted(Spec("dwell", bins=2), np.array([1.0, np.nan, 2.0]))
    assert feature.codes(np.array([1.0, np.nan, 2.0])).tolist() == [1, 0, 2]


def test_numbers_that_are_none_are_one_error():
    with pytest.raises(DataError, match="log: the event feature 'dwell' needs numbers, but its values are Categorical"):
        fitted(Spec("dwell", bins=2), pl.Series(["a", "b"], dtype=pl.Categorical))


@pytest.mark.parametrize(
    "feature",
    [
        fitted(Spec("age", bins=5), np.arange(100) ** 2, clock=Clock("ms")),
        fitted(Spec("hour"), clock=Clock("us")),
        fitted(Spec("weekday"), clock=Clock("d")),
        fitted(Spec("page"), pl.Series(["ä", "b"])),
        fitted(Spec("dwell", bins=3), np.array([0.1, 0.2, 0.3])),
    ],
    ids=lambda feature: feature.name,
)
def test_what_a_dataset_keeps_encodes_equally(feature):
    stored = json.loads(json.dumps(feature.to_json()))
    again = EventFeature.from_json(feature.name, stored)
    values = pl.Series(["ä", "x", None]) if feature.kind == "category" else pl.Series([0, 10**7, 86_400_000 * 3 + 1])
    assert again.codes(values).tolist() == feature.codes(values).tolist()
    assert again.column() == feature.column()
    assert again.column(embedding_dim=8)["embedding_dim"] == 8
    assert "embedding_dim" not in again.column(embedding_dim=None)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (Spec("age"), np.array([]), "the event feature 'age' has no value in the training split"),
        (Spec("page", min_categr_count=3), pl.Series(["a", "a"]), "no category that occurs 3 times"),
        (Spec("dwell", bins=3), np.array([1, np.inf]), "the event feature 'dwell' has an infinite value"),
        (Spec("hour"), np.array([]), "the event feature 'hour' needs dates, but the times are whole numbers"),
    ],
)
def test_what_cannot_be_learnt_is_said(spec, values, message):
    with pytest.raises(DataError, match=f"^log: .*{message}|{message}"):
        fitted(spec, values)


def test_a_damaged_feature_is_refused():
    with pytest.raises(DataError, match="event feature 'age' is damaged"):
        EventFeature.from_json("age", {"kind": "eval"})
