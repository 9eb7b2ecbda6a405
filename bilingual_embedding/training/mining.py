"""Hard negatives: for each query the nearest right sides that are not its answer, by the model so far.

Legend: B queries of a block, N candidates, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.system.progress import followed

BLOCK = 1024


def mine_negatives(
    query_ND: NDArray[np.float32],
    positive_ND: NDArray[np.float32],
    *,
    negatives: int,
    skip: int = 0,
    margin: float = 0.05,
    groups: NDArray[np.int64] | None = None,
    progress: bool = False,
) -> NDArray[np.int64]:
    """Rows of `positive_ND` that look most like each query and are not its positive, the nearest first.

    A candidate nearer than `margin` below the query's own positive (or nearer than it) may be an unlabelled right
    answer and is left out; where too few remain, the best of those left out are taken after all.

    Args:
        query_ND, positive_ND: vectors of length 1, row i belongs to row i.
        negatives: how many a query.
        skip: nearest candidates left out besides, against false negatives.
        margin: distance in cosine to keep from the positive.
        groups: (N,) number of each right side's text; rows with the query's own number are never its negatives.
        progress: show it where this takes long.

    Returns:
        (N, negatives) row numbers.

    >>> vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    >>> mine_negatives(vectors, vectors, negatives=1)[:, 0].tolist()
    [1, 0, 1]
    """
    rows = len(query_ND)
    groups = np.arange(rows) if groups is None else groups
    assert rows > negatives + skip, "more candidates than requested negatives"
    own = np.einsum("nd,nd->n", query_ND, positive_ND)
    found = np.empty((rows, negatives), dtype=np.int64)
    starts = range(0, rows, BLOCK)
    what = f"hard negatives, {BLOCK} queries per block"
    for start in followed(starts, total=len(starts), what=what, unit="block", shown=progress):
        block = slice(start, min(start + BLOCK, rows))
        score_BN = query_ND[block] @ positive_ND.T
        # Too near: below everything that is not, yet in its order; itself: below all.
        score_BN[score_BN > own[block, None] - margin] -= 4.0
        score_BN[groups[block, None] == groups[None]] = -np.inf
        kept = min(negatives + skip, rows - 1)
        nearest = np.argpartition(-score_BN, kept - 1, axis=1)[:, :kept]
        order = np.argsort(-np.take_along_axis(score_BN, nearest, axis=1), axis=1, kind="stable")
        found[block] = np.take_along_axis(nearest, order, axis=1)[:, skip : skip + negatives]
    return found
