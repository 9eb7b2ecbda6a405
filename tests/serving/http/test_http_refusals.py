"""What the server answers to requests that are wrong: a status of 4xx and one sentence, never a traceback."""

import http.client
import json
import socket

import pytest

from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import FolderError
from tests.helpers.served import MadeUpRanker, served, write_made_up

LIMITS = Settings(
    max_candidates=1000, max_history=500, max_items=10, max_body_bytes=100_000, max_body_seconds=0.5, watch_seconds=None
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(write_made_up(tmp_path_factory.mktemp("served") / "model"), LIMITS) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "the body is no JSON: EOF while parsing a value at line 1 column 0"),
        (b"{", 400, "the body is no JSON"),
        (b'{"candidates": ["a"],}', 400, "trailing comma"),
        (b"user=1&k=3", 400, "the body is no JSON"),
        (b'{"context": {"bonus": NaN}}', 400, "the body is no JSON"),
        (b'{"context": {"bonus": -Infinity}}', 400, "the body is no JSON"),
        (b'{"candidates": ["\xff\xfe"]}', 400, "invalid unicode"),
        (b'{"candidates": ["\\ud800"]}', 400, "the body is no JSON"),
        (b'{"candidates": ' + b"[" * 50_000, 400, "recursion limit"),
        (b'{"a":' * 10_000, 400, "recursion limit"),
        (b'{"k": 1' + b"0" * 5000 + b"}", 400, "number out of range"),
        ([1], 422, "the body must be an object"),
        ({"candidats": ["a"]}, 422, "unknown key 'candidats'. Did you mean 'candidates'?"),
        ({"zzz": 1}, 422, "unknown key 'zzz'. Known: behaviours, candidates,"),
        ({"x" * 50_000: 1}, 422, "unknown key 'xxx"),
        ({f"key{i}": 1 for i in range(5000)}, 422, "unknown key 'key0'"),
        ({"context": {"x" * 50_000: 1}}, 422, "must have at most 256 characters"),
        ({"context": {"x" * 256: "y" * 50_000}, "candidates": []}, 422, "xxx"),
        (
            b'{"context": {' + b",".join(b'"%x":1' % i for i in range(10_001)) + b"}}",
            422,
            "context must have at most 10000",
        ),
        ({"candidates": "a"}, 422, "candidates must be a list"),
        ({"candidates": None}, 422, "candidates must be a list"),
        ({"candidates": ["a", 1.5]}, 422, "candidates[1] must be text or a whole number"),
        ({"candidates": ["a", None]}, 422, "candidates[1] must be text or a whole number"),
        ({"candidates": [True]}, 422, "candidates[0] must be text or a whole number"),
        ({"candidates": [["a"]]}, 422, "candidates[0] must be text or a whole number"),
        ({"candidates": [None] * 1000}, 422, "candidates[0] must be"),
        ({"history": [{}]}, 422, "history[0] must be text or a whole number"),
        ({"behaviours": {"carts": [None]}}, 422, "behaviours.carts[0] must be text or a whole number"),
        ({"behaviours": []}, 422, "behaviours must be an object"),
        ({"events": {"history": ["x"]}}, 422, "events.history must be an object"),
        ({"context": 3}, 422, "context must be an object"),
        ({}, 422, "candidates is missing"),
        ({"history": ["a"], "k": 3}, 422, "candidates is missing"),
        ({"context": {"hour": 3}, "candidates": []}, 422, "context: 'hour' is unknown"),
        ({"context": {"bonus": "x"}, "candidates": []}, 422, "context: bonus must be a number"),
        ({"k": -1}, 422, "k must be 1 or more"),
        ({"k": 0}, 422, "k must be 1 or more"),
        ({"k": "3"}, 422, "k must be a whole number"),
        ({"k": 1.5}, 422, "k must be a whole number"),
        ({"k": True}, 422, "k must be a whole number"),
        ({"candidates": ["a"] * 1001}, 422, "candidates: 1,001 are more than the 1,000 that this server takes at once"),
        ({"history": ["a"] * 501}, 422, "history: 501 are more than the 500"),
        ({"behaviours": {"carts": ["a"] * 501}}, 422, "behaviours.carts: 501 are more than the 500"),
        ({"candidates": list(range(100_000))}, 413, "the body is larger than 100,000 bytes"),
    ],
)
def test_a_wrong_body_is_one_sentence(server, body, status, message):
    reply = server.call("POST", "/rank", body)
    assert reply.status == status
    assert set(reply.content) == {"error"}
    assert message in reply.content["error"]
    assert len(reply.content["error"]) <= 500
    assert "Traceback" not in reply.content["error"]
    assert server.call("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/score", {"k": 3}, 422, "unknown key 'k'"),
        ("POST", "/score", {"context": {}}, 422, "candidates is missing"),
        ("PUT", "/items", {}, 422, "items is missing"),
        ("PUT", "/items", {"items": ["a"]}, 422, "items[0] must be an object"),
        ("PUT", "/items", {"items": {"item_id": "a"}}, 422, "items must be a list"),
        ("PUT", "/items", {"items": [{"item_id": "a", "weight": 1}] * 11}, 422, "items: 11 are more than the 10"),
        ("PUT", "/items", {"items": [{"weight": 1}]}, 422, "has no"),
        ("DELETE", "/items", {"item_ids": [1.5]}, 422, "item_ids[0] must be text or a whole number"),
        ("DELETE", "/items", {"item_ids": list(range(11))}, 422, "item_ids: 11 are more than the 10"),
        ("DELETE", "/items", None, 400, "the body is no JSON"),
        ("GET", "/rnak", None, 404, "there is no /rnak. Did you mean '/rank'?"),
        ("POST", "/rank/", {}, 404, "there is no /rank/. Did you mean '/rank'?"),
        ("GET", "/" + "a" * 5000, None, 404, "there is no /aaa"),
        ("GET", "/rank", None, 405, "/rank does not take GET, but POST"),
        ("POST", "/items", {}, 405, "/items does not take POST, but PUT, DELETE"),
        ("PATCH", "/healthz", None, 405, "/healthz does not take PATCH, but GET"),
    ],
)
def test_a_wrong_call_is_one_sentence(server, method, path, body, status, message):
    reply = server.call(method, path, body)
    assert reply.status == status
    assert message in reply.content["error"]
    assert set(reply.content) == {"error"}
    if status == 405:
        assert reply.headers["Allow"] == message.partition("but ")[2]


def test_a_million_candidates_are_refused_by_size_or_by_number(tmp_path):
    with served(write_made_up(tmp_path / "model")) as server:
        reply = server.call("POST", "/rank", {"candidates": [f"item_{i}" for i in range(1_000_000)]})
        assert (reply.status, reply.content["error"]) == (
            413, "the body is larger than 8,388,608 bytes, the most that this server takes",
        )  # fmt: skip
        reply = server.call("POST", "/rank", {"candidates": [1] * 1_000_000})
        assert (reply.status, reply.content["error"]) == (
            422, "candidates: 1,000,000 are more than the 20,000 that this server takes at once",
        )  # fmt: skip
        assert server.call("POST", "/rank", {"history": ["a"] * 100_000}).status == 422


def test_a_body_in_chunks_is_refused_once_it_is_too_large(server):
    reply = server.call("POST", "/rank", (b"x" * 1000 for _ in range(200)))
    assert (reply.status, reply.content["error"]) == (
        413, "the body is larger than 100,000 bytes, the most that this server takes",
    )  # fmt: skip
    inside = iter([b'{"candidates": ', b'["a"', b"]}"])
    assert server.call("POST", "/score", inside).content["scores"] == [1.0]


def test_a_client_that_asks_first_sends_nothing(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "the body has not arrived within 0.5 seconds"}


def test_a_client_that_leaves_does_no_harm(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
    assert server.call("GET", "/healthz").status == 200


def test_a_connection_goes_on_after_an_error(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for body, status in ((b"{", 400), (b'{"k": 0}', 422), (b'{"candidates": ["a"]}', 200)):
        assert server.call("POST", "/rank", body, connection=connection).status == status
    connection.close()


class Faulty(MadeUpRanker):
    """A model that is at fault: at scores by a fault of the program, at rankings by one that the runtime names."""

    def score_many(self, requests):
        return [1 / 0 for _ in requests]

    def rank_many(self, requests, k=None):
        raise FolderError("model x gave scores that are not finite")


@pytest.mark.parametrize(
    ("path", "logged", "traceback"),
    [
        ("/score", "ZeroDivisionError", True),
        ("/rank", "The model is at fault: model x gave scores that are not finite", False),
    ],
)
def test_a_fault_of_the_model_is_500_and_logged_once(tmp_path, caplog, path, logged, traceback):
    with served(write_made_up(tmp_path / "model"), load=Faulty) as server:
        reply = server.call("POST", path, {"candidates": ["a"]})
        assert server.call("GET", "/healthz").status == 200
    assert (reply.status, reply.content) == (500, {"error": "the server failed at this request; its log says why"})
    assert caplog.text.count(logged) == 1
    assert ("Traceback" in caplog.text) == traceback
