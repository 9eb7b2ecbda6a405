"""Items that arrive in any order get their own rows, or a word about why not."""

from __future__ import annotations

import numpy as np
import pytest

from fuxictr_multimodal.data.store.builder import order_items
from fuxictr_multimodal.errors import DataError


def test_rows_are_placed_by_id():
    placed = order_items(
        np.array([3, 1, 2]),
        {"emb": np.array([[3.0, 3], [1, 1], [2, 2]]), "name": np.array(["c", "a", "b"], dtype=object)},
    )
    assert placed["emb"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert placed["name"].tolist() == ["", "a", "b", "c"]


def test_a_padding_row_may_be_among_them():
    placed = order_items(np.array([1, 0]), {"tags": np.array([[4, 5], [0, 0]]), "name": np.array(["a", ""])})
    assert placed["tags"].tolist() == [[0, 0], [4, 5]]
    assert placed["name"].tolist() == ["", "a"]


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([1, 2, 1], [5, 6, 7], r"item rows: id 1 occurs twice, in rows 0 and 2"),
        ([1, 4, 2], [5, 6, 7], r"item rows: id 3 is missing, but ids go up to 4"),
        ([0, 2], [0, 6], r"item rows: id 1 is missing, but ids go up to 2"),
        ([0, 1], [5, 6], r"item rows \(id 0\): row 0, column 'level': .*5.* is not empty, but row 0 is padding"),
        ([-1, 1], [5, 6], r"item rows: id -1 is negative"),
        ([1, 2], [5], r"column 'level' has 1 rows, but there are 2 ids"),
        ([1.0, 2.0], [5, 6], r"column 'ids' holds float64, but must hold integers"),
    ],
)
def test_bad_ids_are_named(ids, values, message):
    with pytest.raises(DataError, match=message):
        order_items(np.array(ids), {"level": np.array(values)})


def test_no_items():
    with pytest.raises(DataError, match="there are no items"):
        order_items(np.zeros(0, int), {})
