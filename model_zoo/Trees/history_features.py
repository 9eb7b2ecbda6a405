"""Features of a target beside its history: similarity, shared values, counts, co-occurrence; NaN without a history.

Shape legend: B samples, N history items of all of them, L items of the longest history.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.data.jagged import places_in_rows
from model_zoo.Trees.histories import Histories
from model_zoo.Trees.samples import Items, Samples

Feature = tuple[str, NDArray]
TOP = 3


def of_history(samples: Samples) -> Iterator[Feature]:
    """The length of the history, and whether it holds the target."""
    yield "history_length", samples.lengths
    yield "target_in_history", np.nan_to_num(_mean(_is_target(samples), samples)) > 0


def similarities(samples: Samples, items: Items) -> Iterator[Feature]:
    """Cosines of target and history in each pretrained embedding.

    Mean, largest, that of the last item, mean of the top three, and that of the history's mean vector.
    """
    rows = samples.rows
    for name in items.vectors:
        history, target = items.of_samples(name, samples)
        cosines = np.einsum("nd,nd->n", history, target[rows])
        padded = _padded(cosines, samples)
        mean = _mean(cosines, samples)
        sums = np.zeros_like(target)
        filled = samples.lengths > 0
        if len(history):
            sums[filled] = np.add.reduceat(history, samples.offsets[:-1][filled])
        # The mean cosine is that with the mean vector, times its length.
        length = np.linalg.norm(sums, axis=1) / np.maximum(samples.lengths, 1)
        yield f"{name}_cosine_mean", mean
        yield f"{name}_cosine_max", _largest(padded)
        yield f"{name}_cosine_last", _last(cosines, samples)
        yield f"{name}_cosine_top{TOP}", _top(padded, samples.lengths)
        yield f"{name}_cosine_of_mean", mean / np.maximum(length, 1e-6)


def overlaps(samples: Samples, items: Items) -> Iterator[Feature]:
    """How much of the history shares a tag, or another value, with the target, and how many of its values it has."""
    rows = samples.rows
    for name, codes in items.codes.items():
        history, target = codes[samples.history], codes[samples.target]
        shares = np.zeros(len(history), bool)
        seen = np.zeros(target.shape, bool)
        for column in range(target.shape[1]):
            asked = target[rows, column]
            found = (history == asked[:, None]).any(axis=1) & (asked != 0)
            shares |= found
            seen[rows[found], column] = True
        yield f"{name}_share", _mean(shares, samples)
        yield f"{name}_last", _last(shares, samples)
        if target.shape[1] > 1:
            yield f"{name}_seen", seen.sum(axis=1)


def counts(samples: Samples, histories: Histories) -> Iterator[Feature]:
    """How many users of train hold the target, and the history items on average; logarithms."""
    user = histories.rows_of(samples)

    def holders(user: NDArray, item: NDArray) -> NDArray:
        return np.log1p(histories.holders[item] - histories.held.get(user, item))

    yield "target_holders", holders(user, samples.target)
    yield "history_holders_mean", _mean(holders(user[samples.rows], samples.history), samples)


def cooccurrence(samples: Samples, histories: Histories) -> Iterator[Feature]:
    """How many users of train hold both a history item and the target: log counts, PPMI, cosines.

    With n(h, t) users who hold both, n(h) and n(t) who hold one of them, and U users, for a sample of train without its
    own: PPMI = max(0, log(n(h, t) U / (n(h) n(t)))), cosine = n(h, t) / sqrt(n(h) n(t)).
    """
    rows = samples.rows
    history, target = samples.history, samples.target[rows]
    user = histories.rows_of(samples)[rows]
    own_h, own_t = histories.held.get(user, history), histories.held.get(user, target)
    both = histories.pairs.get(history, target) - own_h * own_t * (history != target)
    together = both > 0
    apart = np.where(together, (histories.holders[history] - own_h) * (histories.holders[target] - own_t), 1)
    users = len(histories.users) - (user < len(histories.users))
    pmi = np.log(np.maximum(both * users / apart, 1))
    for name, values in (("count", np.log1p(both)), ("ppmi", pmi), ("item_cosine", both / np.sqrt(apart))):
        yield f"pair_{name}_sum", np.bincount(rows, values, minlength=len(samples))
        yield f"pair_{name}_mean", _mean(values, samples)
        yield f"pair_{name}_max", _largest(_padded(values, samples))
    yield "pair_ppmi_last", _last(pmi, samples)
    yield "pair_any_share", _mean(together, samples)


def _is_target(samples: Samples) -> NDArray:
    return samples.history == samples.target[samples.rows]


def _mean(values: NDArray, samples: Samples) -> NDArray:
    sums = np.bincount(samples.rows, values, minlength=len(samples))
    with np.errstate(invalid="ignore"):
        return sums / samples.lengths


def _last(values: NDArray, samples: Samples) -> NDArray:
    found = np.full(len(samples), np.nan)
    filled = samples.lengths > 0
    found[filled] = values[samples.offsets[1:][filled] - 1]
    return found


def _padded(values: NDArray, samples: Samples) -> NDArray:
    """One row a sample, (B, L), at least `TOP` wide; -inf where there is no item."""
    lengths = samples.lengths
    padded = np.full((len(samples), max(int(lengths.max(initial=0)), TOP)), -np.inf)
    padded[samples.rows, places_in_rows(lengths)] = values
    return padded


def _largest(padded: NDArray) -> NDArray:
    largest = padded.max(axis=1)
    return np.where(np.isfinite(largest), largest, np.nan)


def _top(padded: NDArray, lengths: NDArray) -> NDArray:
    top = np.partition(padded, -TOP, axis=1)[:, -TOP:]
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(top), top, 0).sum(axis=1) / np.minimum(lengths, TOP)
