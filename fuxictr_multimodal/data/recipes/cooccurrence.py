"""Item vectors from behaviour alone: pairs of items in one user's history, PPMI, truncated SVD, folds of users.

    PPMI_ij = max(0, log(n_ij n / (n_i m_j))),   m_j = n n_j^0.75 / sum_j n_j^0.75
    vectors = U S^(1/2) of its truncated SVD, rows of length 1

n_ij counts the pairs of items i and j in histories of training users, n_i those of item i, n all of them. Sources: Levy
and Goldberg 2014; Levy, Goldberg and Dagan 2015 (context smoothing 0.75, eigenvalue weighting 1/2).

Where a sample's target stands in a counted history of its own user, its vectors would know the answer. Users are then
dealt to K folds: block 0 counts all users, block k all but those of fold k, and a sample of a user of fold k reads
block k. Each block is rotated onto block 0 (orthogonal Procrustes), so that one learnt map fits all of them.

Symbols: N items with the padding row 0, D vector width, U users, E events of them, K folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import slices
from fuxictr_multimodal.data.recipes.user_events import UserEvents
from fuxictr_multimodal.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FOLDS = 5
SMOOTHING = 0.75
# Newest events of a user that are counted.
MOST_EVENTS = 200
# Pairs that are in memory before they are added up.
CHUNK_PAIRS = 4_000_000
# A row this short beside the longest one is the rounding error of an item without a direction.
SHORTEST = 1e-6


@dataclass(frozen=True)
class ItemBlocks:
    """Vectors of all items, and what they were computed from.

    Attributes:
        vectors: block 0, of all users, (N, D) float32; items that were never counted are all zero.
        folds: blocks 1 to K, (N, K, D) float32, or None where one block serves all samples.
        fold_of_user: the block that samples of each user read, (U,) uint8.
        metadata: for the manifest.
    """

    vectors: NDArray[np.float32]
    folds: NDArray[np.float32] | None
    fold_of_user: NDArray[np.uint8]
    metadata: dict[str, Any]


def cooccurrence_vectors(
    counted: UserEvents,
    *,
    items: int,
    dim: int,
    max_len: int,
    window: int | None = None,
    folds: int = FOLDS,
    where: str,
) -> ItemBlocks:
    """Vectors of items from the counted events of users.

    Pairs of a user's newest 200 events are counted: those less than `max_len` events apart, all alike, or those within
    `window` events of each other, the nearer the more (weight window + 1 - distance). Memory holds the distinct pairs
    twice (once where no folds are needed) and 4 million pairs that are to be added.

    Args:
        counted: what training users did.
        items: N.
        dim: D; directions that the items lack are zero columns.
        max_len: events of a history.
        window: largest distance of a pair in one history.
        folds: K, where folds are needed.
        where: the column, for messages.

    Raises:
        DataError: no user has two different items, or, where folds are needed, users of one fold alone.
    """
    fold_of_user = counted.folds(folds) if counted.exposed else np.zeros(len(counted), dtype=np.uint8)
    parts = [
        counts_of_pairs(counted.take(fold_of_user == fold), items=items, most=max_len - 1, window=window)
        for fold in np.unique(fold_of_user)
    ]
    if not sum(part.nnz for part in parts):
        raise DataError(
            f"{where}: item_vectors counts pairs of items in the histories of training users, but none of the "
            f"{len(counted):,} users with a history has two different items: leave the column out"
        )
    if counted.exposed and sum(part.nnz > 0 for part in parts) < 2:
        raise DataError(
            f"{where}: too few training users ({len(counted):,}) for item_vectors: a sample reads what users of other "
            "folds than its own have made, but all with two different items are in one fold: leave the column out"
        )
    everything = _sum(parts)
    vectors, facts = _ppmi_svd(everything, dim)
    blocks = None
    if counted.exposed:
        blocks = np.zeros((items, folds, dim), dtype=np.float32)
        present = dict(zip(np.unique(fold_of_user).tolist(), range(len(parts)), strict=True))
        for fold in range(1, folds + 1):
            # A sum of the others, not a difference: what the fold alone has counted leaves nothing behind.
            others = [part for number, part in enumerate(parts) if number != present.get(fold)]
            blocks[:, fold - 1] = vectors if len(others) == len(parts) else _rotated(_block(others, dim), vectors)
    metadata = {
        "method": "ppmi_svd",
        "users": len(counted),
        "events": len(counted.items),
        "pairs": int(everything.nnz // 2),
        "window": window,
        "folds": folds if counted.exposed else 0,
        **facts,
        "items_without_vector": int((~vectors.any(axis=1)).sum()) - 1,
    }
    return ItemBlocks(vectors, blocks, fold_of_user, metadata)


def counts_of_pairs(counted: UserEvents, *, items: int, most: int, window: int | None = None) -> csr_matrix:
    """How often each pair of different items is counted, (N, N), symmetric.

    Args:
        counted: events of users.
        items: N.
        most: largest distance of a pair.
        window: a smaller one; the nearer then count the more.

    >>> events = UserEvents(np.array([1, 2, 1, 3], np.int32), np.array([0, 4]), ["anna"], exposed=False)
    >>> counts_of_pairs(events, items=4, most=2).toarray().astype(int).tolist()
    [[0, 0, 0, 0], [0, 0, 2, 1], [0, 2, 0, 1], [0, 1, 1, 0]]
    """
    from scipy.sparse import csr_matrix

    lengths = np.minimum(np.diff(counted.offsets), MOST_EVENTS)
    starts = counted.offsets[1:] - lengths
    found = csr_matrix((items, items), dtype=np.float64)
    most = most if window is None else min(most, window)
    pairs_of = np.cumsum(lengths * np.minimum(lengths, most))
    at = 0
    while at < len(lengths):
        before = pairs_of[at - 1] if at else 0
        stop = max(int(np.searchsorted(pairs_of, before + CHUNK_PAIRS, side="right")), at + 1)
        where, offsets = slices(starts[at:stop], lengths[at:stop])
        first, second, weights = _pairs_of(counted.items[where], offsets, most, window)
        found = found + csr_matrix((weights, (first, second)), shape=(items, items))
        at = stop
    return found + found.T


def _pairs_of(
    items: NDArray[np.int32], offsets: NDArray[np.int64], most: int, window: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Earlier and later item of each pair within a row, and the pair's weight."""
    ends = np.repeat(offsets[1:], np.diff(offsets))
    place = np.arange(len(items))
    longest = int(np.diff(offsets).max(initial=0))
    firsts, seconds, weights = [], [], []
    for distance in range(1, min(longest, most + 1)):
        earlier = place[place + distance < ends]
        first, second = items[earlier], items[earlier + distance]
        differ = first != second
        firsts.append(first[differ])
        seconds.append(second[differ])
        weights.append(np.full(len(firsts[-1]), 1.0 if window is None else window + 1 - distance))
    if not firsts:
        nothing = np.zeros(0, dtype=np.int32)
        return nothing, nothing, np.zeros(0)
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(weights)


def _sum(parts: Sequence[csr_matrix]) -> csr_matrix:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _block(parts: Sequence[csr_matrix], dim: int) -> NDArray[np.float32]:
    total = _sum(parts) if parts else None
    return np.zeros((0, dim), dtype=np.float32) if total is None else _ppmi_svd(total, dim)[0]


def _ppmi_svd(counts: csr_matrix, dim: int) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Vectors (N, D) of symmetric counts, and facts of the factorisation."""
    from sklearn.decomposition import TruncatedSVD

    vectors = np.zeros((counts.shape[0], dim), dtype=np.float32)
    total_N = np.asarray(counts.sum(axis=1)).ravel()
    there = np.flatnonzero(total_N)
    if not len(there):
        return vectors, {"directions": 0, "explained": None}
    ppmi = _ppmi(counts[there][:, there], total_N[there])
    found = min(dim, len(there))
    svd = TruncatedSVD(found, random_state=0)
    scaled = svd.fit_transform(ppmi) / np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    kept = (lengths > SHORTEST * lengths.max()) & (np.diff(ppmi.indptr) > 0)[:, None]
    vectors[there, :found] = np.divide(scaled, lengths, out=np.zeros_like(scaled), where=kept)
    squares = float((ppmi.data**2).sum())
    explained = float((svd.singular_values_**2).sum()) / squares if squares else None
    return vectors, {"directions": found, "explained": None if explained is None else round(explained, 4)}


def _ppmi(counts: csr_matrix, total_N: NDArray[np.float64]) -> csr_matrix:
    """Positive pointwise mutual information of counts whose rows sum to `total_N`, all above 0."""
    context_N = total_N**SMOOTHING
    context_N /= context_N.sum()
    values = counts.copy()
    rows = np.repeat(np.arange(len(total_N)), np.diff(values.indptr))
    values.data = np.maximum(np.log(values.data / (total_N[rows] * context_N[values.indices])), 0.0)
    values.eliminate_zeros()
    return values


def _rotated(block: NDArray[np.float32], onto: NDArray[np.float32]) -> NDArray[np.float32]:
    """A block turned so that the items that both have lie closest to those of another one."""
    from scipy.linalg import orthogonal_procrustes

    if not len(block):
        return np.zeros_like(onto)
    both = block.any(axis=1) & onto.any(axis=1)
    rotation, _ = orthogonal_procrustes(block[both].astype(np.float64), onto[both].astype(np.float64))
    return (block @ rotation).astype(np.float32)
