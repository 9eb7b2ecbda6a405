"""Layouts of a batch against loops over rows, and the flat feature map that names their columns."""

import copy

import pytest
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.zoo.layouts import as_flat, as_longctr, flat_feature_map

HISTORIES = [[3, 1], [], [2]]
TARGETS = [1, 3, 2]


@pytest.fixture
def table():
    return ItemTable(
        {
            "item_id": torch.arange(4, dtype=torch.int32),
            "genre": torch.tensor([0, 5, 6, 7], dtype=torch.int32),
            "item_tags": torch.tensor([[0, 0], [0, 1], [2, 3], [0, 4]], dtype=torch.int32),
            "emb": torch.arange(12.0).view(4, 3),
        }
    )


@pytest.fixture
def batch():
    offsets = torch.tensor([0, *(len(row) for row in HISTORIES)]).cumsum(0)
    values = torch.tensor([item for row in HISTORIES for item in row], dtype=torch.int32)
    features = {"level": torch.tensor([4, 5, 6]), "user_id": torch.tensor([7, 8, 9]), "label": torch.ones(3)}
    return Batch(features, torch.tensor(TARGETS, dtype=torch.int32), Jagged(values, offsets), features["user_id"])


@pytest.fixture
def feature_map():
    made = FeatureMap("Made_up", ".")
    made.features.update(
        user_id={"type": "meta"},
        level={"type": "categorical", "source": "", "vocab_size": 8, "padding_idx": 0},
        item_id={"type": "categorical", "source": "item", "vocab_size": 4, "padding_idx": 0},
        item_tags={
            "type": "sequence",
            "source": "item",
            "vocab_size": 5,
            "max_len": 2,
            "padding_idx": 0,
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
        genre={"type": "categorical", "source": "item", "vocab_size": 8, "padding_idx": 0},
        emb={"type": "embedding", "source": "item", "pretrain_dim": 3},
    )
    made.labels, made.group_id, made.default_emb_dim = ["label"], "user_id", 4
    made.num_fields = made.get_num_fields()
    return made


def padded(rows, length, padding):
    zeros = [[0] * (length - len(row)) for row in rows]
    return [z + row if padding == "pre" else row + z for z, row in zip(zeros, rows, strict=True)]


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("max_len", [None, 2, 5])
def test_the_triple_is_history_then_target(batch, table, max_len, padding):
    columns, items, mask = as_longctr(batch, table, max_len=max_len, padding=padding)
    rows = padded(HISTORIES, max_len or 2, padding)
    slots = [item for row, target in zip(rows, TARGETS, strict=True) for item in [*row, target]]
    assert items["item_id"].tolist() == slots
    assert torch.equal(items["emb"], table.features["emb"][slots])
    assert mask.tolist() == [[float(item > 0) for item in row] for row in rows]
    assert mask.dtype == torch.float32
    assert columns == batch.features


@pytest.mark.parametrize("padding", ["pre", "post"])
def test_flat_columns_are_context_target_and_histories(batch, table, feature_map, padding):
    flat_map = flat_feature_map(feature_map, 3, pooled=True)
    flat = as_flat(batch, table, flat_map, padding=padding)
    rows = padded(HISTORIES, 3, padding)
    assert list(flat) == [*flat_map.features, "label"]
    assert flat["item_id"].tolist() == TARGETS
    assert flat["item_tags"].tolist() == table.features["item_tags"][TARGETS].tolist()
    assert torch.equal(flat["emb"], table.features["emb"][TARGETS])
    assert flat["history_item_id"].tolist() == rows
    assert flat["history_genre"].tolist() == table.features["genre"][torch.tensor(rows)].tolist()
    assert torch.equal(flat["level"], batch.features["level"])
    assert torch.equal(flat["user_id"], batch.group)


def test_a_batch_without_labels_or_rows_has_the_same_layout(batch, table, feature_map):
    flat_map = flat_feature_map(feature_map, 3, pooled=False)
    features = {name: values[:0] for name, values in batch.features.items() if name != "label"}
    empty = Batch(features, batch.target[:0], Jagged(batch.history.values[:0], torch.tensor([0])))
    flat = as_flat(empty, table, flat_map)
    assert list(flat) == list(flat_map.features)
    assert flat["history_item_id"].shape == (0, 3)
    assert as_longctr(empty, table)[2].shape == (0, 1)


def test_the_flat_feature_map_leaves_the_stores_own_alone(feature_map):
    before = copy.deepcopy(feature_map.features)
    flat = flat_feature_map(feature_map, 3, pooled=False)
    assert feature_map.features == before
    assert feature_map.num_fields == 5
    assert flat.num_fields == 7
    assert flat.labels == ["label"]
    assert flat.group_id == "user_id"
    assert {name: spec["source"] for name, spec in flat.features.items()} == {
        "user_id": "context",
        "level": "context",
        "item_id": "item",
        "item_tags": "item",
        "genre": "item",
        "emb": "item",
        "history_item_id": "user",
        "history_genre": "user",
    }
    assert "emb" not in flat_feature_map(feature_map, 3, pooled=True, embeddings=False).features


def test_histories_share_the_embedding_and_are_pooled_over_real_items(batch, table, feature_map):
    flat_map = flat_feature_map(feature_map, 3, pooled=True)
    layer = FeatureEmbedding(flat_map, 4)
    layers = layer.embedding_layer
    assert layers.embedding_layers["history_item_id"] is layers.embedding_layers["item_id"]
    flat = as_flat(batch, table, flat_map)
    embedded = layers({name: flat[name] for name in flat_map.features if name != "user_id"})
    ids = layers.embedding_layers["item_id"].weight
    expected = torch.stack([ids[[3, 1]].mean(0), torch.zeros(4), ids[2]])
    torch.testing.assert_close(embedded["history_item_id"], expected)
    raw = FeatureEmbedding(flat_feature_map(feature_map, 3, pooled=False), 4)
    embedded = raw.embedding_layer({"history_item_id": flat["history_item_id"]})
    assert embedded["history_item_id"].shape == (3, 3, 4)


def batch_of(rows):
    """Made-up rows with these histories; the target of row i is item i + 1."""
    values = torch.tensor([item for row in rows for item in row], dtype=torch.int32)
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    index = torch.arange(len(rows), dtype=torch.int32)
    return Batch({"level": index % 3}, index + 1, Jagged(values, offsets))


TABLE = ItemTable({"item_id": torch.arange(100), "tags": torch.arange(200).view(100, 2) * 3})


@given(st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=1, max_size=8), st.sampled_from([None, 6, 9]))
def test_longctr_layout_equals_a_loop_over_rows(rows, max_len):
    batch_dict, item_dict, mask = as_longctr(batch_of(rows), TABLE, max_len=max_len)
    width = max_len or max(1, *map(len, rows), 1)
    ids, expected_mask = [], []
    for index, row in enumerate(rows):
        ids += [0] * (width - len(row)) + row + [index + 1]
        expected_mask.append([0.0] * (width - len(row)) + [1.0] * len(row))
    assert mask.tolist() == expected_mask
    assert mask.dtype == torch.float32
    assert item_dict["item_id"].tolist() == ids
    assert item_dict["tags"].tolist() == [[6 * item, 6 * item + 3] for item in ids]
    assert set(batch_dict) == {"level"}


def test_longctr_layout_of_histories_that_are_all_empty_has_one_slot():
    _, item_dict, mask = as_longctr(batch_of([[], []]), TABLE)
    assert mask.tolist() == [[0.0], [0.0]]
    assert item_dict["item_id"].tolist() == [0, 1, 0, 2]
