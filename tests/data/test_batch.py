"""Jagged rows and batches against plain loops."""

from dataclasses import replace

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


def with_events(rows, first=0):
    """Histories whose events are computed from each value and its row, so that a misplaced one shows."""
    plain = jagged(rows)
    places = torch.arange(len(plain.values))
    ages = plain.values * 1000 + plain.row_index().int() + first
    return Jagged(plain.values, plain.offsets, {"age": ages, "twice": plain.values * 2, "place": places})


def rich_batch(rows, others, first=0):
    """A batch with events, a second behaviour (rows of `others`) and weights."""
    plain = batch_of(rows, first)
    weight = torch.arange(first, first + len(rows)).float() / 7
    return replace(
        plain, history=with_events(rows, first), behaviours={"carts": with_events(others, first)}, weight=weight
    )


two_kinds = st.integers(0, 7).flatmap(
    lambda rows: st.tuples(*[st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=rows, max_size=rows)] * 2)
)


def assert_events_fit(history: Jagged, numbers):
    """Every event is that of its value, in the row that `numbers` says it came from."""
    rows = torch.tensor(numbers, dtype=torch.int32)[history.row_index()]
    assert torch.equal(history.events["age"], history.values * 1000 + rows)
    assert torch.equal(history.events["twice"], history.values * 2)


@given(two_kinds, st.data())
def test_events_behaviours_and_weights_follow_their_rows(kinds, data):
    rows, others = kinds
    batch = rich_batch(rows, others)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    for picks in (torch.tensor(index, dtype=torch.int64), range(start, stop)):
        taken, numbers = batch.take(picks), [int(row) for row in picks]
        assert as_lists(taken.history) == [rows[row] for row in numbers]
        assert as_lists(taken.behaviours["carts"]) == [others[row] for row in numbers]
        assert taken.weight.tolist() == [float(batch.weight[row]) for row in numbers]
        for history in (taken.history, taken.behaviours["carts"]):
            assert_events_fit(history, numbers)
    length = data.draw(st.integers(1, 7))
    newest = batch.history.newest(length)
    assert as_lists(newest) == [row[-length:] for row in rows]
    assert_events_fit(newest, range(len(rows)))
    assert as_lists(newest.event("twice")) == [[2 * item for item in row[-length:]] for row in rows]


@given(two_kinds, two_kinds)
def test_join_keeps_events_behaviours_and_weights(first, second):
    joined = join([rich_batch(*first), rich_batch(*second, len(first[0]))])
    whole = rich_batch([*first[0], *second[0]], [*first[1], *second[1]])
    assert_same(joined, whole)
    assert joined.weight.tolist() == whole.weight.tolist()
    assert as_lists(joined.behaviours["carts"]) == as_lists(whole.behaviours["carts"])
    assert_events_fit(joined.history, range(len(whole)))
    assert_events_fit(joined.behaviours["carts"], range(len(whole)))


def test_moving_keeps_events_behaviours_and_weights():
    batch = rich_batch([[1, 2], [], [3]], [[4], [5, 6], []])
    moved = batch.to("meta")
    assert moved.weight.is_meta
    assert moved.behaviours["carts"].values.is_meta
    assert moved.history.events["age"].is_meta
    assert moved.history.offsets.is_meta
    assert batch.to("cpu").behaviours["carts"].events["age"].tolist() == [4000, 5001, 6001]


def test_rows_without_history():
    nobody = Jagged.empty(3)
    assert as_lists(nobody) == [[], [], []]
    assert as_lists(nobody.take(torch.tensor([2, 0]))) == [[], []]
    assert nobody.newest(4).to_padded(2).tolist() == [[0, 0]] * 3
