"""The user's ids and their codes: a plain dictionary gives the same, for every type that an id may have."""

from __future__ import annotations

import datetime
import string
import uuid

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import DataError

words = st.text(string.ascii_letters + "0123456789 äß日", max_size=5)
KINDS = {
    "text": (pl.String, words),
    "int8": (pl.Int8, st.integers(-128, 127)),
    "int64": (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pl.UInt64, st.integers(0, 2**64 - 1)),
    "bytes": (pl.Binary, st.uuids().map(lambda one: one.bytes)),
    "dates": (pl.Date, st.dates()),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), padding=st.booleans())
def test_codes_are_places_of_first_sight(kind, data, padding):
    dtype, values = KINDS[kind]
    seen = data.draw(st.lists(st.none() | values, max_size=12))
    asked = data.draw(st.lists(st.none() | values | (st.sampled_from(seen) if seen else st.none()), max_size=12))
    # The definition, as a dictionary.
    codes: dict = {}
    for value in seen:
        if value is not None and value not in codes:
            codes[value] = len(codes) + padding
    ids = IdMap.of(pl.Series(seen, dtype=dtype), padding=padding)
    assert len(ids) == len(codes) + padding
    found = ids.codes(pl.Series(asked, dtype=dtype))
    assert found.dtype == np.int64
    assert found.tolist() == [codes.get(value, -1) for value in asked]
    assert ids.originals(found).to_list() == [value if value in codes else None for value in asked]
    assert ids.originals(found).dtype == dtype


@given(st.lists(st.lists(words, max_size=6), max_size=5), st.booleans())
def test_extending_by_pieces_is_numbering_the_whole(pieces, padding):
    ids = IdMap.of(pl.Series([], dtype=pl.String), padding=padding)
    for piece in pieces:
        ids = ids.extended(pl.Series(piece, dtype=pl.String))
    assert ids == IdMap.of(pl.Series([word for piece in pieces for word in piece], dtype=pl.String), padding=padding)


@pytest.mark.parametrize(
    "values",
    [
        pl.Series(["b", "a", "日本"]),
        pl.Series([7, -3, 2**62]),
        pl.Series([uuid.UUID(int=n).bytes for n in range(3)]),
        pl.Series([datetime.datetime(2024, 1, n, tzinfo=datetime.UTC) for n in (1, 2)]),
    ],
)
def test_files_give_back_type_and_order_and_are_equal_for_equal_ids(tmp_path, values):
    ids = IdMap.of(values, padding=True)
    for name in ("one", "two"):
        ids.write(tmp_path / "ids" / f"{name}.parquet")
    assert IdMap.read(tmp_path / "ids" / "one.parquet") == ids
    assert len({path.read_bytes() for path in (tmp_path / "ids").iterdir()}) == 1
    assert pl.read_parquet(tmp_path / "ids" / "one.parquet")["id"].to_list() == [None, *values]


def test_numbers_find_their_id_in_every_width_and_as_text():
    ids = IdMap.of(pl.Series([5, 300], dtype=pl.UInt16))
    assert ids.codes(pl.Series([300, 5, -1, 2**40])).tolist() == [1, 0, -1, -1]
    assert ids.codes(pl.Series(["300", "005", "x", "", None])).tolist() == [1, -1, -1, -1, -1]
    assert ids.codes(pl.Series([5.0, 5.5, None, float("nan"), float("inf")])).tolist() == [0, -1, -1, -1, -1]
    assert ids.codes(pl.Series([None, None])).tolist() == [-1, -1]
    texts = IdMap.of(pl.Series(["5", "x"], dtype=pl.Categorical))
    assert texts.codes(pl.Series([5, 6])).tolist() == [0, -1]
    assert texts.codes(pl.Series(["x"], dtype=pl.Categorical)).tolist() == [1]


def test_padding_is_no_id():
    ids = IdMap.of(pl.Series(["a"]), padding=True)
    assert ids.codes(pl.Series([None, "a", ""], dtype=pl.String)).tolist() == [-1, 1, -1]
    assert ids.originals(np.array([0, 1, -1, 2])).to_list() == [None, "a", None, None]
    assert IdMap.of(pl.Series([], dtype=pl.String)).originals(np.array([0, 3])).to_list() == [None, None]


@pytest.mark.parametrize(
    ("ids", "asked", "message"),
    [
        (["a"], [1.5], "ids are String, but these values are Float64"),
        ([b"a"], ["a"], "ids are Binary, but these values are String"),
        (["a"], [["a"]], "values of type List.* cannot be ids"),
    ],
)
def test_values_that_are_no_ids_are_refused(ids, asked, message):
    with pytest.raises(DataError, match=message):
        IdMap.of(pl.Series(ids)).codes(pl.Series(asked))


def test_numbers_with_fractions_are_no_ids():
    with pytest.raises(DataError, match="values of type Float64 cannot be ids"):
        IdMap.of(pl.Series([1.5]))
    with pytest.raises(DataError, match="id 'x' does not fit among ids of type Int64"):
        IdMap.of(pl.Series([1])).extended(pl.Series(["x"]))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="user.parquet is missing: build the dataset again"):
        IdMap.read(tmp_path / "user.parquet")
    (tmp_path / "user.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="user.parquet is damaged"):
        IdMap.read(tmp_path / "user.parquet")
    pl.DataFrame({"other": [1]}).write_parquet(tmp_path / "user.parquet")
    with pytest.raises(DataError, match="user.parquet is damaged"):
        IdMap.read(tmp_path / "user.parquet")


def test_a_million_text_ids_take_little_memory():
    ids = IdMap.of(pl.Series([f"user-{n:012x}" for n in range(100_000)]), padding=True)
    # 17 bytes of text and a 16-byte view each, no Python objects.
    assert ids.ids.estimated_size() < 100_000 * 40
