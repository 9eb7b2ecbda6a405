"""What a vocabulary asks for, refuses and reads back: columns of a run, wrong values, items, damaged files."""

import json

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.entry.build import build_entry
from fuxictr_multimodal.data.store import read_item_table
from fuxictr_multimodal.serving.runtime.errors import FolderError, RequestError
from fuxictr_multimodal.serving.runtime.vocabulary import Vocabulary
from fuxictr_multimodal.serving.vocabulary import vocabulary_of
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo.histories import keep_events
from tests.helpers import ready_samples, shop
from tests.helpers.serving_parity import assert_items_as_stored, feature_map_of, vocabulary

SHOP_COLS = [
    {"name": "user_id", "active": True, "dtype": "str", "type": "meta"},
    {"name": "device", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "country", "active": True, "dtype": "str", "type": "categorical", "source": "user"},
    {"name": "age", "active": True, "dtype": "int", "type": "numeric", "source": "user", "normalizer": "MinMaxScaler"},
    {"name": "item_id", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "categories", "active": True, "dtype": "str", "type": "sequence", "source": "item"},
    {"name": "price", "active": True, "dtype": "float", "type": "categorical", "source": "item",
     "category_processor": "quantile_bucket", "num_buckets": 4},
    {"name": "vector", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
    {"name": "title", "active": True, "dtype": "str", "type": "text", "source": "item", "pretrain_dim": 5},
]  # fmt: skip


@pytest.fixture(scope="module")
def shop_log(tmp_path_factory):
    """A dataset of the shop's log with its entry."""
    folder = tmp_path_factory.mktemp("shop")
    files = shop.write(folder / "raw", events=600)
    params = {
        "dataset_id": "Shop", "data_root": str(folder / "data"), "data_format": "parquet", "max_len": 4,
        "interactions": {
            "file": str(files / "log.parquet"), "user": "user_id", "item": "item_id", "time": "timestamp",
            "label": "click",
        },
        "item_data": str(files / "items.parquet"), "user_data": str(files / "users.csv"), "feature_cols": SHOP_COLS,
        "label_col": {"name": "label", "dtype": "float"},
        "event_cols": [{"name": "hour"}, {"name": "dwell_time", "bins": 3}],
    }  # fmt: skip
    return build_entry(params), params


@pytest.fixture(scope="module")
def own(shop_log):
    return vocabulary(*shop_log)


CONTEXT = {"device": "phone", "country": "de", "age": 30}
NOW = 1_701_000_000


def test_a_request_is_asked_for_what_the_run_reads(shop_log, own):
    assert own.request_columns == ("device", "country", "age")
    assert own.context_columns == ("device", "country", "age", "hour", "dwell_time")
    assert own.event_columns == ("hour", "dwell_time")
    assert (own.item_column, own.item_features) == ("item_id", ("item_id", "categories", "price", "vector", "title"))
    assert own.ids is not None
    assert own.ids[:2] == [None, "sku-0000"]
    assert own.rows == len(own.ids) == shop_log[0].manifest.items
    feature_map = feature_map_of(shop_log[0])
    keep_events(feature_map, ["hour"])
    del feature_map.features["device"]
    less = vocabulary(*shop_log, feature_map)
    assert (less.request_columns, less.event_columns) == (("country", "age"), ("hour",))
    # A client that sends what another run reads is served.
    assert less.context(CONTEXT, time=NOW).keys() == {"country", "age", "hour"}
    assert less.events("history", {"time": [NOW], "dwell_time": [1.0]}, length=1).keys() == {"hour"}


def test_columns_of_the_dataset_that_no_model_reads_may_be_there(own):
    plain = own.context(CONTEXT, time=NOW)
    more = own.context({**CONTEXT, "user_id": "u001", "timestamp": NOW}, time=None)
    assert {name: values.tolist() for name, values in more.items()} == {n: v.tolist() for n, v in plain.items()}


def test_features_of_items_are_those_of_the_item_table(shop_log, own):
    store, params = shop_log
    stored = read_item_table(store.dir / "item.h5")
    titles = pl.Series("title", stored["title"][1:].tolist())
    # A text was made a vector while the dataset was built: an item comes with its vector.
    assert_items_as_stored(store, params, shop.items().with_columns(titles))
    assert {name: values.shape for name, values in own.items([]).items()} == {
        name: (0, *values.shape[1:]) for name, values in stored.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": None, "contry": "de"}, "context: column 'contry' is unknown; did you mean 'country'\\?"),
        ({"country": ...}, "context: column 'country' is missing"),
        ({"device": ["phone"]}, "column 'device': \\['phone'\\] is no category; categories are texts or whole numbers"),
        ({"device": float("nan")}, "column 'device': nan is no category"),
        ({"age": "old"}, "column 'age': 'old' is no whole number"),
        ({"age": 30.5}, "column 'age': 30.5 is no whole number"),
        ({"age": float("inf")}, "column 'age': inf is no whole number"),
        ({"age": 10**30}, "column 'age': 1000000000000000000000000000000 is no whole number"),
        ({"age": {"years": 3}}, "column 'age': {'years': 3} is no whole number"),
    ],
)
def test_a_wrong_context_is_one_sentence(own, change, message):
    context = {name: value for name, value in {**CONTEXT, **change}.items() if value is not ...}
    with pytest.raises(RequestError, match=f"^{message}"):
        own.context(context, time=NOW)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"dwell_time": [1.0, 2.0]}, "'time' is missing: the model reads 'hour'"),
        ({"time": [NOW, NOW], "dwell": [1, 2]}, "'dwell' is unknown; did you mean 'dwell_time'\\?"),
        ({"time": [NOW], "dwell_time": [1, 2]}, "'time' has 1 values for 2 items of the history"),
        ({"time": NOW, "dwell_time": [1, 2]}, "'time' must be a list, but it is 1701000000"),
        ({"time": [NOW, None], "dwell_time": [1, 2]}, "'time': the time is missing"),
        ({"time": [NOW, "today"], "dwell_time": [1, 2]}, "'time': 'today' is no time: give whole numbers, or dates"),
        ({"time": [NOW, "2023-11-26 12:00:00"], "dwell_time": [1, 2]}, "'time': times are not alike"),
        ({"time": [NOW, 1000 * NOW], "dwell_time": [1, 2]}, "'time': 1701000000000 is after the year 2200 in s"),
        ({"time": [NOW, NOW], "dwell_time": [1, float("nan")]}, "'dwell_time': nan is not a finite number"),
        ([NOW, NOW], "\\[1701000000, 1701000000\\] is no mapping of names to lists"),
    ],
)
def test_wrong_events_are_one_sentence(own, events, message):
    with pytest.raises(RequestError, match=f"^events of 'history'[:,] {message}"):
        own.events("history", events, length=2, context=CONTEXT, time=NOW)


def test_a_request_without_its_time(own):
    message = "the request needs its `time`, or its column 'timestamp' in the context: the model reads 'hour'"
    with pytest.raises(RequestError, match=message):
        own.context(CONTEXT)
    assert own.events("history", {}, length=0).keys() == {"hour", "dwell_time"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": [0.0] * 23}, "column 'vector': a vector of 23 numbers, but the model reads 24"),
        ({"vector": [0.0] * 23 + [float("inf")]}, "column 'vector': the vector holds inf, which is no finite float32"),
        ({"vector": [0.0] * 23 + [1e39]}, "column 'vector': the vector holds 1e\\+39, which is no finite float32"),
        ({"vector": [0.0] * 23 + ["x"]}, "column 'vector': 'x' is no number"),
        ({"vector": [0.0] * 23 + [None]}, "column 'vector': the vector holds None, which is no number"),
        ({"vector": 7}, "column 'vector': 7 is no list of numbers"),
        ({"vector": [[0.0] * 24]}, "column 'vector': a vector of 1 numbers"),
        ({"categories": 5}, "column 'categories': 5 is no list, nor a text with '\\^' between its values"),
        ({"categories": [["a"]]}, "column 'categories': \\['a'\\] is no category"),
        ({"price": "cheap"}, "column 'price': 'cheap' is no number"),
        ({"price": ...}, "column 'price' is missing; it has item_id, categories, vector, title"),
    ],
)
def test_a_wrong_item_is_named(own, change, message):
    right = {"item_id": "new 1", "categories": ["kind1"], "price": 3.0, "vector": [0.5] * 24, "title": [0.0] * 5}
    wrong = {name: value for name, value in {**right, "item_id": "new 2", **change}.items() if value is not ...}
    with pytest.raises(RequestError, match=f"^item 'new 2': {message}"):
        own.items([right, wrong])


def test_lists_of_numpy_and_texts_are_lists(own):
    item = {"item_id": "x", "categories": ["kind1", "half0"], "price": 3, "vector": [0.5] * 24, "title": None}
    expected = {name: values.tolist() for name, values in own.items([item]).items()}
    other = {**item, "categories": "kind1^half0", "price": np.float32(3), "vector": np.full(24, 0.5, np.float32)}
    assert {name: values.tolist() for name, values in own.items([other]).items()} == expected
    text = {**item, "vector": f"[{', '.join(['0.5'] * 24)}]", "categories": np.array(["kind1", "half0"])}
    assert {name: values.tolist() for name, values in own.items([text]).items()} == expected


def test_columns_have_the_names_of_the_files(tmp_path):
    def copied(column):
        raw = {"city": "copy_from(town)", "brand": "copy_from(maker)"}.get(column["name"])
        return column if raw is None else {**column, "preprocess": raw}

    frames = {
        "train_data": ready_samples.make_rows(0, 60),
        "valid_data": ready_samples.make_rows(1, 30),
        "item_data": ready_samples.make_items().rename({"brand": "maker"}),
        "user_data": ready_samples.make_users().rename({"city": "town"}),
    }
    params = ready_samples.entry_of(tmp_path, feature_cols=[copied(c) for c in ready_samples.COLUMNS], test_data=None)
    store = build_entry(params, frames=frames)
    found = vocabulary(store, params)
    assert found.request_columns == ("town", "hour", "price_paid")
    assert found.context_columns == ("city", "hour", "price_paid")
    assert_items_as_stored(store, params, frames["item_data"])


def test_a_generated_dataset_has_row_numbers_for_ids(run_qin, data_root, repository, tmp_path):
    settings = [f"data_root={data_root}", f"model_root={tmp_path}"]
    experiment = Experiment.load(repository / "config", "QIN_test", overrides=settings)
    feature_map = experiment.feature_map()
    content = vocabulary_of(experiment.store, feature_map, experiment.params)
    (tmp_path / "vocabulary.json").write_text(json.dumps(content))
    own = Vocabulary.read(tmp_path / "vocabulary.json")
    assert own.ids is None
    stored = read_item_table(experiment.store.dir / "item.h5")
    assert set(own.item_features) == set(stored)
    raw = [{name: values[row].tolist() for name, values in stored.items()} for row in range(1, own.rows)]
    for name, values in own.items(raw).items():
        assert np.array_equal(values, stored[name][1:]), name
    with experiment.store.reader("valid") as reader:
        columns = {name: reader.read(name, 0, 50) for name in own.request_columns}
    for row in range(50):
        found = own.context({name: values[row] for name, values in columns.items()})
        assert {name: one[0] for name, one in found.items()} == {name: v[row] for name, v in columns.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: export the model again"),
        ("{", "is damaged"),
        ('{"format": 2}', "has format 2, but this release reads 1: export the model again"),
        ('{"format": 1, "context": [{"name": "x", "kind": "guess"}], "events": [], "items": null}', "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "vocabulary.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FolderError, match=message):
        Vocabulary.read(path)
