"""Item vectors for each fold of users on disk: what a build refuses, and damage that a reader finds."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store, read_item_table
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.zoo.histories import name_histories
from tests.helpers import store_build
from tests.helpers.resealed import reseal
from tests.helpers.store_build import ITEMS

FOLDS = 3


def folds_of_items():
    return {"emb": np.random.default_rng(1).normal(size=(ITEMS, FOLDS, 3)) * (np.arange(ITEMS) > 0)[:, None, None]}


def build(root, *, folds=None, change=lambda fold: fold, **options):
    with store_build.builder(root, **options) as building:
        building.write_items(store_build.item_rows(), folds=folds_of_items() if folds is None else folds)
        for seed, (split, rows) in enumerate({"train": 40, "valid": 10, "test": 10}.items()):
            columns, *history = store_build.split_rows(rows, seed)
            fold = change(np.arange(rows) % (FOLDS + 1))
            building.append(split, columns if fold is None else columns | {"item_fold": fold}, *history)
        building.finish(split_method="by seed")
    return Store.open(root, "tiny")


def test_stores_vectors_and_folds(tmp_path):
    store = build(tmp_path, rows_per_part=16)
    store.verify()
    assert store.manifest.folds == FOLDS
    np.testing.assert_allclose(read_item_table(store.dir)["emb.folds"], folds_of_items()["emb"], rtol=1e-6)
    with store.reader("train") as reader:
        assert reader.read("item_fold", 0, 40).tolist() == [row % (FOLDS + 1) for row in range(40)]
    assert set(ItemTable.from_store(store.dir).features) == {"item_id", "tags", "emb"}


def test_a_dataset_without_folds_has_neither(tmp_path):
    store_build.build(tmp_path)
    store = Store.open(tmp_path, "tiny")
    assert store.manifest.folds == 0
    assert "item_fold" not in {column.name for column in store.manifest.columns}
    assert set(read_item_table(store.dir)) == {"item_id", "tags", "emb"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fold: fold + 1, r"train.h5: row 3, column 'item_fold': value 4 is not in 0 to 3: there are 3 folds"),
        (lambda fold: None, r"train.h5: column 'item_fold' is missing"),
        (lambda fold: fold / 2, r"train.h5: column 'item_fold' .* integers"),
    ],
)
def test_refuses_other_folds(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path, change=change)
    assert not (tmp_path / "tiny").exists()


def test_refuses_vectors_of_folds_that_do_not_fit(tmp_path):
    folds = folds_of_items()
    folds["emb"][0] = 1
    with pytest.raises(DataError, match=r"(?s)item.h5: row 0, column 'emb.folds': .* padding"):
        build(tmp_path, folds=folds)
    with pytest.raises(DataError, match=r"item.h5: column 'emb.folds'"):
        build(tmp_path, folds={"emb": folds_of_items()["emb"][:, :, :2]})


def table_of(store):
    feature_map = load_feature_map(store.dir, "tiny", {"embedding_dim": 2})
    name_histories(feature_map, store.manifest)
    return ItemTable.from_store(store.dir, feature_map=feature_map)


def replaced(store, values):
    """Other values for folds in the file, or none."""
    with h5py.File(store.dir / "item.h5", "r+") as file:
        attributes = dict(file["emb.folds"].attrs)
        del file["emb.folds"]
        if values is not None:
            file.create_dataset("emb.folds", data=values).attrs.update(attributes)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values[:, :2],
        lambda values: values[:, :, :2],
        lambda values: values[:, :, 0],
        lambda values: values.astype(np.int32),
        lambda values: values[:, :0],
        lambda values: values[:, 0, 0],
    ],
)
def test_finds_values_of_folds_that_do_not_fit(tmp_path, change):
    store = build(tmp_path)
    assert table_of(store).folds["emb"].shape == (ITEMS, FOLDS, 3)
    replaced(store, change(folds_of_items()["emb"].astype(np.float32)))
    needed = rf"item.h5: column 'emb.folds' has .*, but beside 'emb' it needs numbers of shape \({ITEMS}, 3, 3\)"
    with pytest.raises(DataError, match=rf"{needed}, for 3 folds of users: build the dataset again"):
        table_of(store)


def test_finds_values_of_two_features_with_other_folds(tmp_path):
    store = build(tmp_path)
    with h5py.File(store.dir / "item.h5", "r+") as file:
        for name, values in (("emb", file["emb"][:]), ("emb.folds", file["emb.folds"][:, :2])):
            added = file.create_dataset(name.replace("emb", "other"), data=values)
            added.attrs.update(file[name].attrs)
            added.attrs["position"] += 2
    with pytest.raises(DataError, match=r"item.h5: column 'other.folds' has .* for 3 folds of users"):
        ItemTable.from_store(store.dir, ["emb", "other"])


def test_finds_that_values_of_folds_are_missing(tmp_path):
    store = build(tmp_path)
    replaced(store, None)
    with pytest.raises(DataError, match=r"item.h5 has no column '<feature>.folds', but each sample has one of 3"):
        table_of(store)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda m: {"item_columns": [c for c in m.item_columns if c.role != "fold"]}, r"columns of role 'fold' cannot"),
        (lambda m: {"columns": [c for c in m.columns if c.role != "fold"]}, r"columns of role 'fold' cannot be \[\]"),
        (
            lambda m: {"item_columns": [replace(c, shape=()) if c.role == "fold" else c for c in m.item_columns]},
            r"item_columns: emb.folds: shape cannot be \(\)",
        ),
    ],
)
def test_finds_a_manifest_whose_folds_do_not_fit(tmp_path, changed, message):
    store = build(tmp_path)
    reseal(store.dir, **changed(store.manifest))
    with pytest.raises(DataError, match=rf"manifest.json: {message}"):
        Store.open(tmp_path, "tiny")


def test_finds_a_fold_that_is_none(tmp_path):
    store = build(tmp_path)
    feature_map = load_feature_map(store.dir, "tiny", {"embedding_dim": 2})
    feature_map.folds = store.manifest.folds
    with h5py.File(store.dir / "valid.h5", "r+") as file:
        file["item_fold"][7] = FOLDS + 1
    with pytest.raises(DataError, match=r"valid.h5: row 7, column 'item_fold': 4 is not in 0 to 3: the fold of a user"):
        MultimodalDataLoader(feature_map, store.dir / "valid", "valid", mode="resident")
