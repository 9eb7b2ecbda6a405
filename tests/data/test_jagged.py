"""Jagged arrays on the host against loops over rows."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.jagged import offsets_from_lengths, places_in_rows, row_at, row_numbers, slices

row_lengths = st.lists(st.integers(0, 5), max_size=8).map(lambda lengths: np.array(lengths, dtype=np.int64))


@given(row_lengths)
def test_offsets_rows_and_places(lengths):
    offsets = offsets_from_lengths(lengths)
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]
    expected = [(row, place) for row, length in enumerate(lengths) for place in range(length)]
    assert list(zip(row_numbers(lengths), places_in_rows(lengths), strict=True)) == expected
    assert [row_at(offsets, place) for place in range(len(expected))] == [row for row, _ in expected]


@given(row_lengths, st.data())
def test_slices_gather_rows_in_any_order(lengths, data):
    pool, offsets = np.arange(100, 100 + lengths.sum()), offsets_from_lengths(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=9)) if len(lengths) else [], int)
    where, taken = slices(offsets[rows], lengths[rows])
    found = [pool[where][start:stop].tolist() for start, stop in itertools.pairwise(taken)]
    assert found == [pool[offsets[row] : offsets[row + 1]].tolist() for row in rows]
