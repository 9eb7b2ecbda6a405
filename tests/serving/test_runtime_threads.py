"""Threads share a ranker: equal answers bit for bit, and one version of the catalogue a request."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest

from fuxictr_multimodal.serving.runtime import Ranker, Request
from tests.helpers.exported_folder import made_item, write_folder

ITEMS = {f"i{n}": made_item(n) for n in range(200)}
CONTEXT = {"user_id": "ann", "price": 3.0}


@pytest.fixture
def ranker(tmp_path):
    return Ranker(write_folder(tmp_path / "model", ITEMS), threads=1)


def requests(number):
    numbers = np.random.default_rng(number)
    for _ in range(200):
        length, ids = int(numbers.integers(0, 8)), list(ITEMS)
        yield Request(
            CONTEXT,
            [str(i) for i in numbers.choice(ids, length)],
            [str(i) for i in numbers.choice(ids, int(numbers.integers(1, 50)))],
            events={"history": {"hour": numbers.integers(0, 24, length).tolist()}},
        )


def test_eight_threads_equal_one_bit_for_bit(ranker):
    def answers(number):
        return [ranker.rank(request, k=5) for request in requests(number)]

    alone = [answers(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answers, range(8)))
    for one, other in zip(chain(*alone), chain(*together), strict=True):
        assert one.items == other.items
        np.testing.assert_array_equal(one.scores, other.scores)


def test_a_request_sees_one_version_while_items_change(ranker):
    """All items of a pool are equal in each version, so that any difference within an answer is a mixture."""
    pool = [f"p{n}" for n in range(30)]
    ranker.upsert_items([made_item(0).raw(name) for name in pool])
    stop, faults, answers = threading.Event(), [], [0]

    def ask():
        while not stop.is_set():
            scores = ranker.score(Request(CONTEXT, (), pool)).scores
            ranked = ranker.rank(CONTEXT, (), [*pool, "comes and goes"])
            answers[0] += 1
            # The engine's sigmoid differs in the last digit from place to place.
            if np.ptp(scores) > 1e-6 or len(ranked.items) + len(ranked.unknown) != 31:
                faults.append((scores, ranked))

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for step in range(200):
            ranker.upsert_items([made_item(step).raw(name) for name in pool])
            ranker.upsert_items([made_item(step).raw("comes and goes")])
            assert ranker.remove_items(["comes and goes"]) == 1
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not faults
    assert answers[0] > 10


def test_writers_do_not_lose_each_others_changes(ranker):
    def write(number):
        for step in range(30):
            ranker.upsert_items([made_item(step).raw(f"w{number}.{step}")])
            if step % 2:
                ranker.remove_items([f"w{number}.{step}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(ranker) == 200 + 4 * 15
    assert all((f"w{n}.{step}" in ranker) == (step % 2 == 0) for n in range(4) for step in range(30))
