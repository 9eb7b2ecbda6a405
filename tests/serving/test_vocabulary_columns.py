"""Columns of every kind: requests and items are encoded as samples and the item table are."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.entry.build import build_entry, open_or_build
from fuxictr_multimodal.serving.runtime.errors import RequestError
from tests.helpers.serving_parity import assert_as_predicted, assert_items_as_stored, vocabulary

LABEL = {"name": "label", "dtype": "float"}
ROWS, NEW = 40, 12


def column_of(kind, name, draw):
    """A column with drawn settings."""

    def maybe(key, *values):
        value = draw(st.sampled_from([None, *values]))
        return {} if value is None else {key: value}

    column = {"name": name, "active": True, "type": "categorical"}
    if kind == "text category":
        return {**column, "dtype": "str", **maybe("min_categr_count", 2, 4), **maybe("fill_na", "a", "none")}
    if kind == "number category":
        return {**column, "dtype": "int", **maybe("min_categr_count", 2, 4), **maybe("fill_na", 0, 2)}
    if kind == "encoded category":
        return {**column, "dtype": "int", "vocab_size": draw(st.integers(6, 8)), **maybe("fill_na", 3)}
    if kind == "hash of text":
        return {**column, "dtype": "str", "category_processor": "hash_bucket", **maybe("num_buckets", 3)}
    if kind == "hash of number":
        buckets = {"category_processor": "hash_bucket", "num_buckets": 4}
        return {**column, "dtype": "int", **buckets, **maybe("fill_na", 7)}
    if kind == "bins":
        own = {"category_processor": "quantile_bucket", **maybe("num_buckets", 2, 4), **maybe("fill_na", 1.5)}
        return {**column, "dtype": draw(st.sampled_from(["int", "float"])), **own}
    if kind == "number":
        own = {"dtype": draw(st.sampled_from(["int", "float"])), **maybe("fill_na", 2)}
        return {**column, "type": "numeric", **own, **maybe("normalizer", "StandardScaler", "MinMaxScaler")}
    if kind == "vector":
        return {**column, "dtype": "float", "type": "embedding", "pretrain_dim": 3}
    column |= {"type": "sequence", "max_len": draw(st.integers(1, 4)), **maybe("padding", "pre", "post")}
    column |= maybe("splitter", "|", " ")
    if kind == "encoded sequence":
        return {**column, "dtype": "int", "vocab_size": 6}
    column |= {"dtype": "str", **maybe("min_categr_count", 3)}
    # A missing text is `fill_na` and a missing list an empty one; a request has one value for both, see the csv test.
    return column if "min_categr_count" in column else {**column, **maybe("fill_na", "a")}


def values_of(column, rows, rng, *, new):
    """Raw values with gaps; new samples also have some that train lacks."""
    kind, splitter = column["type"], column.get("splitter", "^")
    few, encoded = 6 if new else 4, "vocab_size" in column

    def gaps(values):
        return [None if rng.random() < 0.2 else value for value in values]

    if kind == "embedding":
        return pl.Series(column["name"], gaps(rng.normal(size=(rows, 3)).tolist()), dtype=pl.List(pl.Float64))
    if kind == "sequence":
        lists = [rng.integers(0, few, rng.integers(0, 6)).tolist() for _ in range(rows)]
        if encoded:
            lists = [[3 * one if new else one for one in values] for values in lists]
            return pl.Series(column["name"], gaps(lists), dtype=pl.List(pl.Int64))
        words = [[f"w{one}{splitter}x" if one == 3 else f"w{one}" if one else "a" for one in v] for v in lists]
        if column["min_categr_count"] == 3:  # these are written as texts
            return pl.Series(column["name"], gaps([splitter.join(one) for one in words]), dtype=pl.String)
        return pl.Series(column["name"], gaps(words), dtype=pl.List(pl.String))
    if column["dtype"] == "str":
        known = ["a", "b", "none", "", "new", "__PAD__"]
        words = [known[one] for one in rng.integers(0, few, rows)]
        return pl.Series(column["name"], gaps(words), dtype=pl.String)
    if column["dtype"] == "float":
        return pl.Series(column["name"], gaps(rng.normal(3, 10, rows).round(2).tolist()), dtype=pl.Float64)
    codes = rng.integers(0 if encoded else -1, few + (10 if encoded and new else 0), rows)
    return pl.Series(column["name"], gaps(codes.tolist()), dtype=pl.Int64)


KINDS = ["text category", "number category", "encoded category", "hash of text", "hash of number", "bins", "number",
         "vector", "encoded sequence", "sequence"]  # fmt: skip


@st.composite
def made_columns(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=3, max_size=6))
    columns = [column_of(kind, f"c{number}", draw) for number, kind in enumerate(kinds)]
    for column in columns:
        column.setdefault("min_categr_count", 1)
    return columns, draw(st.integers(0, 2**16))


def of_item(column):
    """The column in the item table, where the row of padding would take `fill_na` of a column that is not fitted."""
    not_fitted = "vocab_size" in column or (column["type"] == "numeric" and "normalizer" not in column)
    kept = {key: value for key, value in column.items() if key != "fill_na" or not not_fitted}
    return {**kept, "source": "item"}


def frame_of(columns, rows, rng, *, new):
    # Without a gap in the first rows, so that every column has something to learn from.
    return pl.DataFrame([values_of(column, rows, rng, new=new) for column in columns])


def learnable(frame, columns):
    """Whether FuxiCTR can fit the columns: a category that is frequent enough, or a number."""
    for column in columns:
        series = frame[column["name"]].drop_nulls()
        if column["type"] in ("categorical", "sequence") and "category_processor" not in column:
            counts = series.explode(empty_as_null=False) if series.dtype == pl.List else series
            counts = counts.filter(~counts.is_in(["", "a", "none"])) if counts.dtype == pl.String else counts
            if counts.value_counts()["count"].max() is None or counts.value_counts()["count"].max() < 5:
                return False
        if not len(series):
            return False
    return True


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=made_columns())
def test_samples_without_items(tmp_path_factory, made):
    columns, seed = made
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("flat")
    train = frame_of(columns, ROWS, rng, new=False).with_columns(label=pl.Series(np.arange(ROWS) % 2))
    if not learnable(train, columns):
        return
    params = {"dataset_id": "Flat", "data_root": str(folder), "feature_cols": columns, "label_col": LABEL}
    store = build_entry(params, frames={"train_data": train, "valid_data": train})
    assert_as_predicted(store, params, frame_of(columns, NEW, rng, new=True), folder / "new.parquet")


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=made_columns())
def test_items_are_encoded_as_in_the_item_table(tmp_path_factory, made):
    columns, seed = made
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("items")
    ids = [f"i{n}" for n in range(ROWS)]
    items = frame_of(columns, ROWS, rng, new=False).with_columns(item_id=pl.Series(ids))
    if not learnable(items, columns):
        return
    own = {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"}
    cols = [own, *(of_item(column) for column in columns)]
    train = pl.DataFrame({"item_id": ids, "label": np.arange(ROWS) % 2})
    params = {"dataset_id": "Items", "data_root": str(folder), "feature_cols": cols, "label_col": LABEL}
    store = build_entry(params, frames={"train_data": train, "valid_data": train, "item_data": items})
    assert_items_as_stored(store, params, items)


def test_a_category_of_numbers_that_shares_a_vocabulary_with_texts(tmp_path: Path):
    columns = [
        {"name": "shop", "active": True, "dtype": "int", "type": "categorical"},
        {"name": "seen", "active": True, "dtype": "str", "type": "sequence", "max_len": 3, "share_embedding": "shop"},
    ]
    train = pl.DataFrame({"shop": [5, 6, 7, 5], "seen": [[6, 8], [5], [], [9, 9]], "label": [0, 1, 0, 1]})
    params = {"dataset_id": "Shared", "data_root": str(tmp_path), "feature_cols": columns, "label_col": LABEL}
    store = build_entry(params, frames={"train_data": train, "valid_data": train})
    new = pl.DataFrame({"shop": [9, 5, None, 77, 0], "seen": [[5, 7, 9, 6], [77, 8], [5, None], None, [8]]})
    assert_as_predicted(store, params, new, tmp_path / "new.parquet")


@pytest.mark.parametrize("fill", [{}, {"fill_na": "b"}])
def test_a_csv_file_of_samples(tmp_path: Path, fill):
    columns = [
        {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "splitter": "|", "max_len": 3, **fill},
        {"name": "city", "active": True, "dtype": "str", "type": "categorical", "preprocess": "copy_from(town)"},
        {"name": "price", "active": True, "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    ]
    train = pl.DataFrame(
        {"tags": ["a|b", "b", None, "c|c"], "town": ["x", "y", None, "x"], "price": [1.5, 2, None, 9.1],
         "label": [0, 1, 1, 0]}
    )  # fmt: skip
    train.write_csv(tmp_path / "train.csv")
    files = {f"{split}_data": str(tmp_path / "train.csv") for split in ("train", "valid")}
    params = {"dataset_id": "Csv", "data_root": str(tmp_path / "data"), "data_format": "csv", "feature_cols": columns}
    params |= {"label_col": LABEL, **files}
    new = pl.DataFrame({"tags": ["a|zz|b|c", None, "|"], "town": ["y", "new", None], "price": [3.25, None, 100.0]})
    assert_as_predicted(build_entry(params), params, new, tmp_path / "new.csv")


def test_data_that_fuxictr_prepared(tmp_path: Path):
    features = [
        {"user": {"source": "user", "type": "categorical", "vocab_size": 9}},
        {"price": {"source": "", "type": "numeric"}},
        {"item": {"source": "item", "type": "categorical", "vocab_size": 12}},
        {"clicks": {"source": "", "type": "sequence", "share_embedding": "item", "vocab_size": 12, "max_len": 4}},
        {"group": {"source": "", "type": "meta"}},
        {"vector": {"source": "", "type": "embedding", "pretrain_dim": 2}},
    ]
    folder, rng, rows = tmp_path / "data/Fuxi", np.random.default_rng(4), 20
    folder.mkdir(parents=True)
    written = {"dataset_id": "Fuxi", "num_fields": 5, "labels": ["clk"], "features": features}
    (folder / "feature_map.json").write_text(json.dumps(written))

    def arrays(most):
        return {
            "user": rng.integers(0, most * 9, rows), "price": rng.normal(size=rows), "group": np.arange(rows),
            "item": rng.integers(1, most * 12, rows), "clicks": rng.integers(0, most * 12, (rows, 4)),
            "vector": rng.normal(size=(rows, 2)),
        }  # fmt: skip

    for split in ("train", "valid"):
        np.savez(folder / f"{split}.npz", clk=np.arange(rows) % 2, **arrays(1))
    files = {f"{split}_data": str(folder / f"{split}.npz") for split in ("train", "valid")}
    params = {"dataset_id": "Fuxi", "data_root": str(tmp_path / "data"), "data_format": "npz", **files}
    store = open_or_build(params)
    new = pl.DataFrame({name: values.tolist() for name, values in arrays(2).items()})
    assert_as_predicted(store, params, new, tmp_path / "new.parquet")
    sample = new.row(0, named=True)
    with pytest.raises(RequestError, match="column 'user': the value is missing"):
        vocabulary(store, params).context({**sample, "user": None})
    with pytest.raises(RequestError, match="column 'clicks': -1 is no code; codes count from 0"):
        vocabulary(store, params).context({**sample, "clicks": [3, -1]})
