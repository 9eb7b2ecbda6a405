"""Events, behaviours, weights and ids that are wrong are named, and nothing is left on disk."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers import rich_store


def replaced(history, **changes):
    return history._replace(**changes)


def without(columns, name):
    return {key: values for key, values in columns.items() if key != name}


def change(rows, *, columns=None, history=None, behaviours=None):
    return rich_store.Split(
        rows.columns | (columns or {}), history or rows.history, rows.behaviours | (behaviours or {})
    )


def at(values, place, value):
    values = values.copy()
    values[place] = value
    return values


# The first row with items of split_rows(20, 0), and the place of its first item.
BAD = {
    "an event out of its vocabulary": (
        lambda r: change(
            r, history=replaced(r.history, events={**r.history.events, "age": at(r.history.events["age"], 7, 17)})
        ),
        r"train.h5: row {row7}, event column 'age', item {slot7} of the history: value 17 is not in 0 to 16",
    ),
    "events of another length": (
        lambda r: change(
            r, history=replaced(r.history, events={**r.history.events, "age": r.history.events["age"][:-1]})
        ),
        r"train.h5: rows 0 to 19, event column 'age': {less} values for {items} items of the history: give one value",
    ),
    "events of a behaviour missing": (
        lambda r: change(
            r,
            behaviours={"carts": replaced(r.behaviours["carts"], events=without(r.behaviours["carts"].events, "page"))},
        ),
        r"train.h5: event column 'page' of the history 'carts' is missing; found: age",
    ),
    "an event column that is not declared": (
        lambda r: change(
            r, history=replaced(r.history, events={**r.history.events, "pages": r.history.events["page"]})
        ),
        r"event column 'pages' of the history is not in feature_cols. Did you mean 'page'",
    ),
    "events that are numbers with fractions": (
        lambda r: change(
            r, history=replaced(r.history, events={**r.history.events, "age": r.history.events["age"] / 2})
        ),
        r"column 'age of the history' holds float64, but must hold integers",
    ),
    "a behaviour that is not declared": (
        lambda r: change(r, behaviours={"cart": r.history}),
        r"train.h5: behaviour 'cart' is not in the dataset's behaviours. Did you mean 'carts'",
    ),
    "a behaviour of other rows": (
        lambda r: change(r, behaviours={"buys": rich_store.cut(r, 0, 19).behaviours["buys"]}),
        r"history 'buys' offsets have 20 entries, but 20 rows need 21",
    ),
    "an unknown item in a behaviour": (
        lambda r: change(
            r, behaviours={"buys": replaced(r.behaviours["buys"], values=at(r.behaviours["buys"].values, 0, 30))}
        ),
        r"row {buys0}: the history 'buys' holds item 30; the item table has items 1 to 29",
    ),
    "a negative weight": (
        lambda r: change(r, columns={"weight": at(r.columns["weight"], 4, -0.5)}),
        r"train.h5: row 4, column 'weight': value -0.5 is negative: a weight is at least 0",
    ),
    "a weight that is no number": (
        lambda r: change(r, columns={"weight": at(r.columns["weight"], 4, np.nan)}),
        r"train.h5: row 4, column 'weight': value nan is not a finite float32",
    ),
    "no weights in training": (
        lambda r: rich_store.Split(without(r.columns, "weight"), r.history, r.behaviours),
        r"train.h5: column 'weight' is missing",
    ),
    "weights that are all zero": (
        lambda r: change(r, columns={"weight": np.zeros(20)}),
        r"train.h5: column 'weight' is 0 in all 20 rows",
    ),
    "an event of the target out of its vocabulary": (
        lambda r: change(r, columns={"age": at(r.columns["age"], 3, 40)}),
        r"train.h5: row 3, column 'age': value 40 is not in 0 to 16",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_histories_and_weights_are_named_and_leave_nothing(tmp_path, case):
    make, message = BAD[case]
    raw = rich_store.split_rows(20, 0)
    row7 = int(np.searchsorted(raw.history.offsets, 7, side="right")) - 1
    facts = {
        "row7": row7,
        "slot7": 7 - int(raw.history.offsets[row7]),
        "less": len(raw.history.values) - 1,
        "items": len(raw.history.values),
        "buys0": int(np.searchsorted(raw.behaviours["buys"].offsets, 0, side="right")) - 1,
    }
    with pytest.raises(DataError, match=message.format(**facts)):
        rich_store.build_splits(tmp_path, {"train": make(raw), "valid": raw})
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviours": ("carts", "carts")}, "behaviour 'carts' is given twice"),
        ({"behaviours": ("a/b",)}, "'a/b' cannot be the name of a behaviour"),
        ({"item_col": None}, "column 'age': `source: event` needs items and histories"),
        ({"item_col": None, "feature_cols": rich_store.FLAT_COLS}, "behaviours need items, but there are none"),
        ({"weight_col": "city"}, "'city' is both the weight and a feature"),
        ({"weight_col": "label"}, "'label' is both the label and the weight"),
        ({"max_len": None}, "max_len must be an integer of at least 1, not None"),
        (
            {
                "feature_cols": [
                    *rich_store.FEATURE_COLS,
                    {"name": "x", "dtype": "float", "type": "numeric", "source": "event"},
                ]
            },
            "column 'x': an event feature is categorical, not numeric",
        ),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        rich_store.builder(tmp_path, **changes)


def append_histories_to_flat(root):
    flat = {"dataset_id": "flat", "feature_cols": rich_store.FLAT_COLS, "item_col": None, "behaviours": ()}
    columns = rich_store.flat_rows(9, 0)
    with rich_store.builder(root, **flat, weight_col=None) as building:
        building.fit(pl.DataFrame({name: columns[name] for name in ("city", "item", "items")}))
        building.append("train", columns, np.ones(9, int), np.arange(10))


def test_histories_of_a_flat_dataset_are_refused(tmp_path):
    with pytest.raises(DataError, match="histories are given, but the dataset has no items"):
        append_histories_to_flat(tmp_path)


def test_a_missing_history_is_named(tmp_path):
    raw = rich_store.split_rows(9, 0)
    nobody = rich_store.Split(raw.columns, JaggedArrays(None, None), raw.behaviours)
    with pytest.raises(DataError, match="train.h5: history values and offsets are missing"):
        rich_store.build_splits(tmp_path, {"train": nobody})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"sku": IdMap.of(pl.Series(["a"]))}, "ids of 'sku': no such column"),
        ({"item_id": IdMap.of(pl.Series(["a"]))}, "ids of column 'item_id' need code 0 for padding"),
        ({"item_id": IdMap.of(pl.Series(["a"]), padding=True)}, "column 'item_id' has 2 ids, padding included, but"),
    ],
)
def test_bad_ids_are_refused(tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        rich_store.build_splits(tmp_path, {}, ids=ids)


def test_codes_without_an_id_are_refused(tmp_path):
    raw = change(rich_store.split_rows(9, 0), columns={"user_id": np.array([0, 1, 2, -1, 0, 0, 3, 0, 0])})
    with pytest.raises(DataError, match="train.h5: row 6, column 'user_id': value 3 has no id: codes go from 0 to 2"):
        rich_store.build_splits(tmp_path, {"train": raw}, ids={"user_id": IdMap.of(pl.Series(["a", "b", "c"]))})


def test_missing_texts_have_no_id(tmp_path):
    users = np.array(["b", None, "a", None, "b", "c", "a", "b", "c"], dtype=object)
    raw = change(rich_store.split_rows(9, 0), columns={"user_id": users})
    manifest = rich_store.build_splits(tmp_path, {"train": raw, "valid": raw})
    store = Store.open(tmp_path, "rich")
    with store.reader("train") as reader:
        codes = reader.read("user_id", 0, 9)
    assert codes.tolist() == [0, -1, 1, -1, 0, 2, 1, 0, 2]
    assert store.ids("user_id").originals(codes).to_list() == users.tolist()
    assert manifest.splits["train"].users == 4


def test_a_column_of_missing_texts(tmp_path):
    nobody = change(rich_store.split_rows(9, 0), columns={"user_id": pl.Series([None] * 9)})
    rich_store.build_splits(tmp_path, {"train": nobody, "valid": nobody})
    store = Store.open(tmp_path, "rich")
    with store.reader("train") as reader:
        assert set(reader.read("user_id", 0, 9).tolist()) == {-1}
    assert len(store.ids("user_id")) == 0


def test_shared_users_of_two_splits_are_named_by_their_id(tmp_path):
    raw = {split: rich_store.split_rows(20, seed) for seed, split in enumerate(("train", "valid"))}
    user = raw["train"].columns["user_id"][5]
    raw["valid"].columns["user_id"] = np.array([*["someone else"] * 19, user], dtype=object)
    with pytest.raises(DataError, match=f"column 'user_id': value '{user}' occurs in splits 'train' and 'valid'"):
        rich_store.build_splits(tmp_path, raw, finish={"disjoint": ["user_id"]})
