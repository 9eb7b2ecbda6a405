"""What a dataset may hold beside items and one history comes back as it was given: events, behaviours, weights, ids."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.jagged import JaggedArrays
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.feature_map import load_feature_map, restore_processor
from fuxictr_multimodal.data.store.ids import IdMap
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers import rich_store
from tests.helpers.rich_store import BEHAVIOURS, MAX_LEN


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    root = tmp_path_factory.mktemp("rich")
    splits = rich_store.build(root, {"train": 203, "valid": 20, "test": 20}, rows_per_part=32)
    return Store.open(root, "rich"), splits


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    splits = rich_store.build_flat(root)
    return Store.open(root, "flat"), splits


def feature_map(store):
    return load_feature_map(store.dir, store.manifest.dataset_id, {"group_id": "user_id", "embedding_dim": 4})


def loader(store, split="train", **arguments):
    given = {"batch_size": 20, "shuffle_window": 3} | arguments
    return MultimodalDataLoader(feature_map(store), store.split_path(split), split=split, **given)


def codes_of_pages(store, pages):
    vocabulary = json.loads((store.dir / "feature_vocab.json").read_text())["page"]
    return [vocabulary[page] for page in pages]


def rows_of(history: JaggedArrays, column=None):
    """Lists of a column of some histories, one a row; of the items where no column is named."""
    values = history.values if column is None else history.events[column]
    return [list(values[a:b]) for a, b in zip(history.offsets, history.offsets[1:], strict=False)]


def lists(history, column=None):
    """The same of a batch's histories."""
    values = history.values if column is None else history.events[column]
    return [values[a:b].tolist() for a, b in zip(history.offsets, history.offsets[1:], strict=False)]


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("max_len", [None, 2])
def test_loader_yields_events_behaviours_and_weights_of_each_row(rich, mode, shuffle, max_len):
    store, splits = rich
    raw = splits["train"]
    seen = []
    for batch in loader(store, mode=mode, shuffle=shuffle, max_len=max_len):
        rows = batch.features["row_id"].tolist()
        seen += rows
        assert batch.target.tolist() == raw.columns["item_id"][rows].tolist()
        assert batch.weight.dtype == torch.float32
        np.testing.assert_array_equal(batch.weight.numpy(), raw.columns["weight"][rows].astype(np.float32))
        assert batch.features["age"].tolist() == raw.columns["age"][rows].tolist()
        assert batch.features["page"].tolist() == codes_of_pages(store, raw.columns["page"][rows])
        assert list(batch.behaviours) == list(BEHAVIOURS)
        for history, wanted in [
            (batch.history, raw.history),
            *zip(batch.behaviours.values(), raw.behaviours.values(), strict=True),
        ]:
            newest = slice(-(max_len or MAX_LEN), None)
            assert lists(history) == [rows_of(wanted)[row][newest] for row in rows]
            assert lists(history, "age") == [rows_of(wanted, "age")[row][newest] for row in rows]
            pages = [codes_of_pages(store, rows_of(wanted, "page")[row][newest]) for row in rows]
            assert lists(history, "page") == pages
            assert {column.dtype for column in history.events.values()} == {torch.int32}
    assert sorted(seen) == list(range(203))


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_resumed_pass_has_the_same_events_and_weights(rich, mode):
    store, _ = rich
    whole = loader(store, mode=mode, shuffle=True, seed=5)
    batches = list(whole)
    resumed = loader(store, mode=mode, shuffle=True, seed=5)
    resumed.load_state_dict({"epoch": 0, "batch": 4})
    for left, right in zip(batches[4:], resumed, strict=True):
        assert torch.equal(left.weight, right.weight)
        assert torch.equal(left.behaviours["buys"].events["age"], right.behaviours["buys"].events["age"])


def test_text_ids_come_back(rich):
    store, splits = rich
    assert store.manifest.ids == ["item_id", "user_id"]
    for split, raw in splits.items():
        with store.reader(split) as reader:
            codes = reader.read("user_id", 0, reader.rows)
            assert codes.dtype == np.int64
            assert store.ids("user_id").originals(codes).to_list() == list(raw.columns["user_id"])
    assert store.ids("item_id") == rich_store.item_ids()
    assert store.ids("row_id") is None
    # First sight over all pieces, so that another build gives the same codes.
    assert store.ids("user_id").codes(pl.Series([splits["train"].columns["user_id"][0]])).tolist() == [0]
    assert {"ids/item_id.parquet", "ids/user_id.parquet"} <= store.manifest.files.keys()
    store.verify()


def test_manifest_names_what_is_there(rich):
    manifest = rich[0].manifest
    assert manifest.behaviours == list(BEHAVIOURS)
    assert [(c.name, c.dtype, c.role) for c in manifest.event_columns] == [
        ("age", "int32", "event"),
        ("page", "int32", "event"),
    ]
    assert [(c.name, c.role) for c in manifest.columns] == [
        ("label", "label"),
        ("weight", "weight"),
        ("item_id", "target"),
        ("user_id", "meta"),
        ("row_id", "meta"),
        ("city", "context"),
        ("age", "event"),
        ("page", "event"),
    ]
    assert manifest.weight_col == "weight"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(7, 90))
def test_bytes_do_not_depend_on_the_pieces(tmp_path_factory, sizes, rows_per_part):
    rows = sum(sizes)
    raw = rich_store.split_rows(rows + 3, 1)

    def digest(cuts):
        root = tmp_path_factory.mktemp("pieces")
        with rich_store.builder(root, rows_per_part=rows_per_part) as building:
            building.fit(pl.DataFrame({"city": rich_store.CITIES, "page": rich_store.PAGES}))
            building.write_items({"tags": np.zeros((rich_store.ITEMS, 2), dtype=int)})
            for split in ("train", "valid"):
                start = 0
                for stop in [*cuts, rows + 3]:
                    if stop > start:
                        rich_store.append(building, split, cut(raw, start, stop))
                    start = stop
            return building.finish(split_method="none").hash

    assert digest(np.cumsum(sizes).tolist()) == digest([])


def cut(raw, start, stop):
    def some(history):
        offsets = history.offsets[start : stop + 1]
        a, b = offsets[0], offsets[-1]
        return JaggedArrays(history.values[a:b], offsets - a, {n: e[a:b] for n, e in history.events.items()})

    columns = {name: values[start:stop] for name, values in raw.columns.items()}
    return rich_store.Split(columns, some(raw.history), {n: some(h) for n, h in raw.behaviours.items()})


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_flat_dataset_yields_its_columns_and_nobodys_history(flat, mode):
    store, splits = flat
    assert store.manifest.item_col is None
    assert (store.manifest.items, store.manifest.max_len) == (1, 0)
    assert not (store.dir / "item.h5").exists()
    raw, vocabulary = splits["train"], json.loads((store.dir / "feature_vocab.json").read_text())
    seen = []
    for batch in loader(store, mode=mode, shuffle=True, max_len=None):
        rows = batch.features["row_id"].tolist()
        seen += rows
        assert len(batch) == len(rows) == len(batch.history)
        assert batch.target.dtype == torch.int32
        assert not batch.target.any()
        assert batch.history.lengths.sum() == 0
        assert batch.weight is None
        assert batch.behaviours == {}
        assert batch.features["city"].tolist() == [vocabulary["city"][raw["city"][row]] for row in rows]
        assert batch.features["item"].tolist() == [vocabulary["item"][raw["item"][row]] for row in rows]
        padded = [[vocabulary["items"][token] for token in raw["items"][row].split("^")] for row in rows]
        # FuxiCTR takes the longest list of the training split as max_len where the entry names none.
        assert batch.features["items"].tolist() == [codes + [0] * (3 - len(codes)) for codes in padded]
    assert sorted(seen) == list(range(90))
    assert store.manifest.table().splitlines()[0] == "flat: no items, by seed"
    assert store.manifest.table().splitlines()[1].split() == ["split", "rows", "positive", "users"]


def test_a_dataset_without_items_has_an_empty_item_table():
    table = ItemTable.without_items()
    assert (table.num_items, table.device.type) == (1, "cpu")
    assert table.gather(torch.tensor([0, 0])) == {}
    assert table.to("meta").device.type == "meta"


def test_restored_processor_of_a_flat_dataset_encodes_alike(flat):
    store, splits = flat
    raw = splits["valid"]
    encoded = restore_processor(store.dir).transform({name: raw[name] for name in ("city", "item", "items")})
    with store.reader("valid") as reader:
        for name, values in encoded.items():
            np.testing.assert_array_equal(values, reader.read(name, 0, reader.rows))


def test_old_manifests_keep_their_hash_and_gain_no_keys(tmp_path):
    from tests.data.store.test_manifest import MANIFEST

    # What release 1.0 computed for the same metadata.
    assert MANIFEST.hash == "55bf3dddd023137e1bd58395441344d36d1bae1b5f386232db6b5d892bdd0595"
    MANIFEST.write(tmp_path)
    assert (
        json.loads((tmp_path / "manifest.json").read_text()).keys().isdisjoint({"behaviours", "event_columns", "ids"})
    )


def test_weights_may_be_missing_outside_of_training(tmp_path):
    raw = {split: rich_store.split_rows(20, seed) for seed, split in enumerate(("train", "valid"))}
    del raw["valid"].columns["weight"]
    build(tmp_path, raw)
    store = Store.open(tmp_path, "rich")
    assert next(iter(loader(store))).weight is not None
    assert next(iter(loader(store, "valid"))).weight is None


def build(root, splits, *, ids=None, finish=None):
    """Build dataset `rich` of these splits, with an item table of zeros."""
    with rich_store.builder(root) as building:
        building.fit(pl.DataFrame({"city": rich_store.CITIES, "page": rich_store.PAGES}))
        building.write_ids(ids or {})
        building.write_items({"tags": np.zeros((rich_store.ITEMS, 2), dtype=int)})
        for split, rows in splits.items():
            rich_store.append(building, split, rows)
        return building.finish(split_method="none", **(finish or {}))


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
        lambda r: change(r, behaviours={"buys": cut(r, 0, 19).behaviours["buys"]}),
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
        build(tmp_path, {"train": make(raw), "valid": raw})
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
        build(tmp_path, {"train": nobody})


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
        build(tmp_path, {}, ids=ids)


def test_codes_without_an_id_are_refused(tmp_path):
    raw = change(rich_store.split_rows(9, 0), columns={"user_id": np.array([0, 1, 2, -1, 0, 0, 3, 0, 0])})
    with pytest.raises(DataError, match="train.h5: row 6, column 'user_id': value 3 has no id: codes go from 0 to 2"):
        build(tmp_path, {"train": raw}, ids={"user_id": IdMap.of(pl.Series(["a", "b", "c"]))})


def test_missing_texts_have_no_id(tmp_path):
    users = np.array(["b", None, "a", None, "b", "c", "a", "b", "c"], dtype=object)
    raw = change(rich_store.split_rows(9, 0), columns={"user_id": users})
    manifest = build(tmp_path, {"train": raw, "valid": raw})
    store = Store.open(tmp_path, "rich")
    with store.reader("train") as reader:
        codes = reader.read("user_id", 0, 9)
    assert codes.tolist() == [0, -1, 1, -1, 0, 2, 1, 0, 2]
    assert store.ids("user_id").originals(codes).to_list() == users.tolist()
    assert manifest.splits["train"].users == 4


def test_a_column_of_missing_texts(tmp_path):
    nobody = change(rich_store.split_rows(9, 0), columns={"user_id": pl.Series([None] * 9)})
    build(tmp_path, {"train": nobody, "valid": nobody})
    store = Store.open(tmp_path, "rich")
    with store.reader("train") as reader:
        assert set(reader.read("user_id", 0, 9).tolist()) == {-1}
    assert len(store.ids("user_id")) == 0


def test_shared_users_of_two_splits_are_named_by_their_id(tmp_path):
    raw = {split: rich_store.split_rows(20, seed) for seed, split in enumerate(("train", "valid"))}
    user = raw["train"].columns["user_id"][5]
    raw["valid"].columns["user_id"] = np.array([*["someone else"] * 19, user], dtype=object)
    with pytest.raises(DataError, match=f"column 'user_id': value '{user}' occurs in splits 'train' and 'valid'"):
        build(tmp_path, raw, finish={"disjoint": ["user_id"]})
