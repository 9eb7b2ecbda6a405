"""Text vectors know only the texts they are fitted on; given tables are aligned by id and checked."""

import unicodedata

import h5py
import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.recipes.text_features import given_vectors, tfidf_svd

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
    assert found.facts["directions"] == 3
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
    assert not found.vectors[:, found.facts["directions"] :].any()
    assert not found.vectors[6].any()
    assert found.facts["items_without_vector"] == 1


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
    found = tfidf_svd(["space war robots"] * 5, fit_rows=np.ones(5, bool), dim=3)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, 1, atol=1e-6)
    assert found.facts["explained_variance"] is None


@pytest.mark.parametrize("texts", [["", ""], ["one", "two"], ["the", "and"]])
def test_texts_without_shared_words_are_refused(texts):
    with pytest.raises(DataError, match="share fewer than two words"):
        tfidf_svd(texts, fit_rows=np.ones(2, bool), dim=3)


def write(path, keys, values):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["key"], file["value"] = keys, values
    elif path.suffix == ".npz":
        np.savez(path, key=keys, value=values)
    else:
        pl.DataFrame({"item_id": keys, "vector": values}).write_parquet(path)
    return path


@pytest.fixture(params=[".h5", ".npz", ".parquet"])
def table(request, tmp_path):
    return tmp_path / f"vectors{request.param}"


def test_given_vectors_are_aligned_by_id_and_missing_ones_counted(table):
    write(table, np.array([30, 99, 10]), np.array([[3.0, 3.5], [9.0, 9.0], [1.0, 1.5]]))
    found = given_vectors(table, item_ids=IDS, dim=2)
    assert found.vectors.tolist() == [[1.0, 1.5], [0.0, 0.0], [3.0, 3.5]]
    assert found.facts == {"method": "given", "file": table.name, "keys": 3, "items_without_vector": 1}


def test_keys_may_be_digits_as_text(tmp_path):
    for suffix in (".npz", ".parquet"):
        path = write(tmp_path / f"text{suffix}", np.array(["20", "10"]), np.array([[2.0], [1.0]]))
        assert given_vectors(path, item_ids=IDS, dim=1).vectors.tolist() == [[1.0], [2.0], [0.0]]


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (IDS, np.ones((3, 5)), "width 5, the dataset's embedding column has pretrain_dim 2"),
        (np.array([10, 20, 10]), np.ones((3, 2)), "key 10 occurs more than once"),
        (IDS, np.array([[1, 2], [1, np.nan], [1, 2]]), r"key 20 \(row 1\) has a value that is not finite"),
        (np.array([1, 2, 3]), np.ones((3, 2)), "none of the 3 items"),
        (np.array([1.5, 2, 3]), np.ones((3, 2)), "keys are item ids, so integers"),
        (np.array([], dtype=int), np.ones((0, 2)), "none of the 3 items|width 0"),
    ],
)
def test_wrong_tables_are_refused(table, keys, values, message):
    with pytest.raises(DataError, match=message):
        given_vectors(write(table, keys, values), item_ids=IDS, dim=2)


def test_wrong_shapes_and_types_are_refused(tmp_path):
    for name, keys, values, message in (
        ("flat", IDS, np.ones(3), "wanted are"),
        ("short", IDS, np.ones((2, 2)), "wanted are"),
        ("text", IDS, np.array([["a", "b"]] * 3), "not numbers"),
    ):
        with pytest.raises(DataError, match=message):
            given_vectors(write(tmp_path / f"{name}.npz", keys, values), item_ids=IDS, dim=2)
    ragged = tmp_path / "ragged.parquet"
    pl.DataFrame({"key": [10, 20], "value": [[1.0, 2.0], [1.0]]}).write_parquet(ragged)
    with pytest.raises(DataError, match="lists of different lengths, first at key 20"):
        given_vectors(ragged, item_ids=IDS, dim=2)


def test_unreadable_tables_are_refused(tmp_path):
    for suffix in (".h5", ".npz", ".parquet"):
        path = tmp_path / f"broken{suffix}"
        with pytest.raises(DataError, match="no such file"):
            given_vectors(path, item_ids=IDS, dim=2)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match="not readable"):
            given_vectors(path, item_ids=IDS, dim=2)
    with pytest.raises(DataError, match=r"ends in \.h5, \.npz, \.parquet"):
        given_vectors(tmp_path / "x.csv", item_ids=IDS, dim=2)
    np.savez(tmp_path / "other.npz", ids=IDS)
    with pytest.raises(DataError, match="arrays 'key' and 'value'"):
        given_vectors(tmp_path / "other.npz", item_ids=IDS, dim=2)
    pl.DataFrame({"key": [1], "vector": [1.0]}).write_parquet(tmp_path / "scalar.parquet")
    with pytest.raises(DataError, match="one column of lists"):
        given_vectors(tmp_path / "scalar.parquet", item_ids=IDS, dim=2)


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "objects.npz", key=IDS, value=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(DataError, match="not readable"):
        given_vectors(tmp_path / "objects.npz", item_ids=IDS, dim=2)
