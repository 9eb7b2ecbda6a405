"""Numbers that are finite, but too large for the model, are the fault of the request or of the item that has them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import FolderError, Ranker, Request, RequestError
from tests.helpers import shop, trained_shop
from tests.helpers.exported_folder import made_item, write_flat_folder, write_folder
from tests.helpers.served import served

LARGE = 1e30
CONTEXT = {"user_id": "ann", "price": 3.0}
ITEMS = {f"i{n}": made_item(n) for n in range(10)}
OF_USER = r"the scores are not finite: numbers of the context or of the history's items are too large"


def of_item(name):
    return f"candidate '{name}' has no finite score: numbers of the item are too large"


@pytest.fixture
def ranker(tmp_path):
    """A model whose score is not finite where the first number of a candidate's vector is above 1000."""
    found = Ranker(write_folder(tmp_path / "model", ITEMS, broken=True), threads=1)
    found.upsert_items([{"item_id": name, "kind": "film", "emb": [5000.0, 0, 0, 0]} for name in ("large", "larger")])
    return found


@pytest.mark.parametrize(
    ("candidates", "named"),
    [
        (["i1", "large", "i2"], "large"),
        (["large"], "large"),
        (["larger", "large"], "larger"),
        (["?", "large"], "large"),
    ],
)
def test_the_first_candidate_that_is_too_large_is_named(ranker, candidates, named):
    with pytest.raises(RequestError, match=f"^{of_item(named)}$"):
        ranker.score(Request(CONTEXT, (), candidates))
    with pytest.raises(RequestError, match=f"^{of_item(named)}$"):
        ranker.rank(CONTEXT, (), candidates)
    assert np.isfinite(ranker.score(Request(CONTEXT, (), ["i1", "i2", "?"])).scores).all()


def test_a_candidate_of_many_blocks_is_named(ranker):
    ranker.upsert_items([made_item(n).raw(f"n{n}") for n in range(3000)])
    with pytest.raises(RequestError, match=of_item("large")):
        ranker.score(Request(CONTEXT, (), [*(f"n{n}" for n in range(3000)), "large"]))


def test_of_several_requests_one_is_at_fault(ranker):
    good, bad = Request(CONTEXT, (), ["i1", "i2"]), Request(CONTEXT, (), ["i3", "large"])
    with pytest.raises(RequestError, match=of_item("large")):
        ranker.score_many([good, bad])
    np.testing.assert_array_equal(ranker.score_many([good, good])[1].scores, ranker.score(good).scores)


def test_the_context_of_a_sample_without_items(tmp_path):
    flat = Ranker(write_flat_folder(tmp_path / "flat"), threads=1)
    flat._scorer._graph = Difference()
    assert flat.score(Request({"a": 2.0, "b": 3.0})).scores.tolist() == [-5.0]
    with pytest.raises(RequestError, match=r"^the scores are not finite: numbers of the context are too large$"):
        flat.score(Request({"a": LARGE, "b": LARGE}))


class Difference:
    """The graph a a - b b, which is infinity less infinity for large numbers."""

    def run(self, inputs):
        with np.errstate(over="ignore", invalid="ignore"):
            return [(inputs["context.a"] ** 2 - inputs["context.b"] ** 2)[:, None]]


def test_an_item_of_which_the_item_model_makes_infinity_is_refused(ranker):
    version = ranker.version
    largest = float(np.finfo(np.float32).max)
    items = [made_item(1).raw("fine"), {"item_id": "huge", "kind": "film", "emb": [largest] * 4}]
    ranker._items._graph = Doubling(ranker._items._graph)
    with pytest.raises(RequestError, match=r"^item 'huge': the model gives it no finite vector: its numbers are too"):
        ranker.upsert_items(items)
    assert (ranker.version, "fine" in ranker) == (version, False)
    assert ranker.upsert_items(items[:1]) == (1, 0)
    ranker._items._graph = Doubling(ranker._items._graph, fault=np.nan)
    with pytest.raises(FolderError, match="the item model gave vector with values that are not finite"):
        ranker.upsert_items(items[:1])


class Doubling:
    """An item model whose vectors are twice as large, and are off by `fault`."""

    def __init__(self, graph, fault=0.0):
        self._graph, self._fault = graph, fault

    def run(self, inputs):
        with np.errstate(over="ignore"):
            return [2 * values + np.float32(self._fault) for values in self._graph.run(inputs)]


def test_a_trained_model_answers_422_and_the_others_get_their_scores(qin_export):
    body = trained_shop.REQUEST
    huge = {"item_id": "huge", "categories": ["kind1"], "brand": "brand1", "price": 3.0, "vector": [1e15] * shop.WIDTH}
    with served(qin_export.out, Settings(threads=1, watch_seconds=None), load=None) as server:
        want = server.call("POST", "/score", body).content["scores"]
        assert server.call("PUT", "/items", {"items": [huge]}).status == 200
        bodies = {
            "fine": body,
            "item": {**body, "candidates": ["sku-0015", "huge", "sku-0004"]},
            "context": {**body, "context": {**body["context"], "age": 10**18}},
            "history": {**body, "history": ["sku-0003", "huge"]},
        }
        names = 4 * [*bodies]
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda name: server.call("POST", "/score", bodies[name]), names))
    refusals = {"item": of_item("huge"), "context": OF_USER, "history": OF_USER}
    for name, reply in zip(names, replies, strict=True):
        if name == "fine":
            assert reply.content["scores"] == pytest.approx(want, abs=1e-6)
        else:
            assert (reply.status, reply.content["error"]) == (422, refusals[name])
