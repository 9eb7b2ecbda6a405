"""Texts to vectors: each distinct text once, order kept, files, item tables."""

import gzip
import json

import numpy as np
import polars as pl
import pytest
import torch

from bilingual_embedding.model.checkpoint import load_encoder, save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.vectors import encoding
from bilingual_embedding.vectors.encoding import encode_texts
from bilingual_embedding.vectors.item_vectors import item_table, reduce_width
from bilingual_embedding.vectors.text_vectors import TextFile, embed_by, write_vectors
from fuxictr_multimodal.data.recipes.text_features import pretrained_vectors
from fuxictr_multimodal.errors import ConfigError, DataError

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


def encode_file(model, **arguments):
    return write_vectors(TextFile(**arguments), embed_by(*model))


def test_text_file_to_vectors(model, tmp_path):
    with gzip.open(tmp_path / "t.gz", "wt") as file:
        file.write("a\nb\na\n")
    facts = encode_file(model, source=tmp_path / "t.gz", target=tmp_path / "out" / "v.parquet")
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
        model, source=tmp_path / "items.parquet", target=target, text_columns=["title", "plot"], id_column="id",
        item_dim=8,
    )  # fmt: skip
    table = pl.read_parquet(target)
    vectors = table["item_emb_d8"].to_numpy()
    assert table["item_id"].to_list() == [0, 1, 2, 3, 4]
    assert not vectors[[0, 3]].any()
    assert (facts["items"], facts["items_without_text"]) == (4, 1)
    expected, _ = reduce_width(encode_texts(*model, ["red. sky", "green", "sea"]).vectors, 8)
    np.testing.assert_allclose(vectors[[4, 1, 2]], expected, atol=1e-5)
    read = pretrained_vectors(target, item_ids=np.arange(1, 5), dim=8)
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
        encode_file(model, source=tmp_path / source, target=tmp_path / target, **arguments)

    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        encode(target="v.npy")
    with pytest.raises(ConfigError, match="name their column with --id-column"):
        encode(item_dim=8)
    with pytest.raises(DataError, match=r"has no column 'title'; it has text, id"):
        encode(text_columns=["title"])
    with pytest.raises(DataError, match=r"t\.parquet: column 'id' must hold an integer id .*found 'x' \(row 1\)"):
        encode(id_column="id", item_dim=8)
    with pytest.raises(DataError, match=r"gone\.txt does not exist"):
        encode(source="gone.txt")
    with pytest.raises(DataError, match=r"expected a file named \.txt, \.jsonl"):
        encode(source="t.xlsx")
    with pytest.raises(ConfigError, match="is also the input"):
        encode(target="t.parquet")
    with pytest.raises(ConfigError, match="cannot be named 'vector'"):
        encode(id_column="vector")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        encode(target="folder.parquet")
    pl.DataFrame({"text": [None, " "], "id": [1, None]}).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"empty\.parquet contains no text"):
        encode(source="empty.parquet")
    with pytest.raises(DataError, match=r"empty\.parquet, row 2: column 'id' is empty"):
        encode(source="empty.parquet", id_column="id")
    assert not (tmp_path / "v.parquet").exists()


@pytest.fixture
def encode(model, tmp_path):
    """Write a file, encode it, and return the metadata and the table."""

    def run(name, content, **arguments):
        source = tmp_path / name
        if isinstance(content, pl.DataFrame):
            content.write_parquet(source)
        else:
            source.write_bytes(gzip.compress(content.encode()) if name.lower().endswith(".gz") else content.encode())
        facts = encode_file(model, source=source, target=tmp_path / "v.parquet", **arguments)
        return facts, pl.read_parquet(tmp_path / "v.parquet")

    return run


IDS = [
    pl.Series([1, 9_000_000_000]), pl.Series([1, 200], dtype=pl.UInt8), pl.Series([2**63, 1], dtype=pl.UInt64),
    pl.Series([-1, 0]), pl.Series(["tt007", "7"]), pl.Series([7, 7]), pl.Series([0.5, 1.0]),
]  # fmt: skip


@pytest.mark.parametrize("ids", IDS, ids=str)
@pytest.mark.parametrize("name", ["item_id", "id"])
def test_ids_of_any_type_travel_unchanged(encode, name, ids):
    _, table = encode("t.parquet", pl.DataFrame([ids.alias(name), pl.Series("text", ["a", "b"])]), id_column=name)
    assert table.columns == [name, "vector"]
    assert table[name].dtype == ids.dtype
    assert table[name].to_list() == ids.to_list()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1", "9000000000"], [1, 9_000_000_000]),
        (["007", "8"], ["007", "8"]),
        (["1e5", "2"], ["1e5", "2"]),
        (["9000000000000000000000", "1"], ["9000000000000000000000", "1"]),
        (["tt1", "2"], ["tt1", "2"]),
    ],
)
def test_ids_of_a_text_file_are_numbers_where_nothing_is_lost(encode, written, expected):
    for name, separator in (("t.csv", ","), ("t.tsv.gz", "\t")):
        content = "".join(separator.join(row) + "\n" for row in [("id", "text"), (written[0], "a"), (written[1], "b")])
        assert encode(name, content, id_column="id")[1]["id"].to_list() == expected


@pytest.mark.parametrize("ids", [[1, 9_000_000_000], [2_000_000_000, 1], [1, 2**31]])
def test_ids_that_an_item_table_cannot_hold_are_refused_before_encoding(encode, monkeypatch, ids):
    monkeypatch.setattr("bilingual_embedding.vectors.text_vectors.encode_texts", None)
    with pytest.raises(DataError, match=rf"t\.parquet: item id {max(ids)} \(row {ids.index(max(ids)) + 1}\): a table"):
        encode("t.parquet", pl.DataFrame({"item_id": ids, "text": ["a", "b"]}), id_column="item_id", item_dim=2)


def test_items_without_text_have_zeros_and_are_counted(encode, model):
    frame = pl.DataFrame({
        "id": [1, 2, 3, 4, 5, 7],
        "title": ["b", None, "  ", "", "\u200b", "a"],
        "plot": ["", "\t", None, None, None, " longer "],
    })  # fmt: skip
    expected = encode_texts(*model, ["b", "a. longer"]).vectors
    facts, table = encode("t.parquet", frame, text_columns=["title", "plot"], id_column="id")
    assert (facts["texts"], facts["distinct"], facts["items_without_text"], facts["width"]) == (6, 2, 4, 32)
    vectors = table["vector"].to_numpy()
    np.testing.assert_allclose(vectors[[0, 5]], expected, atol=1e-6)
    assert not vectors[1:5].any()
    facts, table = encode("t.parquet", frame, text_columns=["title", "plot"], id_column="id", item_dim=4)
    assert (facts["items"], facts["items_without_text"]) == (7, 5)
    np.testing.assert_allclose(table["item_emb_d4"].to_numpy()[[1, 7]], reduce_width(expected, 4)[0], atol=1e-6)
    assert not table["item_emb_d4"].to_numpy()[[0, 2, 3, 4, 5, 6]].any()
    facts, table = encode("t.txt", "a\n\n  \nb\n\n")
    assert (table["row"].to_list(), facts["items_without_text"]) == ([0, 1, 2, 3], 2)
    assert [row for row, vector in enumerate(table["vector"]) if any(vector)] == [0, 3]


TITLES = ["1917", "007", "1e5", "true", "2001-01-01", "null", "1.50", "Heat"]


NAMES = "t.csv T.CSV t.csv.gz t.tsv t.Tsv.Gz t.jsonl T.JSONL.GZ t.ndjson t.parquet T.Parquet".split()


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_name_says_the_format_and_texts_stay_as_they_are(encode, model, name):
    if "parquet" in name.lower():
        content = pl.DataFrame({"title": TITLES})
    elif "json" in name.lower():
        content = "".join(json.dumps({"title": title}) + "\n" for title in TITLES)
    else:
        separator = "\t" if "tsv" in name.lower() else ","
        content = "".join(f"{title}{separator}x\n" for title in ["title", *TITLES])
    facts, table = encode(name, content, text_columns=["title"])
    assert facts["texts"] == facts["distinct"] == len(TITLES)
    np.testing.assert_allclose(table["vector"].to_numpy(), encode_texts(*model, TITLES).vectors, atol=1e-5)


def test_numbers_in_a_text_column_are_texts(encode, model):
    numbers = [str(number) for number in range(120)]
    for name, content in {
        "late.csv": "title\n" + "\n".join([*numbers, "Heat"]),
        "late.jsonl": "".join(f'{{"title": {number}}}\n' for number in numbers) + '{"title": "Heat"}\n',
        "late_key.jsonl": "".join(f'{{"title": "{number}"}}\n' for number in numbers) + '{"title": "Heat", "x": 1}\n',
    }.items():
        facts, table = encode(name, content, text_columns=["title"])
        assert facts["texts"] == 121
        np.testing.assert_allclose(
            table["vector"].to_numpy(), encode_texts(*model, [*numbers, "Heat"]).vectors, atol=1e-5
        )
    literals = '{"title": 1e5, "id": 1}\n{"title": 1.50, "id": 2}\n{"title": true, "id": 3}\n{"id": 4}\n'
    facts, table = encode("l.jsonl", literals, text_columns=["title"], id_column="id")
    np.testing.assert_allclose(
        table["vector"].to_numpy()[:3], encode_texts(*model, ["1e5", "1.50", "true"]).vectors, atol=1e-5
    )
    assert (facts["items_without_text"], table["id"].to_list()) == (1, [1, 2, 3, 4])
    frame = pl.DataFrame({"title": [1917, None], "kind": pl.Series(["a", "b"], dtype=pl.Categorical)})
    _, table = encode("n.parquet", frame, text_columns=["title", "kind"])
    np.testing.assert_allclose(table["vector"].to_numpy(), encode_texts(*model, ["1917. a", "b"]).vectors, atol=1e-5)
    for name, content in (
        ("s.parquet", pl.DataFrame({"text": [["a"]]})), ("s.jsonl", '{"text": {"a": "b"}}\n'),
    ):  # fmt: skip
        with pytest.raises(DataError, match="'text' .*expected text"):
            encode(name, content)


def test_half_a_character_in_json_is_left_out(encode, model):
    _, table = encode("t.jsonl", '{"text": "a \\ud83d b"}\n{"text": "a  b"}\n')
    np.testing.assert_array_equal(table["vector"][0].to_numpy(), table["vector"][1].to_numpy())


def test_other_columns_of_jsonl_keep_their_types(encode):
    _, table = encode("t.jsonl", '{"id": "1", "text": "a"}\n{"id": "02", "text": "b"}\n', id_column="id")
    assert table["id"].to_list() == ["1", "02"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["9007199254740993", "1.5"], ["9007199254740993", "1.5"]),
        (["18446744073709551615", "-1"], ["18446744073709551615", "-1"]),
        (["0.5", "1"], [0.5, 1.0]),
        (["9007199254740993", "-1"], [9007199254740993, -1]),
    ],
)
def test_no_number_of_json_is_rounded_on_its_way_to_an_id(encode, written, expected):
    _, table = encode("t.jsonl", "".join(f'{{"id": {n}, "text": "a"}}\n' for n in written), id_column="id")
    assert table["id"].to_list() == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "id,text\n1,a\n  ,b\n"),
        ("t.parquet", pl.DataFrame({"id": ["1", ""], "text": ["a", "b"]})),
        ("t.parquet", pl.DataFrame({"id": [1.0, float("nan")], "text": ["a", "b"]})),
        ("t.parquet", pl.DataFrame({"id": [1, None], "text": ["a", "b"]})),
    ],
)
def test_a_row_without_an_id_is_named(encode, name, content):
    with pytest.raises(DataError, match=rf"{name}, row 2: column 'id' is empty, expected an id in every row"):
        encode(name, content, id_column="id")


def test_json_is_read_as_rows_not_as_lines(encode):
    rows = '{"id": 1, "text": "a"}\n{"id": 2, "text": null}\n'
    for name in ("t.json", "t.json.gz"):
        facts, table = encode(name, rows, id_column="id")
        assert (table["id"].to_list(), facts["items_without_text"]) == ([1, 2], 1)
    with pytest.raises(DataError, match="line 1: expected an object"):
        encode("t.json.gz", '[{"id": 1, "text": "a"}]')


def test_an_output_that_cannot_be_written_is_named(model, tmp_path, monkeypatch):
    source = tmp_path / "t.txt"
    source.write_text("a\n")
    with pytest.raises(DataError, match=r"the folder .*t\.txt cannot be created"):
        encode_file(model, source=source, target=source / "v.parquet")

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(DataError, match=r"output .*v\.parquet cannot be written: No space left on device"):
        encode_file(model, source=source, target=tmp_path / "v.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_blank_last_rows_of_a_table_are_none(encode):
    facts, _ = encode("excel.csv", "id,title,,\n1,a,,\n2,b,,\n", text_columns=["title"])
    assert facts["texts"] == 2
    facts, _ = encode("t.csv", "id,title\r\n1,a\r\n,\r\n3,b\r\n\r\n  \r\n", text_columns=["title"])
    assert (facts["texts"], facts["items_without_text"]) == (3, 1)
