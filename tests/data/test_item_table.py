"""The item table keeps the item features of the feature map, checks them, and gathers them by id."""

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.store.h5_writer import write_item_file
from fuxictr_multimodal.data.store.manifest import Column
from fuxictr_multimodal.errors import DataError
from tests.helpers.loader_store import ITEMS, feature_map

COLUMNS = [
    Column("item_id", "int32", "item"),
    Column("item_tags", "int32", "item", (2,)),
    Column("item_emb", "float32", "item", (3,)),
    Column("unused", "int32", "item"),
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    made = {
        "item_id": np.arange(ITEMS, dtype=np.int32),
        "item_tags": rng.integers(0, 9, (ITEMS, 2), dtype=np.int32),
        "item_emb": rng.normal(size=(ITEMS, 3)).astype(np.float32),
        "unused": rng.integers(0, 9, ITEMS, dtype=np.int32),
    }
    for values in made.values():
        values[0] = 0
    return made


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "item.h5"
    write_item_file(path, COLUMNS, data)
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_keeps_the_item_features_of_the_feature_map(path, data, as_folder):
    table = ItemTable.from_store(path.parent if as_folder else path, feature_map=feature_map())
    assert list(table.features) == ["item_id", "item_tags", "item_emb"]
    assert table.num_items == ITEMS
    assert table.device == torch.device("cpu")
    for name, values in table.features.items():
        np.testing.assert_array_equal(values.numpy(), data[name])
    assert [values.dtype for values in table.features.values()] == [torch.int32, torch.int32, torch.float32]


def test_keeps_the_given_names_or_all(path):
    assert list(ItemTable.from_store(path, ["item_emb", "item_id"]).features) == ["item_emb", "item_id"]
    assert len(ItemTable.from_store(path).features) == 4


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(7,), (4, 3), (0,), (2, 3, 2)])
def test_gathers_flat(path, data, dtype, shape):
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, ITEMS, shape)).to(dtype)
    table = ItemTable.from_store(path)
    for name, values in table.to("cpu").gather(ids).items():
        np.testing.assert_array_equal(values.numpy(), data[name][ids.numpy().reshape(-1)])


@pytest.mark.parametrize("beyond", [ITEMS, -1])
def test_an_id_outside_of_the_table_is_an_error(path, beyond):
    with pytest.raises((IndexError, RuntimeError), match="index"):
        ItemTable.from_store(path).gather(torch.tensor([beyond]))


@pytest.mark.parametrize("vocab_size", [ITEMS - 1, ITEMS + 1])
def test_refuses_another_number_of_items_than_the_vocabulary(path, vocab_size):
    changed = {"source": "item", "type": "categorical", "vocab_size": vocab_size}
    with pytest.raises(DataError, match=rf"item.h5: item feature 'item_id' .* {ITEMS} rows.* is {vocab_size}"):
        ItemTable.from_store(path, feature_map=feature_map(item_id=changed))


def test_refuses_ids_and_widths_that_the_model_cannot_read(path):
    tags = {"source": "item", "type": "sequence", "vocab_size": 8, "max_len": 2}
    with pytest.raises(DataError, match="'item_tags' holds ids from 0 to 8"):
        ItemTable.from_store(path, feature_map=feature_map(item_tags=tags))
    wide = {"source": "item", "type": "embedding", "pretrain_dim": 4}
    with pytest.raises(DataError, match=r"'item_emb' has \(3,\) numbers .* pretrain_dim .* is 4"):
        ItemTable.from_store(path, feature_map=feature_map(item_emb=wide))


def test_refuses_what_is_not_there(path, tmp_path):
    with pytest.raises(DataError, match="'item_tag'. Did you mean 'item_tags'"):
        ItemTable.from_store(path, ["item_tag"])
    with pytest.raises(DataError, match=r"item.h5 does not exist"):
        ItemTable.from_store(tmp_path)
    with pytest.raises(DataError, match="at least one feature"):
        ItemTable({})
    with pytest.raises(DataError, match=r"one row per item"):
        ItemTable({"a": torch.zeros(2), "b": torch.zeros(3)})
