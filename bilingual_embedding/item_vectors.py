"""Text vectors to an item table: row i is item i, row 0 padding and zero, `dim` columns by PCA.

Legend: N texts, D width of their vectors, d width of the table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import DataError


def reduce_width(vectors_ND: NDArray[np.float32], dim: int) -> tuple[NDArray[np.float32], float]:
    """L2-normalise, centre, project on the `dim` directions of largest variance.

    Returns:
        (N, d) float32 and the share of the variance that is kept. Directions that the texts do not have are zero.

    >>> reduced, kept = reduce_width(np.eye(4, dtype=np.float32), 3)
    >>> reduced.shape, round(kept, 6)
    ((4, 3), 1.0)
    """
    lengths = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit = np.divide(vectors_ND, lengths, out=np.zeros_like(vectors_ND), where=lengths > 0).astype(np.float64)
    centred = unit - unit.mean(axis=0)
    variance, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-variance)[:dim]
    # An eigenvector's sign is arbitrary: its largest entry is made positive, the same on every machine.
    chosen = directions[:, order]
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    reduced = np.zeros((len(vectors_ND), dim), dtype=np.float32)
    reduced[:, : chosen.shape[1]] = centred @ chosen
    return reduced, float(variance[order].sum() / max(variance.sum(), 1e-30))


def item_table(ids_N: NDArray[np.integer], vectors_Nd: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows by item id, from 0 to the highest; items without a text keep zeros.

    Raises:
        DataError: an id below 1 (0 is padding) or twice.

    >>> item_table(np.array([3, 1]), np.array([[3.0], [1.0]], dtype=np.float32)).ravel().tolist()
    [0.0, 1.0, 0.0, 3.0]
    """
    if len(ids_N) != len(vectors_Nd):
        raise DataError(f"{len(ids_N)} item ids for {len(vectors_Nd)} vectors")
    if len(ids_N) and ids_N.min() < 1:
        raise DataError(f"item id {ids_N.min()} (row {ids_N.argmin() + 1}): ids begin at 1, 0 is padding")
    values, counts = np.unique(ids_N, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"item id {values[counts > 1][0]} occurs more than once: give each item one text")
    table = np.zeros((int(ids_N.max(initial=0)) + 1, vectors_Nd.shape[1]), dtype=np.float32)
    table[ids_N] = vectors_Nd
    assert not table[0].any(), "row 0 is padding"
    return table
