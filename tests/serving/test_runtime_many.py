"""Many requests share calls of the graph, many candidates are split over several; the answers stay the same."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.serving.runtime import Ranker, Request, calls
from fuxictr_multimodal.serving.runtime.scorer import best
from tests.helpers.exported_folder import made_item, write_folder

ITEMS = {f"i{n}": made_item(n) for n in range(300)}
IDS = list(ITEMS)


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return Ranker(write_folder(tmp_path_factory.mktemp("many") / "model", ITEMS, max_len=50), threads=1)


@pytest.fixture
def shapes(ranker, monkeypatch):
    """Shapes of the candidates of each call."""
    found, run = [], ranker._scorer._graph.run

    def counting(arrays):
        found.append(arrays["candidates.vector"].shape[:2])
        return run(arrays)

    monkeypatch.setattr(ranker._scorer._graph, "run", counting)
    return found


def request(numbers, candidates, length):
    return Request(
        context={"user_id": str(numbers.choice(["ann", "bob", "new"])), "price": float(numbers.normal())},
        history=[str(i) for i in numbers.choice(IDS, length)],
        candidates=[str(i) for i in numbers.choice([*IDS, "nope"], candidates)],
        behaviours={"carts": [str(i) for i in numbers.choice(IDS, length // 3)]},
        events={"history": {"hour": numbers.integers(0, 24, length).tolist()}},
    )


def mixed(seed, number):
    numbers = np.random.default_rng(seed)
    return [request(numbers, int(numbers.integers(0, 200)), int(numbers.integers(0, 60))) for _ in range(number)]


def test_many_requests_are_answered_as_one_by_one(ranker):
    requests = mixed(0, 60)
    for one, together in zip(map(ranker.score, requests), ranker.score_many(requests), strict=True):
        np.testing.assert_allclose(together.scores, one.scores, atol=1e-6, rtol=0)
        assert (together.unknown, together.unknown_history) == (one.unknown, one.unknown_history)
    for asked, together in zip(requests, ranker.rank_many(requests, k=5), strict=True):
        one = ranker.rank(asked, k=5)
        np.testing.assert_allclose(together.scores, one.scores, atol=1e-6, rtol=0)
        assert together.unknown == one.unknown
        assert len(together.items) == len(one.items)


def test_requests_of_like_sizes_share_a_call(ranker, shapes):
    numbers = np.random.default_rng(1)
    ranker.score_many([request(numbers, 20, 10) for _ in range(30)])
    assert shapes == [(30, 20)]


def test_no_requests_and_no_candidates_cost_no_call(ranker, shapes):
    assert ranker.score_many([]) == []
    assert ranker.rank_many([], k=3) == []
    assert [len(one.items) for one in ranker.rank_many([Request({"user_id": "ann", "price": 0.0})] * 3)] == [0, 0, 0]
    assert shapes == []


def test_a_million_candidates_go_block_by_block(ranker, shapes):
    ranker.upsert_items([made_item(n % 300).raw(f"many {n}") for n in range(5000)])
    candidates = [f"many {n}" for n in range(5000)] * 200
    context, events = {"user_id": "ann", "price": 0.0}, {"history": {"hour": [5]}}
    found = ranker.rank(context, ["i3"], candidates, 300, events=events)
    assert len(candidates) == 10**6
    # A candidate that comes several times is scored once.
    assert sum(width for _, width in shapes) == 5000
    assert max(width for _, width in shapes) <= calls.BLOCK
    few = ranker.score(Request(context, ["i3"], IDS, events=events)).scores
    np.testing.assert_allclose(found.scores, few.max(), atol=1e-6)
    ranker.remove_items(candidates[:5000])


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 200)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_groups_hold_every_request_once_and_waste_little(sizes):
    found = calls.groups(sizes)
    assert sorted(i for group in found for i in group) == list(range(len(sizes)))
    for group in found:
        wide, long = (max(sizes[i][part] for i in group) for part in (0, 1))
        cells = sum(sizes[i][0] * (calls.LEAST_SLOTS + sizes[i][1]) for i in group)
        if len(group) > 1:
            assert len(group) * wide <= calls.BLOCK
            assert cells >= 0.75 * len(group) * wide * (calls.LEAST_SLOTS + long)


@given(st.lists(st.integers(0, 5), max_size=60), st.one_of(st.none(), st.integers(1, 70)))
def test_the_best_are_those_of_a_stable_sort(numbers, k):
    order = sorted(range(len(numbers)), key=lambda i: -numbers[i])
    assert best(np.array(numbers, np.float64), k).tolist() == order[:k]


@given(st.integers(0, 10**6))
def test_blocks_hold_every_candidate_once_and_are_of_like_sizes(candidates):
    found = calls.blocks(candidates)
    widths = [block.stop - block.start for block in found]
    assert found[0].start == 0
    assert found[-1].stop == candidates
    assert all(a.stop == b.start for a, b in pairwise(found))
    assert max(widths) <= calls.BLOCK
    assert max(widths) - min(widths) <= 1
