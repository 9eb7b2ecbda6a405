"""Vocabularies, codes and numbers equal those of FuxiCTR's own `FeatureProcessor` on the same frame, value by value."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from fuxictr.preprocess import FeatureProcessor
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.store.encoding import StoreFeatureProcessor
from tests.helpers.store_build import LABEL_COL

pytestmark = pytest.mark.filterwarnings("ignore:In Polars 2.0:DeprecationWarning")

# Few letters, so that counts tie; the empty text is FuxiCTR's missing value.
words = st.sampled_from(["", "a", "b", "c", "d", "B", "ä", "a b", "10", "9", "NA"])
numbers = st.integers(-3, 12)
cents = st.integers(-(10**5), 10**5).map(lambda one: one / 100)


@st.composite
def columns_and_rows(draw):
    """A column of each kind with any settings, training rows and rows to encode."""
    least = st.sampled_from([1, 1, 2, 3])
    columns: list[dict[str, Any]] = [
        {"name": "word", "dtype": "str", "type": "categorical", "min_categr_count": draw(least)},
        {"name": "number", "dtype": "int", "type": "categorical", "min_categr_count": draw(least)},
        {
            "name": "words",
            "dtype": "str",
            "type": "sequence",
            "splitter": draw(st.sampled_from(["^", "|", ", "])),
            "padding": draw(st.sampled_from(["pre", "post"])),
            "min_categr_count": draw(least),
        },
        {"name": "price", "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
        {"name": "score", "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    ]
    if draw(st.booleans()):
        columns[0]["fill_na"] = "NA"
        columns[1]["fill_na"] = 7
    if draw(st.booleans()):
        columns[2]["max_len"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        columns[2]["share_embedding"] = "word"
    splitter = columns[2]["splitter"]
    prices = st.none() | cents

    def rows(size):
        lists = st.lists(words, max_size=6).map(splitter.join)
        kinds = {"word": st.none() | words, "number": st.none() | numbers, "words": st.none() | lists}
        kinds |= {"price": prices, "score": prices}
        found = {name: draw(st.lists(kind, min_size=size, max_size=size)) for name, kind in kinds.items()}
        types = {"word": pl.String, "number": pl.Int64, "words": pl.String, "price": pl.Float64, "score": pl.Float64}
        return pl.DataFrame(found, schema=types)

    return (
        [{"active": True, **column} for column in columns],
        rows(draw(st.integers(2, 12))),
        rows(draw(st.integers(0, 9))),
    )


@settings(max_examples=50, deadline=None)
@given(columns_and_rows())
def test_vocabularies_and_codes_are_fuxictrs(tmp_path_factory, drawn):
    columns, train, rows = drawn
    root = tmp_path_factory.mktemp("parity")
    plain = FeatureProcessor(feature_cols=columns, label_col=LABEL_COL, dataset_id="plain", data_root=str(root))
    plain.label_cols = []
    plain.save_pickle = lambda file: None
    ready = plain.preprocess(train.lazy())
    try:
        plain.fit(ready)
    except IndexError:  # it crashes where a vocabulary would be empty; ours names the column
        assume(False)
    (root / "ours").mkdir()
    ours = StoreFeatureProcessor(feature_cols=columns, label_col=LABEL_COL, dataset_id="ours", data_dir=root / "ours")
    ours.fit(train)

    vocabulary, features = (
        json.loads((root / "plain" / f"feature_{name}.json").read_text()) for name in ("vocab", "map")
    )
    assert json.loads((root / "ours" / "feature_vocab.json").read_text()) == vocabulary
    assert json.loads((root / "ours" / "feature_map.json").read_text())["features"] == features["features"]
    for frame in (train, rows):
        found = ours.transform({name: frame[name] for name in frame.columns})
        cleaned = plain.preprocess(frame.lazy()).collect()
        wanted = plain.transform({name: cleaned[name].to_list() for name in cleaned.columns}) if len(frame) else {}
        for name in wanted:
            if name in ("price", "score") and train[name].n_unique() < 3:
                continue  # a constant, whose rounded deviation from its mean FuxiCTR may take for a scale
            exact = name in ("word", "number", "words")
            compare = np.testing.assert_array_equal if exact else np.testing.assert_allclose
            compare(found[name], np.asarray(wanted[name], dtype=np.int32 if exact else np.float32), err_msg=name)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt32, pl.UInt64])
def test_whole_numbers_of_every_width(tmp_path, dtype):
    column = {"name": "n", "active": True, "dtype": "int", "type": "categorical"}
    ours = StoreFeatureProcessor(feature_cols=[column], label_col=LABEL_COL, dataset_id="t", data_dir=tmp_path)
    top = 2**64 - 1 if dtype == pl.UInt64 else 100
    ours.fit(pl.DataFrame({"n": pl.Series([3, 1, top], dtype=dtype)}))
    # Whole numbers are numbered in ascending order.
    assert ours.transform({"n": pl.Series([top, 2, 1, None], dtype=dtype)})["n"].tolist() == [3, 4, 1, 4]
    assert ours.transform({"n": np.array([3, -(2**62)])})["n"].tolist() == [2, 4]


ITEM_COLUMNS: list[dict[str, Any]] = [
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item", "min_categr_count": 2},
    {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "source": "item", "splitter": "|"},
    {
        "name": "price",
        "active": True,
        "dtype": "float",
        "type": "numeric",
        "source": "item",
        "normalizer": "StandardScaler",
    },
    {"name": "age", "active": True, "dtype": "int", "type": "numeric", "source": "item", "normalizer": "MinMaxScaler"},
    {
        "name": "bin",
        "active": True,
        "dtype": "float",
        "type": "categorical",
        "source": "item",
        "category_processor": "quantile_bucket",
        "num_buckets": 4,
    },
]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_counting_items_is_fitting_on_joined_samples(tmp_path_factory, data):
    count = data.draw(st.integers(1, 8))
    items = pl.DataFrame(
        {
            "brand": ["", *data.draw(st.lists(words, min_size=count, max_size=count))],
            "tags": [
                "",
                *data.draw(st.lists(st.lists(words, max_size=4).map("|".join), min_size=count, max_size=count)),
            ],
            "price": [0.0, *data.draw(st.lists(cents, min_size=count, max_size=count))],
            "age": [0, *data.draw(st.lists(st.none() | numbers, min_size=count, max_size=count))],
            "bin": [0.0, *data.draw(st.lists(st.none() | cents, min_size=count, max_size=count))],
        },
        schema_overrides={"age": pl.Int64, "bin": pl.Float64},
    )
    targets = np.array(data.draw(st.lists(st.integers(1, count), min_size=1, max_size=20)))
    rows = pl.DataFrame({"city": ["x"] * len(targets)})
    joined = rows.hstack(items[targets])
    # Whoever has nothing to fit is refused both ways, which other tests see to.
    assume(joined["bin"].is_not_null().any())
    assume(max(joined.filter(pl.col("brand") != "")["brand"].value_counts()["count"].to_list(), default=0) >= 2)
    assume(any(token for text in joined["tags"] for token in text.split("|")))

    def fitted(name, *arguments, **more):
        folder = tmp_path_factory.mktemp(name)
        made = StoreFeatureProcessor(feature_cols=ITEM_COLUMNS, label_col=LABEL_COL, dataset_id="t", data_dir=folder)
        made.fit(*arguments, **more)
        files = {path.name: json.loads(path.read_text()) for path in sorted(folder.iterdir())}
        return made, files

    by_join, files = fitted("joined", joined)
    by_count, same = fitted("counted", rows, items=items, item_counts=np.bincount(targets, minlength=count + 1))
    assert same == files
    assert by_count.normalizers["bin"] == by_join.normalizers["bin"]
    for name in ("price", "age"):
        left, right = by_count.normalizers[name], by_join.normalizers[name]
        assert left["count"] == right["count"]
        for key in ("min", "max", "mean", "std"):
            assert left[key] == pytest.approx(right[key], rel=1e-12, abs=1e-9)
    encoded = {name: items[name] for name in items.columns}
    for name, values in by_join.transform(encoded).items():
        np.testing.assert_allclose(by_count.transform(encoded)[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
