"""What the server answers to requests that are right, over real HTTP."""

import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.exported_folder import write_flat_folder
from tests.helpers.served import served, write_made_up

MODEL = {"model": "made_up", "version": "1"}


@pytest.fixture
def server(tmp_path):
    with served(write_made_up(tmp_path / "model")) as running:
        yield running


def metrics_of(server):
    page = server.call("GET", "/metrics")
    assert page.status == 200
    samples = [s for family in text_string_to_metric_families(page.raw.decode()) for s in family.samples]
    return {(s.name, *(v for k, v in sorted(s.labels.items()) if k != "le")): s.value for s in samples}


def test_rank_gives_the_best_first(server):
    body = {"context": {"bonus": 0.5}, "history": ["a", "z"], "candidates": ["a", "c", "y", "b"], "k": 2}
    reply = server.call("POST", "/rank", body)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.content == {"items": ["c", "b"], "scores": [3.5, 2.5], "unknown": ["y"], "unknown_history": 1, **MODEL}


def test_score_keeps_the_order_of_the_candidates(server):
    reply = server.call("POST", "/score", {"candidates": ["a", "y", "c"]})
    assert reply.content == {"scores": [1.0, 0.0, 3.0], "unknown": ["y"], "unknown_history": 0, **MODEL}


@pytest.mark.parametrize("path", ["/rank", "/score"])
def test_no_candidates_are_an_empty_answer(server, path):
    reply = server.call("POST", path, {"candidates": []})
    assert (reply.status, reply.content["scores"], reply.content["unknown"]) == (200, [], [])


def test_scores_keep_every_bit_of_float32(tmp_path):
    weights = {str(i): float(w) for i, w in enumerate(np.random.default_rng(0).random(500, np.float32))}
    with served(write_made_up(tmp_path / "model", weights=weights)) as server:
        found = server.call("POST", "/score", {"candidates": list(weights)}).content["scores"]
    assert np.array_equal(np.array(found, np.float32), np.array(list(weights.values()), np.float32))


def test_ids_come_back_as_they_were_given(tmp_path):
    with served(write_made_up(tmp_path / "model", weights={"5": 1, "größe\n": 2, "": 3})) as server:
        assert server.call("POST", "/rank", {"candidates": [5, "größe\n", ""]}).content["items"] == ["", "größe\n", 5]


def test_items_are_added_changed_and_removed(server):
    reply = server.call("PUT", "/items", {"items": [{"item_id": "new", "weight": 9}, {"item_id": "a", "weight": 4}]})
    assert (reply.status, reply.content) == (200, {"added": 1, "changed": 1})
    ranked = server.call("POST", "/rank", {"candidates": ["a", "b", "new"]}).content
    assert (ranked["items"], ranked["scores"]) == (["new", "a", "b"], [9, 4, 2])
    assert server.call("DELETE", "/items", {"item_ids": ["new", "never"]}).content == {"removed": 1}
    ranked = server.call("POST", "/rank", {"candidates": ["a", "b", "new"]}).content
    assert (ranked["items"], ranked["unknown"]) == (["a", "b"], ["new"])
    assert server.call("PUT", "/items", {"items": []}).content == {"added": 0, "changed": 0}
    assert server.call("DELETE", "/items", {"item_ids": []}).content == {"removed": 0}


def test_one_wrong_item_changes_none(server):
    reply = server.call("PUT", "/items", {"items": [{"item_id": "new", "weight": 9}, {"item_id": "other"}]})
    assert (reply.status, reply.content) == (422, {"error": "item 'other' has no 'weight'"})
    assert server.call("POST", "/rank", {"candidates": ["new"]}).content["unknown"] == ["new"]


def test_a_model_without_items_scores_samples(tmp_path):
    with served(write_flat_folder(tmp_path / "flat"), load=None) as flat:
        reply = flat.call("POST", "/score", {"context": {"a": 0.5, "b": -1}})
        assert reply.content["scores"] == pytest.approx([1 / (1 + np.exp(1.5))], abs=1e-6)
        for method, path, body in (
            ("POST", "/rank", {"context": {"a": 0.5, "b": -1}}),
            ("POST", "/score", {"context": {"a": 0.5, "b": -1}, "candidates": ["x"]}),
            ("PUT", "/items", {"items": [{"item_id": "x"}]}),
            ("DELETE", "/items", {"item_ids": ["x"]}),
        ):
            reply = flat.call(method, path, body)
            assert (reply.status, "the model's dataset has no items" in reply.content["error"]) == (422, True)


def test_health_says_the_model(server):
    assert server.call("GET", "/healthz").content == {"status": "ok", "items": 3, **MODEL}


def test_metrics_count_requests_items_and_batches(server):
    server.call("POST", "/rank", {"history": ["y"], "candidates": ["a", "x", "y"]})
    server.call("POST", "/rank", b"{")
    for path in ("/wp-login.php", "/admin"):
        server.call("GET", path)
    found = metrics_of(server)
    assert found["fxmm_requests_total", "/rank", "200"] == 1
    assert found["fxmm_requests_total", "/rank", "400"] == 1
    # A client cannot make up series.
    assert found["fxmm_requests_total", "other", "404"] == 2
    assert found["fxmm_request_seconds_count", "/rank"] == 2
    assert found["fxmm_candidates_total",] == 3
    assert found["fxmm_unknown_items_total", "candidates"] == 2
    assert found["fxmm_unknown_items_total", "history"] == 1
    assert found["fxmm_batch_rows_sum",] == 3
    assert found["fxmm_queue_length",] == 0
    assert found["fxmm_items",] == 3
    assert found["fxmm_model_info", "made_up", "1"] == 1
    assert found["fxmm_reloads_total", "failed"] == 0


def test_two_servers_in_one_process_count_apart(server, tmp_path):
    with served(write_made_up(tmp_path / "other", version="2")) as other:
        server.call("POST", "/score", {"candidates": ["a"]})
        assert ("fxmm_requests_total", "/score", "200") not in metrics_of(other)
        assert other.call("GET", "/healthz").content["version"] == "2"


def test_the_description_names_every_body_and_needs_no_other_page(server):
    description = server.call("GET", "/openapi.json").content
    rank = description["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"context", "history", "candidates", "k", "behaviours", "events", "time"} == set(rank["properties"])
    assert set(description["paths"]["/items"]) == {"put", "delete"}
    assert "http" not in json.dumps(description["paths"])
    assert server.call("GET", "/docs").status == 404
