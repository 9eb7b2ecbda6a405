"""Deal the rows of a global batch to the ranks: disjoint, complete, and alike in number and in history items.

The step of a rank takes as long as its history items do, and all ranks wait for the slowest one. Rows are sorted by the
length of their histories and dealt in turns of one row a rank. In the first turns, which have the few very long ones,
the rank with the fewest items so far gets the longest; the rest goes back and forth, 0 1 2, 2 1 0, in the order of the
Thue-Morse sequence, so that no rank is always the one that is served better. Counts differ by one row at most, and the
items of two ranks by no more than the longest history has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fuxictr_multimodal.data.batch import Batch, Jagged, Share
from fuxictr_multimodal.system.ranks import Ranks

# Turns in which it is looked who has the fewest items: 0.3 ms a batch.
CHOSEN_TURNS = 64
# Positions in rows that are in memory, in the order in which they are yielded.
Picks = np.ndarray | range


def deal(lengths: NDArray[np.integer], ranks: int, *, least: int = 1) -> list[NDArray[np.int64]]:
    """The rows of each rank, ascending; together they are all rows, each once.

    Args:
        lengths: of the history of each row, (B,).
        ranks: how many there are.
        least: rows of a share; where the batch has too few rows for all ranks, the last ranks get none.

    >>> [rows.tolist() for rows in deal(np.array([9, 1, 5, 4, 0]), 2)]
    [[0, 1], [2, 3, 4]]
    >>> [rows.tolist() for rows in deal(np.array([9, 1, 5]), 2, least=2)]
    [[0, 1, 2], []]
    """
    shares = max(min(ranks, len(lengths) // least), 1)
    sorted_rows = np.argsort(-lengths, kind="stable")
    turns = -(-len(lengths) // shares)
    items = np.zeros((turns, shares), np.int64)
    items.flat[: len(lengths)] = lengths[sorted_rows]
    rank_of = np.empty((turns, shares), np.int64)
    totals = np.zeros(shares, np.int64)
    for turn in range(min(turns, CHOSEN_TURNS)):
        rank_of[turn] = np.argsort(totals, kind="stable")
        totals[rank_of[turn]] += items[turn]
    rest = rank_of[CHOSEN_TURNS:]
    rest[:] = np.argsort(totals, kind="stable")
    backwards = np.bitwise_count(np.arange(len(rest))) % 2 == 1
    rest[backwards] = rest[backwards, ::-1]
    owner = np.empty(len(lengths), np.int64)
    owner[sorted_rows] = rank_of.flat[: len(lengths)]
    return [np.flatnonzero(owner == rank) for rank in range(ranks)]


def own_share(rows: Batch, picks: Picks, ranks: Ranks, *, least: int = 1) -> Batch:
    """This rank's rows of a global batch, in the order of the batch; `share` says what they are part of.

    A rank without a row gets the first `least` ones of the batch as stand-ins, which count for nothing: models compute
    with at least that many rows, and every rank takes part in what all ranks exchange.

    Args:
        rows: in memory.
        picks: those of the global batch.
        ranks: who this process is.
        least: see `deal`.
    """
    own = deal(lengths_of(rows, picks), ranks.world_size, least=least)[ranks.rank]
    longest = int(_lengths(rows.history, picks).max(initial=0))
    share = Share(len(own), len(picks), longest, _mean_weight(rows, picks))
    taken = np.arange(min(least, len(picks))) if not len(own) else own
    chosen = np.asarray(picks)[taken]
    return replace(rows.take(torch.from_numpy(chosen)), share=share)


def lengths_of(rows: Batch, picks: Picks) -> NDArray[np.int64]:
    """History items of each picked row, of all its kinds of history together, (B,)."""
    others = (_lengths(history, picks) for history in rows.behaviours.values())
    return sum(others, _lengths(rows.history, picks))


def _lengths(history: Jagged, picks: Picks) -> NDArray[np.int64]:
    """Items of each picked row, (B,)."""
    at, offsets = np.asarray(picks), history.offsets.numpy()
    return offsets[at + 1] - offsets[at]


def imbalance(shares: Sequence[NDArray[np.integer]], lengths: NDArray[np.integer]) -> float:
    """History items of the rank that has most, divided by the mean of all ranks; 1 is balanced.

    >>> imbalance([np.array([0]), np.array([1, 2])], np.array([3, 1, 4]))
    1.25
    """
    items = np.array([lengths[rows].sum() for rows in shares])
    return float(items.max() / max(items.mean(), 1e-9))


def _mean_weight(rows: Batch, picks: Picks) -> torch.Tensor | None:
    if rows.weight is None:
        return None
    return rows.weight[torch.from_numpy(np.asarray(picks)).to(rows.weight.device)].mean()
