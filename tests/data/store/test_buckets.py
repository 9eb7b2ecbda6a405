"""Quantile and hash buckets: exact, stable, and the same from a finished dataset."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.store import Store, read_item_table
from fuxictr_multimodal.data.store.buckets import bucket_codes, bucket_tokens, fit_buckets, quantile_boundaries
from fuxictr_multimodal.data.store.feature_map import load_feature_map, restore_processor
from fuxictr_multimodal.errors import DataError
from tests.helpers.store_build import builder

QUANTILE = {
    "name": "price",
    "active": True,
    "dtype": "float",
    "type": "categorical",
    "category_processor": "quantile_bucket",
}
HASH = {"name": "device", "active": True, "dtype": "str", "type": "categorical", "category_processor": "hash_bucket"}

numbers = st.lists(st.integers(-5, 5) | st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(numbers, st.integers(2, 9))
def test_boundaries_are_the_values_at_equal_ranks(values, buckets):
    ordered = sorted(map(float, values))
    # The definition: bin k begins with the value of rank k * n / buckets; bins that would be empty fall away.
    begins = {ordered[k * len(ordered) // buckets] for k in range(1, buckets)}
    assert quantile_boundaries(np.array(values), None, buckets) == sorted(begins - {ordered[0]})


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=20), st.integers(2, 6))
def test_counts_are_repetitions(pairs, buckets):
    values, counts = (np.array(part) for part in zip(*pairs, strict=True))
    if counts.any():
        repeated = np.repeat(values, counts)
        kept = counts > 0
        assert quantile_boundaries(values[kept], counts[kept], buckets) == quantile_boundaries(repeated, None, buckets)


@given(st.integers(2, 12), st.integers(1, 60), st.integers(0, 5))
def test_bins_of_distinct_numbers_are_equally_full(buckets, rows, seed):
    values = np.random.default_rng(seed).permutation(rows) * 1.5
    column = QUANTILE | {"num_buckets": buckets}
    state = fit_buckets(column, pl.Series(values))
    codes = bucket_codes(column, state, pl.Series(values))
    sizes = Counter(codes.tolist()).values()
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == min(buckets, rows)
    # A greater number is never in a lower bin.
    assert (np.diff(codes[np.argsort(values)]) >= 0).all()


def test_missing_numbers_are_in_no_bin_unless_filled():
    state = fit_buckets(QUANTILE | {"num_buckets": 2}, pl.Series([1.0, None, 3.0, float("nan"), 5.0, 7.0]))
    assert state == {"category_processor": "quantile_bucket", "boundaries": [5.0]}
    asked = pl.Series([None, float("nan"), -9.0, 5.0, 1e9, float("inf"), float("-inf")])
    assert bucket_codes(QUANTILE, state, asked).tolist() == [3, 3, 1, 2, 2, 2, 1]
    assert bucket_codes(QUANTILE | {"fill_na": 6.0}, state, asked).tolist() == [2, 3, 1, 2, 2, 2, 1]
    assert bucket_tokens(state) == {"__PAD__": 0, "[-inf, 5.0)": 1, "[5.0, inf)": 2, "__OOV__": 3}


def test_hashes_are_crc_32_on_every_machine():
    # CRC-32 of "123456789" is 0xCBF43926, the check value of its definition.
    column = HASH | {"num_buckets": 1000}
    state = fit_buckets(column, None)
    codes = bucket_codes(column, state, pl.Series(["123456789", None, "", "123456789"]))
    assert codes.tolist() == [0xCBF43926 % 1000 + 1, 1001, 1, 0xCBF43926 % 1000 + 1]
    assert bucket_codes(column | {"dtype": "int"}, state, pl.Series([123456789])).tolist() == codes[:1].tolist()
    filled = bucket_codes(column | {"fill_na": "123456789"}, state, pl.Series([None], dtype=pl.String))
    assert filled.tolist() == codes[:1].tolist()
    assert len(bucket_tokens(state)) == 1002


def test_a_column_without_numbers_is_refused():
    with pytest.raises(DataError, match="training rows: column 'price' has no number to make quantile bins of"):
        fit_buckets(QUANTILE, pl.Series([None, float("nan")], dtype=pl.Float64))


COLUMNS = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    QUANTILE | {"num_buckets": 4},
    HASH | {"num_buckets": 8},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    QUANTILE | {"name": "cost", "dtype": "int", "source": "item", "num_buckets": 2},
    HASH | {"name": "brand", "source": "item"},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("buckets")
    rows = {
        "user_id": np.arange(8),
        "price": np.array([8.0, 1, 2, 3, 4, 5, 6, 7]),
        "device": np.array(["ios", "web", None, "ios", "tv", "web", "ios", "ios"], dtype=object),
        "item_id": np.array([1, 2, 3, 3, 3, 3, 1, 2]),
        "label": np.arange(8) % 2,
    }
    with builder(root, feature_cols=COLUMNS) as building:
        counts = np.bincount(rows["item_id"], minlength=5)
        building.fit(pl.DataFrame({"price": rows["price"]}), item_counts=counts)
        building.write_items({"cost": np.array([0, 10, 20, 30, 40]), "brand": np.array(["", "A", "B", "A", "C"])})
        for split in ("train", "valid"):
            building.append(split, rows, np.array([], dtype=int), np.zeros(9, dtype=int))
        building.finish(split_method="as given")
    return Store.open(root, "tiny")


def test_buckets_of_a_dataset(store):
    with store.reader("train") as reader:
        assert reader.read("price", 0, 8).tolist() == [4, 1, 1, 2, 2, 3, 3, 4]
        devices = reader.read("device", 0, 8)
        assert devices[2] == 9  # missing
        assert devices[0] == devices[3] == devices[6] == devices[7] != devices[1]
    items = read_item_table(store.dir)
    # Of eight training targets, four are cheaper than 30.
    assert items["cost"].tolist() == [0, 1, 1, 2, 2]
    assert items["brand"][0] == 0
    assert items["brand"][1] == items["brand"][3]
    features = load_feature_map(store.dir, "tiny", {"embedding_dim": 4}).features
    assert {name: features[name]["vocab_size"] for name in ("price", "device", "cost", "brand")} == {
        "price": 6,
        "device": 10,
        "cost": 4,
        "brand": 12,
    }
    assert features["price"]["padding_idx"] == 0
    vocabulary = json.loads((store.dir / "feature_vocab.json").read_text())
    assert list(vocabulary["price"]) == ["__PAD__", "[-inf, 3.0)", "[3.0, 5.0)", "[5.0, 7.0)", "[7.0, inf)", "__OOV__"]
    assert store.manifest.normalizers["cost"]["boundaries"] == [30.0]


def test_restored_buckets_encode_new_rows_alike(store):
    restored = restore_processor(store.dir)
    found = restored.transform(
        {"price": np.array([8.0, 2.9, np.nan]), "device": np.array(["ios", None, "tv"], dtype=object)}
    )
    assert found["price"].tolist() == [4, 1, 5]
    with store.reader("train") as reader:
        assert found["device"].tolist() == reader.read("device", 0, 8)[[0, 2, 4]].tolist()
    assert restored.transform({"cost": np.array([29, 31])})["cost"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "broken", [{}, {"category_processor": "quantile_bucket"}, {"category_processor": "hash_bucket"}]
)
def test_a_damaged_state_is_named(store, tmp_path, broken):
    for path in store.dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["normalizers"]["price"] = broken
    # As releases up to 0.2.0 wrote it: otherwise the edit is refused before anything is restored.
    del manifest["checksum"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="column 'price' cannot be restored"):
        restore_processor(tmp_path)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.array([0, 1, 2]), "item_counts has 3 entries, but the item table has 5 rows"),
        (np.array([1, 1, 2, 1, 1]), "item_counts must not be negative, and 0 for item 0"),
        (np.array([0, -1, 2, 1, 1]), "item_counts must not be negative"),
        (np.array([0.0, 1, 2, 1, 1]), "column 'item_counts' holds float64, but must hold integers"),
        (np.array([0, 0, 0, 0, 0]), "no training rows to fit the raw columns of the items on"),
    ],
)
def test_bad_counts_are_refused(tmp_path, counts, message):
    with pytest.raises(DataError, match=message):
        write_counted(tmp_path, counts)


def write_counted(root, counts):
    with builder(root, feature_cols=COLUMNS) as building:
        building.fit(pl.DataFrame({"price": [1.0]}), item_counts=counts)
        building.write_items({"cost": np.array([0, 10, 20, 30, 40]), "brand": np.array(["", "A", "B", "A", "C"])})
