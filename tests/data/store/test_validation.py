"""Splits are compared in pieces; the answer must not depend on their size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.store import validation


class Rows:
    """A split in memory, with the two members of a `SplitReader` that the checks use."""

    def __init__(self, **columns):
        self.columns = {name: np.asarray(values) for name, values in columns.items()}
        self.rows = len(next(iter(self.columns.values())))

    def read(self, name, start, stop):
        return self.columns[name][start:stop]


@given(
    users=st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), min_size=1, max_size=30),
    piece=st.integers(1, 8),
)
@settings(deadline=None)
def test_scans_agree_with_plain_python(users, piece):
    reader = Rows(user=[user for user, _ in users], time=[time for _, time in users])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "SCAN_ROWS", piece)
        assert validation.distinct_values(reader, "user").tolist() == sorted({user for user, _ in users})
        groups, first, last = validation.time_ranges(reader, "time", "user")
        everything = validation.time_ranges(reader, "time", None)
    expected = {user: [time for other, time in users if other == user] for user, _ in users}
    assert groups.tolist() == sorted(expected)
    assert first.tolist() == [min(expected[user]) for user in sorted(expected)]
    assert last.tolist() == [max(expected[user]) for user in sorted(expected)]
    times = [time for _, time in users]
    assert [values.tolist() for values in everything] == [[0], [min(times)], [max(times)]]
