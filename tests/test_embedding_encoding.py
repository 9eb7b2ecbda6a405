"""Texts to vectors: each distinct text once, order kept, files, item tables."""

import gzip

import numpy as np
import polars as pl
import pytest
import torch

from bilingual_embedding import encoding
from bilingual_embedding.checkpoint import load_encoder, save_encoder
from bilingual_embedding.encoder import Encoder
from bilingual_embedding.encoding import encode_texts
from bilingual_embedding.item_vectors import item_table, reduce_width
from bilingual_embedding.text_vectors import encode_file
from bilingual_embedding.tokenizer import BilingualTokenizer
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.recipes.text_features import given_vectors

TEXTS = ["b", "a longer text than the others", "a", "b", "", "a longer text than the others"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = BilingualTokenizer.train({"en": TEXTS * 3}, vocabulary_size=300)
    return Encoder.from_preset("nano", vocabulary_size=tokenizer.vocabulary_size), tokenizer


def test_each_distinct_text_is_encoded_once_and_order_is_kept(model, monkeypatch):
    seen = []
    original = encoding.Packed.from_table

    def record(table, device):
        seen.append(len(table))
        return original(table, device)

    monkeypatch.setattr(encoding.Packed, "from_table", record)
    found = encode_texts(*model, TEXTS)
    assert sum(seen) == found.distinct == 4
    assert np.array_equal(found.vectors[0], found.vectors[3])
    assert np.array_equal(found.vectors[1], found.vectors[5])
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(encode_texts(*model, [text]).vectors[0], found.vectors[row], atol=1e-5)


def test_long_texts_are_cut_and_counted(model):
    found = encode_texts(*model, ["a b c d e f g h", "a"], max_length=6)
    assert found.truncated == 1
    assert found.tokens <= 6 + 4


def test_saved_and_loaded_it_encodes_the_same(model, tmp_path):
    save_encoder(tmp_path, *model)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "modules.json", "tokenizer.json",
    }  # fmt: skip
    np.testing.assert_array_equal(
        encode_texts(*load_encoder(tmp_path), TEXTS).vectors, encode_texts(*model, TEXTS).vectors
    )
    (tmp_path / "config.json").write_text('{"hidden": 3}')
    with pytest.raises(DataError, match=r"config\.json is not an encoder's configuration"):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors does not exist"):
        load_encoder(tmp_path)


def test_text_file_to_vectors(model, tmp_path):
    with gzip.open(tmp_path / "t.gz", "wt") as file:
        file.write("a\nb\na\n")
    facts = encode_file(*model, source=tmp_path / "t.gz", target=tmp_path / "out" / "v.parquet")
    frame = pl.read_parquet(tmp_path / "out" / "v.parquet")
    assert frame["row"].to_list() == [0, 1, 2]
    assert frame["vector"].dtype == pl.Array(pl.Float32, 32)
    assert (facts["texts"], facts["distinct"]) == (3, 2)
    assert facts["tokens_per_s"] > 0


def test_item_table_is_aligned_and_readable_by_the_builders(model, tmp_path):
    frame = pl.DataFrame({"id": [4, 1, 2], "title": ["red", "green", None], "plot": ["sky", None, "sea"]})
    frame.write_parquet(tmp_path / "items.parquet")
    target = tmp_path / "table.parquet"
    facts = encode_file(
        *model, source=tmp_path / "items.parquet", target=target, text_columns=["title", "plot"], id_column="id",
        item_dim=8,
    )  # fmt: skip
    table = pl.read_parquet(target)
    vectors = table["item_emb_d8"].to_numpy()
    assert table["item_id"].to_list() == [0, 1, 2, 3, 4]
    assert not vectors[[0, 3]].any()
    assert (facts["items"], facts["items_without_text"]) == (4, 1)
    expected, _ = reduce_width(encode_texts(*model, ["red. sky", "green", "sea"]).vectors, 8)
    np.testing.assert_allclose(vectors[[4, 1, 2]], expected, atol=1e-5)
    read = given_vectors(target, item_ids=np.arange(1, 5), dim=8)
    np.testing.assert_array_equal(read.vectors, vectors[1:])


def test_reduction_keeps_distances_when_the_width_suffices():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 4)) @ generator.normal(size=(4, 32))
    reduced, kept = reduce_width(vectors.astype(np.float32), 8)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(reduced.mean(axis=0), 0, atol=1e-6)
    for i, j in [(0, 1), (5, 30)]:
        assert np.linalg.norm(reduced[i] - reduced[j]) == pytest.approx(np.linalg.norm(unit[i] - unit[j]), abs=1e-5)
    assert np.abs(reduced[:, 4:]).max() < 1e-6
    assert reduce_width(np.zeros((3, 2), dtype=np.float32), 5)[0].shape == (3, 5)


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 0], "item id 0 .row 2.: ids begin at 1"), ([3, 3], "item id 3 occurs more than once")]
)
def test_bad_ids_are_named(ids, message):
    with pytest.raises(DataError, match=message):
        item_table(np.array(ids), np.ones((2, 2), dtype=np.float32))


def test_bad_requests_are_named(model, tmp_path):
    pl.DataFrame({"text": ["a"], "id": ["x"]}).write_parquet(tmp_path / "t.parquet")

    def encode(source="t.parquet", target="v.parquet", **arguments):
        encode_file(*model, source=tmp_path / source, target=tmp_path / target, **arguments)

    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        encode(target="v.npy")
    with pytest.raises(ConfigError, match="name their column with --id-column"):
        encode(item_dim=8)
    with pytest.raises(DataError, match=r"has no column 'title'; it has text, id"):
        encode(text_columns=["title"])
    with pytest.raises(DataError, match="column 'id' must hold an integer id"):
        encode(id_column="id")
    with pytest.raises(DataError, match=r"gone\.txt does not exist"):
        encode(source="gone.txt")
