"""Vectors of texts by a hash of the text: each is made once, and what an encoder gives is looked at."""

import shutil

import numpy as np
import pytest

from fuxictr_multimodal.data.recipes.text_cache import encoded_once
from fuxictr_multimodal.errors import DataError


def lengths(texts):
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def test_the_order_is_that_of_the_texts_and_nothing_is_loaded_where_all_are_known(tmp_path):
    found, made = encoded_once(["a", "bbb"], lambda: lengths, folder=tmp_path)
    assert (found[:, 0].tolist(), made) == ([1, 3], 2)
    found, made = encoded_once(["cc", "bbb", "a"], lambda: lengths, folder=tmp_path)
    assert (found[:, 0].tolist(), made) == ([2, 3, 1], 1)
    found, made = encoded_once(["bbb", "cc"], None, folder=tmp_path)
    assert (found[:, 0].tolist(), made) == ([3, 2], 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "vectors.npz"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    encoded_once(["a"], lambda: lengths, folder=tmp_path)
    (tmp_path / ".vectors.npz.999999999.tmp").write_text("half")
    encoded_once(["b"], lambda: lengths, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "vectors.npz"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((1, 2)), r"an array of shape \(1, 2\) for 2 texts"),
        (np.ones(2), r"an array of shape \(2,\) for 2 texts"),
        (np.array([[1.0], [np.nan]]), "values that are not finite"),
    ],
)
def test_an_encoder_that_gives_no_vectors_is_named(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        encoded_once(["a", "b"], lambda: lambda _: given, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_width_than_the_cache_is_named(tmp_path):
    encoded_once(["a"], lambda: lengths, folder=tmp_path)
    with pytest.raises(DataError, match="has vectors of width 2, the encoder 1: remove the folder"):
        encoded_once(["a", "b"], lambda: lambda texts: np.ones((len(texts), 1)), folder=tmp_path)


def test_a_file_of_another_encoder_is_not_believed(tmp_path, caplog):
    one, other = tmp_path / "one", tmp_path / "other"
    encoded_once(["a"], lambda: lengths, folder=one)
    other.mkdir()
    shutil.copy(one / "vectors.npz", other)
    found, made = encoded_once(["a"], lambda: lambda texts: -lengths(texts), folder=other)
    assert (found.tolist(), made) == ([[-1, -1]], 1)
    assert "is damaged (its checksum is another one)" in caplog.text


def test_a_lock_that_cannot_be_taken_loses_no_vectors(tmp_path, caplog):
    (tmp_path / ".lock").mkdir()
    found, made = encoded_once(["a"], lambda: lengths, folder=tmp_path)
    assert (found.tolist(), made) == ([[1, 1]], 1)
    assert "a lock file belongs there" in caplog.text
