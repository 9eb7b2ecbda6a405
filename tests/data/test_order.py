"""The order of an epoch is a pure function that visits every row once, and the same on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.order import epoch_rows, shuffled_windows, stored_windows


def blocks_of(sizes):
    ends = np.cumsum(sizes).tolist()
    return [(end - size, end) for size, end in zip(sizes, ends, strict=True)]


sizes = st.lists(st.integers(1, 9), max_size=12)


@given(sizes, st.integers(0, 2**63), st.integers(0, 5), st.integers(1, 14))
def test_every_row_once(sizes, seed, epoch, window):
    rows = epoch_rows(blocks_of(sizes), seed=seed, epoch=epoch, window=window)
    assert sorted(rows) == list(range(sum(sizes)))


@given(sizes, st.integers(1, 14), st.integers(0, 120))
def test_skipping_leaves_the_rest_as_it_is(sizes, window, skip):
    blocks = blocks_of(sizes)
    whole = epoch_rows(blocks, seed=1, epoch=2, window=window)
    rest = [part.rows() for part in shuffled_windows(blocks, seed=1, epoch=2, window=window, skip=skip)]
    assert np.concatenate([np.empty(0, int), *rest]).tolist() == whole[skip:].tolist()
    rest = [part.rows() for part in stored_windows(blocks, skip=skip)]
    assert np.concatenate([np.empty(0, int), *rest]).tolist() == list(range(skip, sum(sizes)))


def test_the_order_is_pinned():
    """A new numpy or another machine must not change it: runs could not be repeated or resumed."""
    blocks = blocks_of([4, 4, 3])
    assert epoch_rows(blocks, seed=2025, epoch=0, window=2).tolist() == [4, 0, 2, 7, 3, 5, 6, 1, 10, 8, 9]
    assert epoch_rows(blocks, seed=2025, epoch=1, window=3).tolist() == [10, 1, 0, 3, 2, 9, 6, 7, 4, 8, 5]


def test_seed_and_epoch_both_change_it():
    blocks = blocks_of([50, 50])
    orders = {tuple(epoch_rows(blocks, seed=seed, epoch=epoch, window=2)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize(("blocks", "window", "expected"), [(9, 4, [3, 3, 3]), (7, 4, [4, 3]), (3, 8, [3])])
def test_windows_are_even(blocks, window, expected):
    windows = shuffled_windows(blocks_of([2] * blocks), seed=0, epoch=0, window=window)
    assert [len(part.blocks) for part in windows] == expected


def test_rows_of_a_window_come_from_all_its_blocks():
    """With a window of all blocks an epoch is a uniform permutation: no trace of the stored order is left."""
    rows = epoch_rows(blocks_of([1000] * 10), seed=5, epoch=0, window=10)
    correlation = np.corrcoef(rows, np.arange(len(rows)))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(rows))
