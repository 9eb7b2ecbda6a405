"""Text vectors depend only on the texts that they are fitted on; pretrained tables are aligned by id and checked."""

import json
import unicodedata
from decimal import Decimal

import h5py
import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.recipes.text_features import pretrained_vectors, reduce_width, tfidf_svd
from fuxictr_multimodal.errors import DataError

TEXTS = [
    "space war robots",
    "robots in space",
    "love letters paris",
    "paris love story",
    "war story",
    "robots love war",
]
IDS = np.array([10, 20, 30])


def test_vectors_have_length_one_and_resemble_by_words():
    found = tfidf_svd(TEXTS, fit_rows=np.ones(6, bool), dim=3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    like = found.vectors @ found.vectors.T
    assert like[0, 1] > like[0, 2]
    assert like[2, 3] > like[1, 3]
    assert found.metadata["directions"] == 3
    assert found.vectors.dtype == np.float32


def test_a_text_outside_the_fit_changes_no_other_vector():
    fit = np.array([True] * 5 + [False])
    first = tfidf_svd(TEXTS, fit_rows=fit, dim=3)
    second = tfidf_svd([*TEXTS[:5], "robots robots paris unseen"], fit_rows=fit, dim=3)
    np.testing.assert_array_equal(first.vectors[:5], second.vectors[:5])
    assert first.vectors[5].any()


def test_a_small_vocabulary_leaves_zero_columns_and_unknown_words_a_zero_row():
    found = tfidf_svd([*TEXTS, "unseen"], fit_rows=np.array([True] * 6 + [False]), dim=128)
    assert found.vectors.shape == (7, 128)
    assert not found.vectors[:, found.metadata["directions"] :].any()
    assert not found.vectors[6].any()
    assert found.metadata["items_without_vector"] == 1


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["red car"] * 4, id="all equal"),
        pytest.param(["red car", "red car", "", ""], id="equal or empty"),
        pytest.param(["red car", "red car"], id="fewer items than directions"),
        pytest.param(["red car", "red car", "the of and", "!?"], id="without a known word"),
    ],
)
def test_texts_without_variance_give_finite_numbers(texts):
    found = tfidf_svd(texts, fit_rows=np.ones(len(texts), bool), dim=8)
    assert found.vectors.shape == (len(texts), 8)
    assert np.isfinite(found.vectors).all()
    lengths = np.linalg.norm(found.vectors, axis=1)
    assert lengths == pytest.approx([1.0 if "red" in text else 0.0 for text in texts])
    json.dumps(found.metadata, allow_nan=False)


def test_same_texts_same_vectors():
    one, two = (tfidf_svd(TEXTS, fit_rows=np.ones(6, bool), dim=3).vectors for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_words_keep_their_marks_however_they_are_composed():
    texts = ["दिन जाता", "दिन जाता", "दीन जाती", "दीन जाती"]
    found = tfidf_svd(texts, fit_rows=np.ones(4, bool), dim=4)
    like = found.vectors @ found.vectors.T
    assert like[0, 1] == pytest.approx(1)
    assert like[0, 2] == pytest.approx(0, abs=1e-6)
    composed, decomposed = (
        tfidf_svd([unicodedata.normalize(form, text) for text in ["naïve café", "naïve café", "x"]],
                  fit_rows=np.ones(3, bool), dim=2).vectors
        for form in ("NFC", "NFD")
    )  # fmt: skip
    np.testing.assert_array_equal(composed, decomposed)


def test_equal_texts_give_finite_vectors_and_no_variance():
    for text in ("space war robots", "space"):
        found = tfidf_svd([text] * 5, fit_rows=np.ones(5, bool), dim=3)
        np.testing.assert_allclose(found.vectors @ found.vectors.T, 1, atol=1e-6)
        assert found.metadata["explained_variance"] is None


def test_a_single_shared_word_is_enough():
    found = tfidf_svd(["film red", "film blue", "green"], fit_rows=np.ones(3, bool), dim=2)
    np.testing.assert_allclose(np.abs(found.vectors), [[1, 0], [1, 0], [0, 0]], atol=1e-6)
    assert (found.metadata["directions"], found.metadata["items_without_vector"]) == (1, 1)


@pytest.mark.parametrize("texts", [["", ""], ["one", "two"], ["the", "and"]])
def test_texts_without_shared_words_are_refused(texts):
    with pytest.raises(DataError, match="have no word in common"):
        tfidf_svd(texts, fit_rows=np.ones(2, bool), dim=3)


def write(path, keys, values):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["key"], file["value"] = keys.astype("S") if keys.dtype.kind == "U" else keys, values
    elif path.suffix == ".npz":
        np.savez(path, key=keys, value=values)
    else:
        pl.DataFrame({"item_id": keys, "vector": values}).write_parquet(path)
    return path


@pytest.fixture(params=[".h5", ".npz", ".parquet"])
def table(request, tmp_path):
    return tmp_path / f"vectors{request.param}"


def test_pretrained_vectors_are_aligned_by_id_and_missing_ones_counted(table):
    write(table, np.array([30, 99, 10]), np.array([[3.0, 3.5], [9.0, 9.0], [1.0, 1.5]]))
    found = pretrained_vectors(table, item_ids=IDS, dim=2)
    assert found.vectors.tolist() == [[1.0, 1.5], [0.0, 0.0], [3.0, 3.5]]
    assert found.metadata == {"method": "given", "file": table.name, "keys": 3, "items_without_vector": 1}


def test_keys_may_be_digits_as_text(tmp_path):
    for suffix in (".npz", ".parquet", ".h5"):
        path = write(tmp_path / f"text{suffix}", np.array(["20", "10"]), np.array([[2.0], [1.0]]))
        assert pretrained_vectors(path, item_ids=IDS, dim=1).vectors.tolist() == [[1.0], [2.0], [0.0]]


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (IDS, np.ones((3, 2), dtype=bool), "not numbers"),
        (IDS, np.full((3, 2), 1e300), r"key 10 \(row 0\) has a value that is not finite in float32"),
        (
            np.array([1, 2, 2**63], dtype=np.uint64),
            np.ones((3, 2)),
            r"integers; found .*9223372036854775808.*\(row 2\)",
        ),
        (np.array(["10", "tt20", "30"]), np.ones((3, 2)), r"integers; found .*tt20.*\(row 1\)"),
        (np.array(["1_0", "20", "30"]), np.ones((3, 2)), r"integers; found .*1_0.*\(row 0\)"),
        (np.array([10, 20, 10]), np.ones((3, 2)), "key 10 occurs more than once"),
        (IDS, np.array([[1, 2], [1, np.nan], [1, 2]]), r"key 20 \(row 1\) has a value that is not finite"),
        (np.array([1, 2, 3]), np.ones((3, 2)), "none of the 3 items"),
        (np.array([1.5, 2, 3]), np.ones((3, 2)), "keys are item ids, so integers"),
        (np.array([], dtype=int), np.ones((0, 2)), "none of the 3 items|width 0"),
    ],
)
def test_wrong_tables_are_refused(table, keys, values, message):
    with pytest.raises(DataError, match=message):
        pretrained_vectors(write(table, keys, values), item_ids=IDS, dim=2)


def test_numbers_of_other_types_are_keys_where_they_are_whole(tmp_path):
    path = tmp_path / "keys.parquet"
    for keys, message in (([Decimal("10.5"), Decimal(20)], "10.5"), ([True, False], "True"), ([10.0, 20.0], "10.0")):
        pl.DataFrame({"item_id": keys, "vector": [[1.0], [2.0]]}).write_parquet(path)
        with pytest.raises(DataError, match=rf"keys are item ids, so integers; found .*{message}.* \(row 0\)"):
            pretrained_vectors(path, item_ids=IDS, dim=1)
    pl.DataFrame({"item_id": [Decimal(10), Decimal(20)], "vector": [[1.0], [2.0]]}).write_parquet(path)
    assert pretrained_vectors(path, item_ids=IDS, dim=1).vectors.tolist() == [[1.0], [2.0], [0.0]]


def test_a_damaged_name_in_a_parquet_file_is_refused(tmp_path):
    path = write(tmp_path / "flipped.parquet", IDS, np.ones((3, 2)))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"vector", b"vec\xfeor"))
    with pytest.raises(DataError, match="cannot be read: a name in it is not UTF-8"):
        pretrained_vectors(path, item_ids=IDS, dim=2)


def test_wrong_shapes_and_types_are_refused(tmp_path):
    for name, keys, values, message in (
        ("flat", IDS, np.ones(3), "expected"),
        ("short", IDS, np.ones((2, 2)), "expected"),
        ("text", IDS, np.array([["a", "b"]] * 3), "not numbers"),
    ):
        with pytest.raises(DataError, match=message):
            pretrained_vectors(write(tmp_path / f"{name}.npz", keys, values), item_ids=IDS, dim=2)
    ragged = tmp_path / "ragged.parquet"
    pl.DataFrame({"key": [10, 20], "value": [[1.0, 2.0], [1.0]]}).write_parquet(ragged)
    with pytest.raises(DataError, match="lists of different lengths, first at key 20"):
        pretrained_vectors(ragged, item_ids=IDS, dim=2)


def test_another_width_is_reduced_or_padded_and_recorded(table):
    values = np.random.default_rng(0).normal(size=(3, 4))
    write(table, IDS, values)
    wide = pretrained_vectors(table, item_ids=np.array([10, 20, 30, 40]), dim=2)
    expected, kept = reduce_width(values, 2)
    np.testing.assert_allclose(wide.vectors[:3], expected, atol=1e-6)
    assert not wide.vectors[3].any()
    told = {name: wide.metadata[name] for name in ("given_width", "variance_kept", "items_without_vector")}
    assert told == {"given_width": 4, "variance_kept": round(kept, 4), "items_without_vector": 1}
    narrow = pretrained_vectors(table, item_ids=IDS, dim=6)
    np.testing.assert_allclose(narrow.vectors, np.pad(values, ((0, 0), (0, 2))), atol=1e-6)
    assert narrow.metadata["given_width"] == 4


def test_zero_vectors_count_as_missing_and_do_not_turn_the_others():
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    reduced, kept = reduce_width(np.concatenate([vectors, np.zeros((7, 4))]), 3)
    expected, expected_kept = reduce_width(vectors, 3)
    np.testing.assert_allclose(reduced[:5], expected, atol=1e-6)
    assert not reduced[5:].any()
    assert kept == pytest.approx(expected_kept)
    assert reduce_width(np.zeros((3, 4)), 2)[0].tolist() == [[0, 0]] * 3


def test_any_name_of_the_id_column_and_any_case_of_the_suffix(tmp_path):
    for suffix in (".NPZ", ".H5", ".Parquet"):
        path = write((tmp_path / "v").with_suffix(suffix.lower()), IDS, np.eye(3, 2)).rename(tmp_path / f"V{suffix}")
        assert pretrained_vectors(path, item_ids=IDS, dim=2).vectors.tolist() == np.eye(3, 2).tolist()
    frame = pl.DataFrame({"movieId": IDS, "vector": np.eye(3, 2)})
    frame.write_parquet(tmp_path / "named.parquet")
    assert pretrained_vectors(tmp_path / "named.parquet", item_ids=IDS, dim=2).metadata["items_without_vector"] == 1
    frame.rename({"movieId": "row"}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"'row' holds row numbers, not item ids; encode the texts again with --id-col"):
        pretrained_vectors(tmp_path / "rows.parquet", item_ids=IDS, dim=2)
    frame.with_columns(title=pl.lit("x")).write_parquet(tmp_path / "two.parquet")
    with pytest.raises(DataError, match="one column of item ids .*found movieId, vector, title"):
        pretrained_vectors(tmp_path / "two.parquet", item_ids=IDS, dim=2)
    with_gap = pl.DataFrame({"movieId": [10, None], "vector": [[1.0], [2.0]]})
    with_gap.write_parquet(tmp_path / "gap.parquet")
    with pytest.raises(DataError, match="'movieId' has no item id in row 1"):
        pretrained_vectors(tmp_path / "gap.parquet", item_ids=IDS, dim=2)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.99])
def test_cut_tables_are_refused(table, share):
    whole = write(table, np.arange(500), np.random.default_rng(0).normal(size=(500, 8))).read_bytes()
    table.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        DataError, match=r"vectors\.\w+: cannot be read as a table of vectors: .*[Ee]xpected are item ids and"
    ):
        pretrained_vectors(table, item_ids=IDS, dim=8)


def test_damaged_members_of_an_archive_are_refused(tmp_path):
    path = write(tmp_path / "flipped.npz", np.arange(500), np.ones((500, 8)))
    content = bytearray(path.read_bytes())
    content[3000:3010] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a table of vectors: Bad CRC"):
        pretrained_vectors(path, item_ids=IDS, dim=8)


def test_other_layouts_are_refused(tmp_path):
    layouts = {
        "groups": lambda file: [file.create_group(name) for name in ("key", "value")],
        "nothing": lambda file: None,
        "one": lambda file: file.create_dataset("key", data=IDS),
        "inside": lambda file: file.create_dataset("table/key", data=IDS),
    }
    for name, fill in layouts.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            fill(file)
        with pytest.raises(
            DataError, match=r"cannot be read as a table of vectors: 'key' and 'value' are (not among|no)"
        ):
            pretrained_vectors(tmp_path / f"{name}.h5", item_ids=IDS, dim=2)
    for name, key, value in (("scalar", 3, np.ones((3, 2))), ("empty", h5py.Empty("f"), IDS), ("text", "a", "b")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["key"], file["value"] = key, value
        with pytest.raises(DataError, match="expected"):
            pretrained_vectors(tmp_path / f"{name}.h5", item_ids=IDS, dim=2)
    np.save(tmp_path / "single.npy", IDS)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(DataError, match="cut, empty or no .npz file"):
        pretrained_vectors(tmp_path / "single.npz", item_ids=IDS, dim=2)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="a folder"):
        pretrained_vectors(tmp_path / "folder.npz", item_ids=IDS, dim=2)


def test_unreadable_tables_are_refused(tmp_path):
    for suffix in (".h5", ".npz", ".parquet"):
        path = tmp_path / f"broken{suffix}"
        with pytest.raises(DataError, match="does not exist"):
            pretrained_vectors(path, item_ids=IDS, dim=2)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match="cannot be read"):
            pretrained_vectors(path, item_ids=IDS, dim=2)
    with pytest.raises(DataError, match=r"must have the suffix \.h5, \.npz, \.parquet"):
        pretrained_vectors(tmp_path / "x.csv", item_ids=IDS, dim=2)
    np.savez(tmp_path / "other.npz", ids=IDS)
    with pytest.raises(DataError, match="'key' and 'value' are not among ids. Expected"):
        pretrained_vectors(tmp_path / "other.npz", item_ids=IDS, dim=2)
    pl.DataFrame({"key": [1], "vector": [1.0]}).write_parquet(tmp_path / "scalar.parquet")
    with pytest.raises(DataError, match="one column of lists"):
        pretrained_vectors(tmp_path / "scalar.parquet", item_ids=IDS, dim=2)


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "objects.npz", key=IDS, value=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        pretrained_vectors(tmp_path / "objects.npz", item_ids=IDS, dim=2)
