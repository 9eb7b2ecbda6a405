"""Large numbers without a normaliser are named once, when the dataset is built."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.store.number_scales import NumberScales
from tests.helpers.store_build import FEATURE_COLS, build, builder, item_rows, split_rows

PRICE = {"name": "price", "type": "numeric", "dtype": "float", "active": True}


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), max_size=8), min_size=1, max_size=5))
def test_moments_over_pieces_are_those_of_the_whole(pieces):
    scales = NumberScales([PRICE])
    for piece in pieces:
        scales.add({"price": np.array(piece, dtype=np.float32), "other": np.array(piece)})
    whole = np.concatenate([np.array(piece, dtype=np.float32) for piece in pieces]).astype(float)
    found = scales._moments["price"]
    assert found.count == len(whole)
    if len(whole):
        assert found.mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-6)
        assert found.std == pytest.approx(whole.std(), rel=1e-4, abs=0.05)


def with_prices(scale):
    splits = {"train": split_rows(40, 0), "valid": split_rows(10, 1)}
    for columns, _, _ in splits.values():
        columns["price"] = columns["price"] * scale + scale
    return splits


def test_large_numbers_are_named_once(tmp_path, caplog):
    manifest = build(tmp_path, splits=with_prices(1000))
    (record,) = (one for one in caplog.records if "numbers without a scale" in one.message)
    assert record.message.startswith("dataset 'tiny': numbers without a scale spoil the training: 'price' (mean ")
    assert "normalizer: StandardScaler" in record.message
    assert manifest.splits["train"].rows == 40


@pytest.mark.parametrize("case", ["small", "only outside of training", "normalised"])
def test_other_numbers_are_not(tmp_path, caplog, case):
    splits = with_prices(1000 if case != "small" else 1)
    if case == "only outside of training":
        splits["train"] = split_rows(40, 0)
    columns = FEATURE_COLS
    if case == "normalised":
        columns = [c | {"normalizer": "StandardScaler"} if c["name"] == "price" else c for c in FEATURE_COLS]
        build_normalised(tmp_path, splits, columns)
    else:
        build(tmp_path, splits=splits)
    assert not [one for one in caplog.records if "numbers without a scale" in one.message]


def build_normalised(root, splits, columns):
    with builder(root, feature_cols=columns) as building:
        building.fit(pl.DataFrame({"price": splits["train"][0]["price"]}))
        building.write_items(item_rows())
        for split, rows in splits.items():
            building.append(split, *rows)
        building.finish(split_method="as given")
