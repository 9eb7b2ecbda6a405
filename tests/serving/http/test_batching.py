"""Requests that wait together are scored together, fail alone, and are refused when there are too many."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from fuxictr_multimodal.serving.http.batching import Batcher
from fuxictr_multimodal.serving.http.metrics import Metrics
from fuxictr_multimodal.serving.http.refusals import Busy
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import Request, RequestError
from tests.helpers.served import MadeUpRanker, served, write_made_up


class Held(MadeUpRanker):
    """A model that works only while its gate is open."""

    def __init__(self, folder):
        super().__init__(folder)
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)

    def score_many(self, requests):
        self.entered.release()
        assert self.gate.wait(20)
        return super().score_many(requests)


@pytest.fixture
def ranker(tmp_path):
    return Held(write_made_up(tmp_path / "model"))


@pytest.fixture
def batcher_of(ranker):
    started = []

    def make(**settings):
        batcher = Batcher(lambda: ranker, Settings(**settings), Metrics())
        batcher.start()
        started.append(batcher)
        return batcher

    yield make
    ranker.gate.set()
    for batcher in started:
        batcher.close()


def hold(batcher, ranker):
    """Let the worker begin a request that ends when the gate opens, so that all others wait."""
    first = batcher.submit(Request(candidates=["a"]), ranked=False)
    assert ranker.entered.acquire(timeout=20)
    return first


def scores(future):
    return future.result(20).result.scores.tolist()


def test_what_waits_is_scored_together(batcher_of, ranker):
    batcher = batcher_of()
    first = hold(batcher, ranker)
    others = [batcher.submit(Request(candidates=[item]), ranked=False) for item in "abc" * 5]
    ranker.gate.set()
    assert [scores(other) for other in others] == [[1.0], [2.0], [3.0]] * 5
    assert scores(first) == [1.0]
    assert ranker.calls == [1, 15]


def test_a_batch_has_at_most_its_rows(batcher_of, ranker):
    batcher = batcher_of(max_batch_rows=5)
    hold(batcher, ranker)
    sizes = [2, 2, 2, 9, 0, 0, 3, 1]
    others = [batcher.submit(Request(candidates=["b"] * size), ranked=False) for size in sizes]
    ranker.gate.set()
    assert [len(scores(other)) for other in others] == sizes
    # 2 + 2, 2, 9 alone, 1 + 1 (a request without candidates is a row) + 3, 1.
    assert ranker.calls == [1, 2, 1, 1, 3, 1]


def test_a_wrong_request_fails_alone(batcher_of, ranker):
    batcher = batcher_of()
    hold(batcher, ranker)
    contexts = [{"bonus": 1.0}, {"hour": 3}, {}, {"bonus": "x"}]
    others = [batcher.submit(Request(context=one, candidates=["a"]), ranked=False) for one in contexts]
    ranker.gate.set()
    assert [scores(others[0]), scores(others[2])] == [[2.0], [1.0]]
    for place, message in ((1, "'hour' is unknown"), (3, "bonus must be a number")):
        with pytest.raises(RequestError, match=message):
            others[place].result(20)


def test_rankings_of_different_lengths_share_a_batch(batcher_of, ranker):
    batcher = batcher_of()
    hold(batcher, ranker)
    others = [batcher.submit(Request(candidates=["a", "b", "x"]), ranked=True, k=k) for k in (1, None, 2, 9)]
    scored = batcher.submit(Request(candidates=["a", "x"]), ranked=False)
    ranker.gate.set()
    found = [other.result(20).result for other in others]
    assert [one.items for one in found] == [["b"], ["b", "a"], ["b", "a"], ["b", "a"]]
    assert [one.scores.tolist() for one in found] == [[2.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]
    assert all(one.unknown == ["x"] for one in found)
    assert scores(scored) == [1.0, 0.0]
    assert sorted(ranker.calls) == [1, 1, 4]


def test_a_full_queue_refuses(batcher_of, ranker):
    batcher = batcher_of(max_waiting=3)
    hold(batcher, ranker)
    waiting = [batcher.submit(Request(candidates=["a"]), ranked=False) for _ in range(3)]
    with pytest.raises(Busy, match="the queue is full, at 3"):
        batcher.submit(Request(candidates=["a"]), ranked=False)
    ranker.gate.set()
    assert [scores(one) for one in waiting] == [[1.0]] * 3


def test_who_waited_too_long_is_not_scored(batcher_of, ranker):
    batcher = batcher_of(max_wait_seconds=0.05)
    hold(batcher, ranker)
    late = batcher.submit(Request(candidates=["a"]), ranked=False)
    time.sleep(0.1)
    ranker.gate.set()
    with pytest.raises(Busy, match="waited too long"):
        late.result(20)
    assert ranker.calls == [1]


def test_a_request_that_was_given_up_stops_nobody(batcher_of, ranker):
    batcher = batcher_of(max_wait_seconds=0.05)
    hold(batcher, ranker)
    given_up = batcher.submit(Request(candidates=["a"]), ranked=False)
    assert given_up.cancel()
    time.sleep(0.1)
    ranker.gate.set()
    assert scores(batcher.submit(Request(candidates=["b"]), ranked=False)) == [2.0]


def test_the_end_answers_what_waits(batcher_of, ranker):
    batcher = batcher_of()
    hold(batcher, ranker)
    waiting = [batcher.submit(Request(candidates=["c"]), ranked=False) for _ in range(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    ranker.gate.set()
    closing.join(20)
    assert [scores(one) for one in waiting] == [[3.0]] * 3
    with pytest.raises(Busy, match="the server stops"):
        batcher.submit(Request(candidates=["a"]), ranked=False)


def test_a_busy_server_says_when_to_come_back(tmp_path, ranker):
    settings = Settings(max_waiting=1, watch_seconds=None)
    with served(tmp_path / "model", settings, load=lambda folder: ranker) as server, ThreadPoolExecutor(8) as pool:

        def ask():
            return server.call("POST", "/score", {"candidates": ["a"]})

        first = pool.submit(ask)
        assert ranker.entered.acquire(timeout=20)
        others = [pool.submit(ask) for _ in range(4)]
        # One of them waits; the event loop is free to refuse the others.
        done, _ = wait(others, timeout=20, return_when="FIRST_COMPLETED")
        while len(done) < 3:
            done, _ = wait(others, timeout=0.1)
        assert server.call("GET", "/healthz").status == 200
        ranker.gate.set()
        replies = [future.result(20) for future in (first, *others)]
    assert sorted(reply.status for reply in replies) == [200, 200, 503, 503, 503]
    refused = next(reply for reply in replies if reply.status == 503)
    assert refused.headers["Retry-After"] == "1"
    assert refused.content == {"error": "the queue is full, at 1: try again later"}


def test_many_threads_get_their_own_answers(tmp_path):
    weights = {str(i): i for i in range(1000)}
    with served(write_made_up(tmp_path / "model", weights=weights)) as server, ThreadPoolExecutor(8) as pool:

        def ask(number):
            wanted = [number, (number * 7) % 1000, 999 - number]
            return server.call("POST", "/score", {"candidates": wanted}).content["scores"] == wanted

        assert all(pool.map(ask, range(300)))
