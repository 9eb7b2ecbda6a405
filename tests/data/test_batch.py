"""Jagged rows and batches against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.batch import Batch, Jagged, join

lists = st.lists(st.lists(st.integers(1, 99), max_size=6), max_size=8)


def jagged(rows):
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return Jagged(torch.tensor([item for row in rows for item in row], dtype=torch.int32), offsets)


def as_lists(rows: Jagged):
    return [rows.values[start:stop].tolist() for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]


def batch_of(rows, first=0):
    index = torch.arange(first, first + len(rows))
    return Batch(
        {"level": index.int() % 3, "words": torch.stack([index, -index], dim=1)},
        target=(index + 1).int(),
        history=jagged(rows),
        group=index + 100,
    )


def assert_same(left: Batch, right: Batch):
    assert left.features.keys() == right.features.keys()
    for name, values in left.features.items():
        assert torch.equal(values, right.features[name])
    assert torch.equal(left.target, right.target)
    assert torch.equal(left.group, right.group)
    assert as_lists(left.history) == as_lists(right.history)
    assert left.history.offsets[0] == 0


@given(lists, st.integers(0, 3))
def test_padding_keeps_the_newest_last(rows, extra):
    width = max(map(len, rows), default=0) + extra
    padded = jagged(rows).to_padded(width)
    assert padded.tolist() == [[0] * (width - len(row)) + row for row in rows]
    assert padded.shape == (len(rows), width)
    assert padded.dtype == torch.int32
    assert jagged(rows).row_index().tolist() == [index for index, row in enumerate(rows) for _ in row]


def test_padding_refuses_to_cut():
    with pytest.raises(ValueError, match="has 3 items, more than the 2 requested slots"):
        jagged([[1], [1, 2, 3]]).to_padded(2)


@given(lists, st.integers(1, 7))
def test_newest_keeps_the_end_of_each_row(rows, length):
    assert as_lists(jagged(rows).newest(length)) == [row[-length:] for row in rows]


@given(lists, st.data())
def test_take_gives_rows_in_any_order_and_ranges(rows, data):
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    taken = batch_of(rows).take(torch.tensor(index, dtype=torch.int64))
    assert as_lists(taken.history) == [rows[row] for row in index]
    assert taken.target.tolist() == [row + 1 for row in index]
    assert taken.features["words"].tolist() == [[row, -row] for row in index]
    assert taken.group.tolist() == [row + 100 for row in index]
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert_same(batch_of(rows).take(range(start, stop)), batch_of(rows).take(torch.arange(start, stop)))


@given(lists, lists, lists)
def test_join_puts_rows_end_to_end(first, second, third):
    parts = [batch_of(first), batch_of(second, len(first)), batch_of(third, len(first) + len(second))]
    assert_same(join(parts), batch_of([*first, *second, *third]))


def test_moving_keeps_everything():
    batch = batch_of([[1, 2], [], [3]])
    assert_same(batch.to("cpu"), batch)
    assert len(batch) == len(batch.history) == 3


@given(lists, st.data())
def test_rows_from_lengths_and_with_some_values_only(rows, data):
    made = Jagged.from_lengths(jagged(rows).values, torch.tensor([len(row) for row in rows], dtype=torch.int64))
    assert as_lists(made) == rows
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(made.values), max_size=len(made.values))))
    keep = keep.bool()
    kept = Jagged(made.values[keep], made.offsets_where(keep))
    wanted = iter(keep.tolist())
    assert as_lists(kept) == [[item for item in row if next(wanted)] for row in rows]
