"""Values that no model can look up are named with file, column and row: in splits, histories and the item table."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.store.feature_map import load_feature_map
from fuxictr_multimodal.data.store.full_check import check_values
from fuxictr_multimodal.data.store.manifest import Manifest
from fuxictr_multimodal.data.store.ranges import bounds_of
from fuxictr_multimodal.errors import DataError
from tests.helpers.resealed import reseal
from tests.helpers.store_build import build, split_rows


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    build(root, splits={"train": split_rows(40), "valid": split_rows(20, 1)}, rows_per_part=16)
    return root


@pytest.fixture
def dataset(built, tmp_path):
    """A copy to damage."""
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data" / "tiny"


def edit(path, name, place, value):
    """Write a value with a valid checksum of HDF5."""
    with h5py.File(path, "r+") as file:
        file[name][place] = value


def loader(dataset, **options):
    return MultimodalDataLoader(
        load_feature_map(dataset, "tiny", {"group_id": "user_id"}), dataset / "train", batch_size=8, **options
    )


def verified(dataset):
    """Check the values alone: the checksums would refuse the file first."""
    check_values(dataset, Manifest.read(dataset))


IN_SPLITS = [
    ("label", 3, 2, r"row 3, column 'label': 2 is not a label: labels are 0 and 1"),
    ("item_id", 5, 0, r"row 5, column 'item_id': 0 is not in 1 to 19: item 0 is padding, and there are 20 rows of ite"),
    ("item_id", 5, 20, r"row 5, column 'item_id': 20 is not in 1 to 19"),
    ("level", 15, 5, r"row 15, column 'level': 5 is not in 0 to 4: its vocab_size is 5"),
    ("level", 0, -1, r"row 0, column 'level': -1 is not in 0 to 4"),
    ("words", (7, 2), 7, r"row 7, column 'words': 7 is not in 0 to 6"),
    ("price", 1, np.nan, r"row 1, column 'price': nan is not a finite number"),
    ("price", 1, -np.inf, r"row 1, column 'price': -inf is not a finite number"),
    ("history/values", 0, 0, r"row 0, the history: 0 is not in 1 to 19: item 0 is padding"),
    ("history/values", -1, 20, r"row 1\d, the history: 20 is not in 1 to 19"),
    ("history/offsets", 4, 0, r"history: row 3: the offsets decrease from \d+ to 0"),
    ("history/offsets", 0, 1, r"history: the offsets do not cover all \d+ values"),
    ("history/offsets", 0, -1, r"history: rows 0 to 16: the offsets go from -1 to \d+, outside of the values"),
    ("history/offsets", 16, 10**9, r"history: rows 0 to 16: the offsets go from 0 to 1000000000, outside of the val"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), IN_SPLITS)
def test_a_wrong_value_of_a_split_is_named(dataset, name, place, value, message):
    edit(dataset / "train/part-00001.h5", name, place, value)
    message = rf"train/part-00001.h5: {message}.* build the dataset again with fxmm build --overwrite"
    with pytest.raises(DataError, match=message):
        loader(dataset, mode="resident")
    streaming = loader(dataset, mode="streaming")
    with pytest.raises(DataError, match=message):
        list(streaming)
    with pytest.raises(DataError, match=message):
        verified(dataset)
    with pytest.raises(DataError, match=r"part-00001.h5 does not match its checksum"):
        Store.open(dataset.parent, "tiny")


def test_a_shorter_or_other_column_in_a_part_is_named(dataset):
    with h5py.File(dataset / "train/part-00001.h5", "r+") as file:
        file["level"].resize(10, axis=0)
    with pytest.raises(DataError, match=r"part-00001.h5: /level is int32 of shape \(10,\), but the file has 16 r"):
        loader(dataset)
    with h5py.File(dataset / "train/part-00001.h5", "r+") as file:
        file["level"].resize(16, axis=0)
        attributes, values = dict(file["price"].attrs), file["price"][:].astype(np.int64)
        del file["price"]
        file["price"] = values
        file["price"].attrs.update(attributes)
    with pytest.raises(DataError, match=r"part-00001.h5 has other columns than .*part-00000.h5: one of them is damag"):
        loader(dataset)
    with h5py.File(dataset / "train/part-00001.h5", "r+") as file:
        del file.attrs["rows"]
    with pytest.raises(DataError, match=r"part-00001.h5: attribute 'rows' must be a whole number"):
        loader(dataset)


IN_ITEMS = [
    ("emb", (4, 1), np.nan, r"item.h5: row 4, column 'emb': nan is not a finite number"),
    ("emb", (0, 1), 0.5, r"row 0, column 'emb': \[.* is not zero, but row 0 is padding"),
    ("tags", (0, 0), 1, r"row 0, column 'tags': \[1 0\] is not zero, but row 0 is padding"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), IN_ITEMS)
def test_a_wrong_value_of_the_item_table_is_named(dataset, name, place, value, message):
    edit(dataset / "item.h5", name, place, value)
    feature_map = load_feature_map(dataset, "tiny", {})
    with pytest.raises(DataError, match=message):
        ItemTable.from_store(dataset, feature_map=feature_map)
    with pytest.raises(DataError, match=message):
        verified(dataset)


def test_a_shared_table_bounds_who_shares_it(dataset):
    feature_map = load_feature_map(dataset, "tiny", {})
    assert bounds_of("words", feature_map.features, numbers=False).high == 6
    feature_map.features["words"]["share_embedding"] = "level"
    assert bounds_of("words", feature_map.features, numbers=False).high == 4
    feature_map.features["level"]["share_embedding"] = "words"
    assert bounds_of("level", feature_map.features, numbers=False).high == 4
    assert bounds_of("unknown", feature_map.features, numbers=False).high == 2**31 - 1


def test_files_that_disagree_are_named(dataset):
    verified(dataset)
    edit(dataset / "item.h5", "item_id", 3, 4)
    with pytest.raises(DataError, match=r"item.h5: row 3, column 'item_id': item 4 is not in its own row"):
        verified(dataset)
    edit(dataset / "item.h5", "item_id", 3, 3)
    edit(dataset / "train/part-00000.h5", "label", slice(0, 2), [1, 1])
    with pytest.raises(DataError, match=r"train has \d+ positive rows, but manifest.json says \d+"):
        verified(dataset)
    edit(dataset / "train/part-00000.h5", "label", slice(0, 2), [1, 0])
    verified(dataset)
    path = dataset / "feature_map.json"
    stored = json.loads(path.read_text())
    next(entry["level"] for entry in stored["features"] if "level" in entry)["vocab_size"] = 6
    path.write_text(json.dumps(stored))
    reseal(dataset)
    with pytest.raises(DataError, match=r"feature_map.json has feature 'level' with vocab_size 6, but manifest.json"):
        Store.open(dataset.parent, "tiny").verify()
