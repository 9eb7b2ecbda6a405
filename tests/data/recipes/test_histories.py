"""Histories with their columns against a loop, and against those of the recipes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.recipes.histories import Timeline
from fuxictr_multimodal.data.recipes.interactions import earlier_items

logs = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5), st.integers(1, 9), st.booleans()), max_size=40)


@given(logs, st.integers(1, 5), st.booleans())
def test_events_of_earlier_times_and_what_is_known_of_them(log, max_len, timed):
    users, times, items, keep = (np.array([row[at] for row in log], dtype=np.int64) for at in range(4))
    keep = keep.astype(bool)
    timeline = Timeline(users, times if timed else None)
    history = timeline.history(items, keep, max_len=max_len, columns={"row": np.arange(len(log))})
    order = np.arange(len(log))[::-1]
    taken = history.take(order)
    if not timed:
        times = np.arange(len(log))
    for place, row in enumerate(order):
        span = slice(taken.offsets[place], taken.offsets[place + 1])
        mine = [o for o in range(len(log)) if keep[o] and users[o] == users[row] and times[o] < times[row]]
        wanted = sorted(mine, key=times.__getitem__)[-max_len:]
        assert taken.column("row")[span].tolist() == wanted
        assert taken.items[span].tolist() == items[wanted].tolist()
        assert (taken.of_rows(order)[span] == row).all()
    if timed and log:
        again = earlier_items(users, times, items, keep=keep, max_len=max_len).take(order)
        assert taken.items.tolist() == again.items.tolist()
        assert taken.offsets.tolist() == again.offsets.tolist()
