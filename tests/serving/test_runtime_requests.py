"""Wrong requests are refused by one sentence that names what is wrong; datasets without items have requests too."""

import json
import math

import numpy as np
import pytest

from fuxictr_multimodal.serving.runtime import Ranker, Request, RequestError
from tests.helpers.exported_folder import made_item, write_flat_folder, write_folder

CONTEXT = {"user_id": "ann", "price": 3.0}


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    items = {f"i{n}": made_item(n) for n in range(10)}
    return Ranker(write_folder(tmp_path_factory.mktemp("requests") / "model", items), threads=1)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return Ranker(write_flat_folder(tmp_path_factory.mktemp("flat") / "model"), threads=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request({"user_id": "ann"}, (), ["i1"]), "'price' is missing"),
        (Request({**CONTEXT, "usr_id": 1}, (), ["i1"]), "'usr_id' is unknown; did you mean 'user_id'"),
        (Request({**CONTEXT, "price": math.nan}, (), ["i1"]), "'price'.*finite"),
        (Request({**CONTEXT, "price": "dear"}, (), ["i1"]), "'price'.*no number"),
        (Request(None, (), ["i1"]), "context must map names to values, but it is None"),
        (Request(CONTEXT, "i1", ["i1"]), "history must be a list, but it is 'i1'"),
        (Request(CONTEXT, (), "i1"), "candidates must be a list, but it is 'i1'"),
        (Request(CONTEXT, (), 7), "candidates must be a list, but it is 7"),
        (Request(CONTEXT, (), {"i1": 2}), "candidates must be a list"),
        (Request(CONTEXT, (), np.array([["i1"]])), r"candidates must be a list, but it is array\("),
        (Request(CONTEXT, (), [None]), "candidates: None is no id; ids are texts"),
        (Request(CONTEXT, (), ["i1", True]), "candidates: True is no id"),
        (Request(CONTEXT, (), ["i1", 1.5]), "candidates: 1.5 is no id"),
        (Request(CONTEXT, (), ["i1", ["i2"]]), r"candidates: \['i2'\] is no id"),
        (Request(CONTEXT, (), [math.nan]), "candidates: nan is no id"),
        (Request(CONTEXT, [None], ["i1"]), "history: None is no id"),
        (
            Request(CONTEXT, (), ["i1"], behaviours={"cart": ["i2"]}),
            "behaviours: 'cart' is unknown; did you mean 'carts'",
        ),
        (Request(CONTEXT, (), ["i1"], behaviours={"carts": 3}), "'carts'.* must be a list, but it is 3"),
        (Request(CONTEXT, (), ["i1"], behaviours=["carts"]), "behaviours must map names to values"),
        (Request(CONTEXT, ["i2"], ["i1"]), "'hour' is missing"),
        (Request(CONTEXT, ["i2"], ["i1"], events={"history": {"hour": [1, 2]}}), "'hour' has 2 values for 1 items"),
        (Request(CONTEXT, ["i2"], ["i1"], events={"history": {"huor": [1]}}), "'huor' is unknown; did you mean 'hour'"),
        (
            Request(CONTEXT, ["i2"], ["i1"], events={"histroy": {}}),
            "events: 'histroy' is unknown; did you mean 'history'",
        ),
        (Request(CONTEXT, ["i2"], ["i1"], events={"history": [1]}), "events of 'history'"),
        ({"context": CONTEXT}, "a request must be a Request, but it is a dict"),
    ],
)
def test_wrong_requests_are_refused(ranker, request_, message):
    for call in (ranker.score, lambda one: ranker.rank_many([one]), lambda one: ranker.score_many([one])):
        with pytest.raises(RequestError, match=message) as raised:
            call(request_)
        assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def of_carts(tmp_path_factory):
    """The same model in a dataset of three more histories, of which it reads two, and not the main one."""
    items = {f"i{n}": made_item(n) for n in range(10)}
    folder = write_folder(tmp_path_factory.mktemp("of_carts") / "model", items)
    file = folder / "vocabulary.json"
    histories = ["clicks", "buys", "carts", "history"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"histories": histories}))
    return Ranker(folder, threads=1)


def test_histories_of_the_dataset_that_the_model_does_not_read_are_ignored(ranker, of_carts):
    candidates, hours = ["i1", "i2", "i5"], {"hour": [3, 20]}
    of_model = Request(CONTEXT, ["i3", "i4"], candidates, {"carts": ["i7"]}, {"history": hours})
    more = {"history": ["i3", "i4"], "carts": ["i7"], "buys": ["i8", "nowhere"]}
    of_dataset = Request(CONTEXT, ["i9"], candidates, more, {"history": hours, "buys": {"page": ["x", "y"]}})
    found = of_carts.score(of_dataset)
    assert found.unknown_history == 0
    np.testing.assert_array_equal(found.scores, ranker.score(of_model).scores)
    assert np.ptp(found.scores) > 1e-3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"behaviours": {"byus": []}}, "behaviours: 'byus' is unknown; did you mean 'buys'"),
        ({"behaviours": {"zzz": []}}, "behaviours: 'zzz' is unknown; known are buys, carts, history"),
        ({"behaviours": {"buys": 3}}, "behaviours 'buys' must be a list"),
        ({"behaviours": {"clicks": []}}, "behaviours: 'clicks' is unknown"),
        ({"events": {"zzz": {}}}, "events: 'zzz' is unknown; known are buys, carts, clicks, history"),
    ],
)
def test_histories_that_the_dataset_does_not_have_are_refused(of_carts, parts, message):
    with pytest.raises(RequestError, match=message):
        of_carts.score(Request(CONTEXT, (), ["i1"], **parts))


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True])
def test_a_wrong_k_is_refused(ranker, k):
    with pytest.raises(RequestError, match="k must be a whole number from 1"):
        ranker.rank(CONTEXT, (), ["i1"], k)


def test_a_request_and_its_parts_are_not_mixed(ranker):
    with pytest.raises(RequestError, match="leave out history, time"):
        ranker.rank(Request(CONTEXT), history_item_ids=["i1"], time=3)
    with pytest.raises(RequestError, match="one context"):
        ranker.rank(CONTEXT, (), ["i1"], context=CONTEXT)


def test_a_long_value_is_cut_in_the_message(ranker):
    with pytest.raises(RequestError) as raised:
        ranker.rank(CONTEXT, (), "i" * 10_000)
    assert len(str(raised.value)) < 200


def test_a_dataset_without_items_scores_samples(flat):
    requests = [Request({"a": a, "b": 1.0}) for a in range(2000)]
    found = flat.score_many(requests)
    want = 1 / (1 + np.exp(-(np.arange(2000) + 2.0)))
    np.testing.assert_allclose([one.scores for one in found], want[:, None], atol=1e-6)
    assert flat.score(requests[0]).scores.shape == (1,)
    assert len(flat) == 0


def test_a_dataset_without_items_has_none_to_rank_or_change(flat):
    sample = {"a": 1.0, "b": 1.0}
    with pytest.raises(RequestError, match="no items to rank: use score"):
        flat.rank(Request(sample))
    with pytest.raises(RequestError, match="no items to add"):
        flat.upsert_items([{"item_id": 1}])
    with pytest.raises(RequestError, match="no items to remove"):
        flat.remove_items([1])
    with pytest.raises(RequestError, match="candidates: the model's dataset has no items"):
        flat.score(Request(sample, (), ["i1"]))
    with pytest.raises(RequestError, match="history: the model reads no history"):
        flat.score(Request(sample, ["i1"]))
