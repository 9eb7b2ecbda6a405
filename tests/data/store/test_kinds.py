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
                        rich_store.append(building, split, rich_store.cut(raw, start, stop))
                    start = stop
            return building.finish(split_method="none").hash

    assert digest(np.cumsum(sizes).tolist()) == digest([])


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
    rich_store.build_splits(tmp_path, raw)
    store = Store.open(tmp_path, "rich")
    assert next(iter(loader(store))).weight is not None
    assert next(iter(loader(store, "valid"))).weight is None
