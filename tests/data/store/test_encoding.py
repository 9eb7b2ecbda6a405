"""FuxiCTR's processor behind checks: raw columns, its vocabularies on disk, and its faults."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from fuxictr.preprocess import FeatureProcessor
from fuxictr.preprocess.tokenizer import Tokenizer

from fuxictr_multimodal.data.store import Store, read_item_table
from fuxictr_multimodal.data.store.encoding import StoreFeatureProcessor
from fuxictr_multimodal.data.store.feature_map import load_feature_map, restore_processor
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.store_build import LABEL_COL, build, builder

COLUMNS: list[dict[str, Any]] = [
    {"name": "user_id", "active": True, "dtype": "int", "type": "meta"},
    {"name": "city", "active": True, "dtype": "str", "type": "categorical"},
    {"name": "age", "active": True, "dtype": "int", "type": "categorical", "min_categr_count": 2},
    {"name": "price", "active": True, "dtype": "float", "type": "numeric", "normalizer": "StandardScaler"},
    {"name": "score", "active": True, "dtype": "float", "type": "numeric", "normalizer": "MinMaxScaler"},
    {"name": "words", "active": True, "dtype": "str", "type": "sequence", "max_len": 3},
    {"name": "level", "active": True, "dtype": "int", "type": "categorical", "vocab_size": 4},
    {"name": "item_id", "active": True, "dtype": "int", "type": "categorical", "source": "item"},
    {"name": "tags", "active": True, "dtype": "str", "type": "sequence", "source": "item", "splitter": ","},
    {"name": "brand", "active": True, "dtype": "str", "type": "categorical", "source": "item"},
    {"name": "emb", "active": True, "dtype": "float", "type": "embedding", "source": "item"},
]
TRAIN = pl.DataFrame(
    {
        "city": ["b", "a", "a", None],
        "age": [30, 30, 20, 40],
        "price": [1.0, 2.0, 3.0, 6.0],
        "score": [2, 4, 4, 3],
        "words": ["x^y", "", "x^y^z^w", None],
        "tags": [["p", "q"], ["p"], ["p"], ["r"]],
        "brand": ["B", "C", "B", "B"],
    }
)
ITEMS = {
    "tags": np.array([["", ""], ["p", ""], ["q", "unseen"]]),
    "brand": np.array(["", "B", "unseen"]),
    "emb": np.array([[0.0, 0], [1, 2], [3, 4]]),
}
ROWS = {
    "user_id": np.arange(4),
    "city": np.array(["a", "unseen", None, "b"], dtype=object),
    "age": np.array([30, 20, 1, 30]),
    "price": np.array([1.0, 2.0, 3.0, 6.0]),
    "score": np.array([2.0, 3.0, 4.0, 6.0]),
    "words": np.array(["x", "y^unseen", "", "w^z^y^x"], dtype=object),
    "level": np.arange(4),
    "item_id": np.array([1, 2, 1, 2]),
    "label": np.array([0, 1, 0, 1]),
}
# What FuxiCTR's rules give by hand: categories by falling count then name, from 1; OOV last; padding 0.
ENCODED = {
    "city": [1, 3, 3, 2],
    "age": [1, 2, 2, 1],
    "price": [(value - 3) / np.sqrt(3.5) for value in (1, 2, 3, 6)],
    "score": [0, 0.5, 1, 2],
    "words": [[1, 0, 0], [2, 5, 0], [0, 0, 0], [3, 4, 2]],
    "level": [0, 1, 2, 3],
}


def raw_build(data_root, columns=COLUMNS, train=TRAIN, items=ITEMS, rows=ROWS):
    with builder(data_root, feature_cols=columns) as building:
        building.fit(train)
        building.write_items(items)
        for split in ("train", "valid"):
            building.append(split, rows, np.array([1, 2]), np.array([0, 1, 2, 2, 2]))
        return building.finish(split_method="as given")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    raw_build(root)
    return Store.open(root, "tiny")


def processor(tmp_path, columns):
    return StoreFeatureProcessor(feature_cols=columns, label_col=LABEL_COL, dataset_id="tiny", data_dir=tmp_path)


def column(name, **changes):
    return next(column for column in COLUMNS if column["name"] == name) | changes


def test_raw_rows_are_encoded_by_fuxictrs_rules(store):
    with store.reader("train") as reader:
        for name, expected in ENCODED.items():
            np.testing.assert_allclose(reader.read(name, 0, 4), np.array(expected, np.float32), atol=1e-6)
    items = read_item_table(store.dir)
    assert items["tags"].tolist() == [[0, 0], [1, 0], [2, 4]]
    assert items["brand"].tolist() == [0, 1, 3]


def test_encoding_distinct_values_equals_fuxictr_row_by_row(store):
    restored = restore_processor(store.dir)
    rng = np.random.default_rng(0)
    batch = {
        "city": rng.choice(["a", "b", "c", ""], 200).astype(object),
        "age": rng.integers(10, 50, 200),
        "words": rng.choice(["x^y", "z", "", "q^w^x^y^z"], 200).astype(object),
        "price": rng.normal(size=200),
    }
    found = restored.transform(batch)
    plain = FeatureProcessor.transform(restored, dict(batch))
    for name in batch:
        np.testing.assert_allclose(found[name], np.asarray(plain[name]), rtol=1e-6)


def test_restored_processor_encodes_new_rows_alike(store):
    restored = restore_processor(store.dir)
    found = restored.transform(ROWS)
    assert list(found) == ["user_id", "level", "item_id", "label", *[n for n in ENCODED if n != "level"]]
    with store.reader("train") as reader:
        for name in ENCODED:
            np.testing.assert_array_equal(found[name], reader.read(name, 0, 4))
    assert restored.transform({"city": pl.Series(["b"])})["city"].tolist() == [2]


def test_no_pickle_is_written_or_read(store):
    names = sorted(path.name for path in store.dir.iterdir())
    assert names == ["feature_map.json", "feature_vocab.json", "item.h5", "manifest.json", "train.h5", "valid.h5"]
    with pytest.raises(DataError, match="no pickled processor"):
        restore_processor(store.dir).load_pickle()


def test_feature_map_is_fuxictrs(store):
    feature_map = load_feature_map(store.dir, "tiny", {"group_id": "user_id", "embedding_dim": 8})
    assert feature_map.labels == ["label"]
    assert feature_map.group_id == "user_id"
    assert list(feature_map.features) == [column["name"] for column in COLUMNS]
    assert feature_map.features["item_id"]["vocab_size"] == 3
    assert feature_map.features["tags"]["max_len"] == 2
    assert feature_map.features["emb"] == {"source": "item", "type": "embedding", "pretrain_dim": 2}
    assert feature_map.sum_emb_out_dim("item") == 4 * 8
    chosen = load_feature_map(
        store.dir,
        "tiny",
        {"use_features": ["emb"], "feature_specs": [{"name": "emb", "feature_encoder": "nn.Linear(2, 8)"}]},
    )
    assert list(chosen.features) == ["emb"]
    assert chosen.features["emb"]["feature_encoder"] == "nn.Linear(2, 8)"


def test_encoded_columns_get_fuxictrs_range_of_ids(tmp_path):
    """Its path without rebuilding: ids 0 to vocab_size - 1, the last one for what is unknown."""
    build(tmp_path)
    vocabulary = json.loads((tmp_path / "tiny" / "feature_vocab.json").read_text())
    assert vocabulary["level"] == {"0": 0, "1": 1, "2": 2, "3": 3, "__OOV__": 4}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"use_features": ["embb"]}, r"use_features: 'embb' is not a feature of .* Did you mean 'emb'\?"),
        ({"feature_specs": [{"name": "embb"}]}, r"feature_specs: 'embb' is not a feature"),
        ({"feature_specs": [{"name": "emb", "feature_encoder": "print()"}]}, r"feature_encoder 'print\(\)' is not"),
    ],
)
def test_parameters_are_checked_before_fuxictr_sees_them(store, params, message):
    with pytest.raises(ConfigError, match=message):
        load_feature_map(store.dir, "tiny", params)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda stored: stored["features"][0]["user_id"].update(type="x"), r"feature 'user_id': type 'x' is unknown"),
        (
            lambda stored: stored["features"][-1]["emb"].update(feature_encoder=["__import__('os')"]),
            r"feature_map.json: feature 'emb': feature_encoder .* is not allowed",
        ),
        (
            lambda stored: stored["features"][1]["city"].update(pretrained_emb="x.h5"),
            r"feature 'city': pretrained_emb is not supported",
        ),
        (lambda stored: stored.update(dataset_id="other"), r"is of dataset 'other', not 'tiny'"),
        (lambda stored: stored.update(labels="label"), r"labels must be a list of names, not 'label'"),
        (lambda stored: stored.pop("features"), r"feature_map.json is damaged"),
        (lambda stored: stored.update(features=[3]), r"feature_map.json is damaged"),
        (lambda stored: stored["features"][1]["city"].update(type="sequence"), r"a feature lacks 'max_len'"),
    ],
)
def test_a_foreign_feature_map_is_refused(store, tmp_path, edit, message):
    stored = json.loads((store.dir / "feature_map.json").read_text())
    edit(stored)
    (tmp_path / "feature_map.json").write_text(json.dumps(stored))
    with pytest.raises((ConfigError, DataError), match=message):
        load_feature_map(tmp_path, "tiny", {})


def test_missing_and_damaged_feature_map(tmp_path):
    with pytest.raises(DataError, match=r"feature_map.json is missing: build the dataset first"):
        load_feature_map(tmp_path, "tiny", {})
    (tmp_path / "feature_map.json").write_text("{")
    with pytest.raises(DataError, match=r"feature_map.json is damaged"):
        load_feature_map(tmp_path, "tiny", {})


def test_raw_columns_without_training_rows(tmp_path):
    with pytest.raises(DataError, match=r"column 'city' is raw .*: pass training rows .* its vocab_size"):
        raw_build(tmp_path, train=None)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (TRAIN.drop("city"), r"training rows: column 'city' is missing"),
        (TRAIN.with_columns(city=1), r"training rows: column 'city' is declared as str, but holds Int32"),
        (TRAIN.with_columns(age=pl.lit("x")), r"training rows: column 'age' is declared as int, but holds String"),
        (TRAIN.with_columns(price=pl.lit("x")), r"'price' is declared as float, but holds String"),
        (TRAIN.with_columns(words=pl.lit(1)), r"'words' is declared as text with '\^' between tokens, or lists"),
        (TRAIN.with_columns(age=pl.int_range(4)), r"column 'age' has no category that occurs 2 times"),
        (TRAIN.with_columns(city=pl.lit("")), r"column 'city' has no category, because every value is missing: leave"),
        (TRAIN.with_columns(words=pl.lit(None, pl.String)), r"column 'words' has no category"),
        (TRAIN.with_columns(price=pl.lit(np.nan)), r"column 'price' has no values, or a NaN or infinite one"),
        (TRAIN.head(0), r"there are no training rows"),
    ],
)
def test_bad_training_rows_are_named(tmp_path, train, message):
    with pytest.raises(DataError, match=message):
        raw_build(tmp_path, train=train)
    assert not list(tmp_path.iterdir())


def test_raw_values_of_another_dtype_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train.h5: column 'city' is declared as str, but holds Int64"):
        raw_build(tmp_path, rows=ROWS | {"city": np.arange(4)})
    with pytest.raises(DataError, match=r"train.h5: row 1, column 'price': value nan is not a finite float32"):
        raw_build(tmp_path, rows=ROWS | {"price": np.array([1, np.nan, 2, 3])})
    for name, value in (("price", -np.inf), ("score", np.inf)):
        with pytest.raises(
            DataError, match=rf"train.h5: row 2, column '{name}': value {value} is not a finite float32"
        ):
            raw_build(tmp_path, rows=ROWS | {name: np.array([1, 2, value, 3])})


def test_raw_padding_row_must_be_empty(tmp_path):
    with pytest.raises(DataError, match=r"item.h5: row 0, column 'brand': .*B.* is not empty, but row 0 is padding"):
        raw_build(tmp_path, items=ITEMS | {"brand": np.array(["B", "B", "C"])})


def test_lists_arrays_and_text_are_one_sequence(tmp_path):
    forms = {
        "text": pl.Series(["a|b", "c", ""]),
        "lists": pl.Series([["a", "b"], ["c"], []]),
        "array": np.array([["a", "b"], ["c", ""], ["", ""]]),
    }
    fitted = processor(tmp_path, [{"name": "t", "dtype": "str", "type": "sequence", "splitter": "|"}])
    fitted.fit(pl.DataFrame({"t": forms["lists"]}))
    for values in forms.values():
        assert fitted.transform({"t": values})["t"].tolist() == [[1, 2], [3, 0], [0, 0]]
    numbers = processor(tmp_path, [{"name": "t", "dtype": "int", "type": "sequence"}])
    numbers.fit(pl.DataFrame({"t": [[7, 9], None, [9]]}))
    assert numbers.transform({"t": np.array([[9, 7], [8, 9]])})["t"].tolist() == [[1, 2], [3, 1]]


def test_categories_of_polars(tmp_path):
    fitted = processor(tmp_path, [column("city")])
    fitted.fit(pl.DataFrame({"city": pl.Series(["a", "b", "a"], dtype=pl.Categorical)}))
    assert fitted.transform({"city": np.array(["b", "a"])})["city"].tolist() == [2, 1]


def test_shared_embeddings_share_a_vocabulary(tmp_path):
    columns = [column("city"), column("city") | {"name": "home", "share_embedding": "city"}]
    fitted = processor(tmp_path, columns)
    fitted.fit(pl.DataFrame({"city": ["a", "b"], "home": ["c", "a"]}))
    found = fitted.transform({"city": np.array(["a", "c"]), "home": np.array(["c", "a"])})
    assert found["city"].tolist() == found["home"].tolist()[::-1]
    with pytest.raises(ConfigError, match=r"columns 'city' and 'home' share an embedding: give vocab_size to both"):
        processor(tmp_path, [columns[0], columns[1] | {"vocab_size": 3}])


def test_numbers_and_texts_of_a_shared_vocabulary_are_one_token(tmp_path):
    """FuxiCTR would keep 5 and "5" apart, and nothing would be shared."""
    columns: list[dict[str, Any]] = [
        column("age", min_categr_count=1) | {"name": "item"},
        {"name": "clicks", "dtype": "str", "type": "sequence", "share_embedding": "item", "max_len": 3},
        column("age", min_categr_count=1) | {"name": "alone"},
    ]
    train = pl.DataFrame({"item": [5, 9, 9], "clicks": ["5^7", "9", "7^7"], "alone": [5, 9, 9]})
    rows = {
        "item": np.array([9, 5, 7, 1]),
        "clicks": pl.Series(["9^5^7", "1", "", "7"]),
        "alone": np.array([5, 9, 7, 1]),
    }
    fitted = processor(tmp_path, columns)
    fitted.fit(train)
    found = fitted.transform(rows)
    assert found["item"].tolist() == [
        found["clicks"][0, 0],
        found["clicks"][0, 1],
        found["clicks"][0, 2],
        found["clicks"][1, 0],
    ]
    assert len(set(found["item"].tolist())) == 4
    assert found["alone"].tolist() == [1, 2, 3, 3]
    vocabulary = json.loads((tmp_path / "feature_vocab.json").read_text())
    assert vocabulary["item"] == vocabulary["clicks"]
    with builder(tmp_path / "data", feature_cols=columns, item_col=None, group_id=None) as building:
        building.fit(train)
        for split in ("train", "valid"):
            building.append(split, rows | {"label": np.array([0, 1, 0, 1])})
        building.finish(split_method="as given")
    again = restore_processor(tmp_path / "data" / "tiny").transform(rows)
    for name, codes in found.items():
        np.testing.assert_array_equal(again[name], codes)


@pytest.mark.parametrize("normalizer", ["StandardScaler", "MinMaxScaler"])
def test_constant_numeric_column(tmp_path, normalizer):
    fitted = processor(tmp_path, [column("price", normalizer=normalizer)])
    fitted.fit(pl.DataFrame({"price": [2.0, 2.0]}))
    assert fitted.transform({"price": np.array([2.0, 3.0])})["price"].tolist() == [0.0, 1.0]


def test_statistics_do_not_depend_on_threads(tmp_path):
    """FuxiCTR's streaming mean adds in any order; ours are numpy's."""
    values = np.random.default_rng(0).normal(1e6, 1, 300_000)
    fitted = processor(tmp_path, [column("price")])
    fitted.fit(pl.DataFrame({"price": values}))
    assert fitted.normalizers["price"]["mean"] == float(values.mean())
    assert fitted.normalizers["price"]["std"] == float(values.std())


@pytest.mark.parametrize(
    "columns",
    [
        [column("price")],
        [column("words")],
        [column("price"), column("words")],
        [column("tags", source="")],
        [{"name": "plain", "dtype": "float", "type": "numeric"}],
    ],
)
def test_any_mix_of_sequences_can_be_fitted(tmp_path, columns):
    """With and without max_len: the reading of lengths is its own branch in FuxiCTR."""
    processor(tmp_path, columns).fit(TRAIN)


# What the guards are for. A test here fails when FuxiCTR mends it: then drop the guard.


def test_fuxictr_still_crashes_on_an_empty_vocabulary():
    with pytest.raises(IndexError):
        Tokenizer().build_vocab({"": 3})


def test_fuxictr_still_evaluates_dtypes(tmp_path):
    hostile = {"name": "x", "dtype": "[].append(1)", "type": "meta"}
    found = FeatureProcessor(feature_cols=[hostile], label_col=[], dataset_id="tiny", data_root=str(tmp_path))
    assert found.dtype_dict["x"] is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the file open
def test_fuxictr_still_pickles(tmp_path):
    plain = FeatureProcessor(
        feature_cols=[column("level")], label_col=LABEL_COL, dataset_id="t", data_root=str(tmp_path)
    )
    plain.fit(None, rebuild_dataset=False)
    assert (tmp_path / "t" / "feature_processor.pkl").exists()


def test_fuxictr_still_cannot_bucket(tmp_path):
    bucket = column("age", category_processor="hash_bucket")
    plain = FeatureProcessor(feature_cols=[bucket], label_col=LABEL_COL, dataset_id="t", data_root=str(tmp_path))
    with pytest.raises(KeyError, match="oov_idx"):
        plain.fit(TRAIN.lazy())


def test_fuxictr_still_trips_over_lists_of_text(tmp_path):
    plain = FeatureProcessor(feature_cols=[column("tags")], label_col=[], dataset_id="t", data_root=str(tmp_path))
    with pytest.raises(pl.exceptions.InvalidOperationError, match="List"):
        plain.preprocess(TRAIN.lazy()).collect()


def test_fuxictr_still_keeps_numbers_and_their_texts_apart(tmp_path):
    columns = [
        column("age", min_categr_count=1) | {"name": "item"},
        {"name": "clicks", "active": True, "dtype": "str", "type": "sequence", "share_embedding": "item"},
    ]
    plain = FeatureProcessor(feature_cols=columns, label_col=[], dataset_id="t", data_root=str(tmp_path))
    plain.save_pickle = lambda file: None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In Polars 2.0", category=DeprecationWarning)
        plain.fit(pl.DataFrame({"item": [5, 9], "clicks": ["5", "9"]}).lazy())
    found = plain.transform({"item": [5], "clicks": ["5"]})
    assert found["item"][0] != found["clicks"][0][0]
