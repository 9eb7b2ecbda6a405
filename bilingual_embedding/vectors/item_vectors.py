"""Text vectors to an item table: row i is item i, row 0 padding and zero, `dim` columns by PCA.

Legend: N texts, D width of their vectors, d width of the table.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fuxictr_multimodal.data.recipes.text_features import reduce_width
from fuxictr_multimodal.errors import DataError

HIGHEST_ID = 2**31 - 1  # ids of an item table are int32
# A table has a row for every number up to the highest id: ids of another kind, such as hashes, would fill the memory.
SMALL_TABLE, ROWS_FOR_AN_ITEM = 1_000_000, 1000


def whole_numbers(ids: pl.Series) -> NDArray[np.int64]:
    """Ids as numbers, also those that are written as text.

    Raises:
        DataError: naming the first that is not a whole number.

    >>> whole_numbers(pl.Series("id", ["7", "012"])).tolist()
    [7, 12]
    """
    if ids.dtype == pl.String:
        numbers = ids.str.strip_chars().cast(pl.Int64, strict=False)
    else:
        numbers = ids.cast(pl.Int64, strict=False) if ids.dtype.is_integer() else pl.Series([None] * len(ids))
    odd = numbers.is_null().arg_true()
    if len(odd):
        found = ids[odd[:1]].to_list()[0]
        raise DataError(
            f"column {ids.name!r} must hold an integer id in every row of an item table, found {found!r} "
            f"(row {odd[0] + 1}); without --item-dim ids of any kind travel with the vectors"
        )
    return numbers.to_numpy()


def check_item_ids(ids_N: NDArray[np.integer]) -> None:
    """Whether a table can have these rows.

    Raises:
        DataError: an id below 1 (0 is padding), twice, or so high that the table would be empty but for a few rows.
    """
    if not len(ids_N):
        return
    if ids_N.min() < 1:
        raise DataError(f"item id {ids_N.min()} (row {ids_N.argmin() + 1}): ids begin at 1, 0 is padding")
    values, counts = np.unique(ids_N, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"item id {values[counts > 1][0]} occurs more than once: give each item one text")
    if ids_N.max() > min(HIGHEST_ID, max(SMALL_TABLE, ROWS_FOR_AN_ITEM * len(ids_N))):
        raise DataError(
            f"item id {ids_N.max()} (row {ids_N.argmax() + 1}): a table that ends there is too large for {len(ids_N)} "
            "items; number them from 1 on, or leave --item-dim out, where ids of any kind travel with the vectors"
        )


def item_table(ids_N: NDArray[np.integer], vectors_Nd: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows by item id, from 0 to the highest; items without a text keep zeros.

    Raises:
        DataError: as `check_item_ids`.

    >>> item_table(np.array([3, 1]), np.array([[3.0], [1.0]], dtype=np.float32)).ravel().tolist()
    [0.0, 1.0, 0.0, 3.0]
    """
    if len(ids_N) != len(vectors_Nd):
        raise DataError(f"{len(ids_N)} item ids for {len(vectors_Nd)} vectors")
    check_item_ids(ids_N)
    table = np.zeros((int(ids_N.max(initial=0)) + 1, vectors_Nd.shape[1]), dtype=np.float32)
    table[ids_N] = vectors_Nd
    assert not table[0].any(), "row 0 is padding"
    return table


def reduced_item_table(
    ids_N: NDArray[np.integer], vectors_ND: NDArray[np.float32], dim: int
) -> tuple[NDArray[np.float32], float]:
    """The item table of vectors reduced to `dim` columns, and the fraction of the variance that is kept.

    Raises:
        DataError: as `check_item_ids`.
    """
    reduced_Nd, kept = reduce_width(vectors_ND, dim)
    return item_table(ids_N, reduced_Nd), kept
