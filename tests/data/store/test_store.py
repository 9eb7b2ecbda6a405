"""Reading a dataset, and the errors for a missing, unfinished, foreign or damaged one."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from fuxictr_multimodal.data.store import SplitReader, Store, read_item_table
from fuxictr_multimodal.errors import DataError
from tests.helpers.store_build import build, split_rows


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    splits = {"train": split_rows(40), "valid": split_rows(10, 1)}
    build(root, splits=splits)
    build(root, dataset_id="parts", splits=splits, rows_per_part=16)
    return root


@pytest.fixture
def copied(data_root, tmp_path):
    """A copy of the datasets that a test may damage."""
    shutil.copytree(data_root, tmp_path / "data")
    return tmp_path / "data"


def flip_last_byte_of(path, data):
    """Damage the place where `data` is stored."""
    content = bytearray(path.read_bytes())
    at = content.index(data.tobytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_open_finished(data_root):
    store = Store.open(data_root, "tiny")
    assert Store.exists(data_root, "tiny")
    assert store.dir == data_root / "tiny"
    assert store.split_path("train") == data_root / "tiny" / "train.h5"
    assert store.split_path("test") is None
    assert Store.open(data_root, "parts").split_path("train") == data_root / "parts" / "train"
    with pytest.raises(DataError, match=r"tiny has no split 'test'. Known: train, valid."):
        store.reader("test")


@pytest.mark.parametrize("path", ["tiny/train.h5", "tiny/train", "parts/train", "parts/train.h5"])
def test_a_split_is_found_by_any_of_its_names(data_root, path):
    rows = split_rows(40)
    with SplitReader(data_root / path) as reader:
        assert reader.rows == 40
        assert reader.blocks == ([(0, 40)] if "tiny" in path else [(0, 16), (16, 32), (32, 40)])
        np.testing.assert_array_equal(reader.read("user_id", 15, 33), rows[0]["user_id"][15:33])
        values, offsets = reader.read_history(15, 33)
        np.testing.assert_array_equal(values, rows[1][rows[2][15] : rows[2][33]])
        np.testing.assert_array_equal(offsets, rows[2][15:34] - rows[2][15])
        assert reader.read("words", 16, 16).shape == (0, 3)
        assert reader.read_history(40, 40)[1].tolist() == [0]
        with pytest.raises(DataError, match=r"has no column 'levle'. Did you mean 'level'\?"):
            reader.read("levle", 0, 1)
        with pytest.raises(IndexError, match="rows 0 to 41 of a split of 40 rows"):
            reader.read("level", 0, 41)


def test_item_table_by_folder_or_file(data_root):
    for path in ("tiny", "tiny/item.h5"):
        assert list(read_item_table(data_root / path)) == ["item_id", "tags", "emb"]


def test_missing_dataset(tmp_path, data_root):
    with pytest.raises(DataError, match=r"tinny does not exist: build the dataset first. Did you mean 'tiny'\?"):
        Store.open(data_root, "tinny")
    with pytest.raises(DataError, match=r"does not exist: build the dataset first"):
        Store.open(tmp_path / "nowhere", "tiny")
    with pytest.raises(DataError, match=r"train.h5 does not exist: the split is neither"):
        SplitReader(tmp_path / "train.h5")
    with pytest.raises(DataError, match=r"item.h5 does not exist"):
        read_item_table(tmp_path)


def test_interrupted_build(copied):
    (copied / "tiny" / "manifest.json").unlink()
    with pytest.raises(
        DataError, match=r"tiny has no manifest.json: its build was interrupted.* again with fxmm build"
    ):
        Store.open(copied, "tiny")


def test_another_format_version(copied):
    path = copied / "tiny" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(DataError, match=r"manifest.json: format_version 2, but this release reads 1: build"):
        Store.open(copied, "tiny")
    with h5py.File(copied / "tiny" / "train.h5", "r+") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(DataError, match=r"train.h5: format_version 2, but this release reads 1"):
        SplitReader(copied / "tiny" / "train.h5")


def test_renamed_dataset(copied):
    (copied / "tiny").rename(copied / "other")
    with pytest.raises(DataError, match=r"is of dataset 'tiny', not 'other'"):
        Store.open(copied, "other")


def test_missing_file_or_part(copied):
    (copied / "tiny" / "item.h5").unlink()
    with pytest.raises(DataError, match=r"item.h5 is missing: build the dataset again"):
        Store.open(copied, "tiny")
    (copied / "parts" / "train" / "part-00002.h5").rename(copied / "last")
    with pytest.raises(DataError, match=r"part-00001.h5 is not the last part of its split"):
        SplitReader(copied / "parts" / "train")
    (copied / "last").rename(copied / "parts" / "train" / "part-00002.h5")
    (copied / "parts" / "train" / "part-00001.h5").unlink()
    with pytest.raises(DataError, match=r"part-00001.h5 is missing"):
        SplitReader(copied / "parts" / "train")


def test_damaged_data_is_found_by_reading_and_by_checksum(copied):
    rows = split_rows(40)[0]["user_id"]
    store = Store.open(copied, "tiny")
    flip_last_byte_of(copied / "tiny" / "train.h5", rows)
    with store.reader("train") as reader, pytest.raises(DataError, match=r"train.h5: column 'user_id', rows 0 to 40"):
        reader.read("user_id", 0, 40)
    with pytest.raises(DataError, match=r"train.h5 does not match its checksum in manifest.json: the file is damaged"):
        store.verify()
    with pytest.raises(DataError, match=r"train.h5 does not match its checksum in manifest.json: the file is damaged"):
        Store.open(copied, "tiny")


def test_no_hdf5_file(copied):
    (copied / "tiny" / "train.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"train.h5 is damaged or not an HDF5 file"):
        SplitReader(copied / "tiny" / "train.h5")
    with h5py.File(copied / "tiny" / "train.h5", "w"):
        pass
    with pytest.raises(DataError, match=r"train.h5: format_version None"):
        SplitReader(copied / "tiny" / "train.h5")
