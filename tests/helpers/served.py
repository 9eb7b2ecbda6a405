"""A server in a thread, over real HTTP on loopback; and a made-up model whose scores a test can compute itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvicorn

from fuxictr_multimodal.serving.http.app import create_app
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import FolderError, Ranked, RequestError, Scores


class MadeUpRanker:
    """The interface of `Ranker`; the score of an item is its weight times the scale of the model plus `bonus`.

    Its folder holds a model.json with name, version, scale and the weights of items.
    """

    item_column = "item_id"

    def __init__(self, folder):
        try:
            given = json.loads((Path(folder) / "model.json").read_text())
            self.name, self.version, self.scale = given["name"], given["version"], given["scale"]
            self.weights = dict(given["weights"])
            self.needs = given.get("needs", "weight")
        except (OSError, TypeError, ValueError, KeyError) as error:
            raise FolderError(f"{folder} is damaged") from error
        self.calls = []

    def __len__(self):
        return len(self.weights)

    def __contains__(self, item):
        return str(item) in self.weights

    def _read(self, request):
        if wrong := set(request.context) - {"bonus"}:
            raise RequestError(f"context: {wrong.pop()!r} is unknown")
        bonus = request.context.get("bonus", 0.0)
        if isinstance(bonus, str):
            raise RequestError("context: bonus must be a number")
        known = [item in self for item in request.candidates]
        scores = np.array([self.weights.get(str(i), 0) * self.scale + bonus for i in request.candidates], np.float64)
        unknown = [item for item in request.candidates if item not in self]
        return scores, np.array(known, bool), unknown, sum(item not in self for item in request.history)

    def score_many(self, requests):
        self.calls.append(len(requests))
        return [Scores(s, u, h) for s, _, u, h in map(self._read, requests)]

    def rank_many(self, requests, k=None):
        self.calls.append(len(requests))
        found = []
        for request in requests:
            scores, known, unknown, history = self._read(request)
            order = [i for i in np.argsort(-scores, kind="stable") if known[i]][:k]
            found.append(Ranked([request.candidates[i] for i in order], scores[order], unknown, history))
        return found

    def upsert_items(self, items):
        for item in items:
            if self.needs not in item or "item_id" not in item:
                raise RequestError(f"item {item.get('item_id')!r} has no {self.needs!r}")
        added = sum(str(item["item_id"]) not in self.weights for item in items)
        self.weights |= {str(item["item_id"]): item[self.needs] for item in items}
        return added, len(items) - added

    def remove_items(self, ids):
        return sum(self.weights.pop(str(item), None) is not None for item in ids)


def write_made_up(folder, *, version="1", scale=1.0, weights=None, **more):
    """Write the folder of a `MadeUpRanker`."""
    folder.mkdir()
    given = {"name": "made_up", "version": version, "scale": scale, "weights": weights or {"a": 1, "b": 2, "c": 3}}
    (folder / "model.json").write_text(json.dumps(given | more))
    return folder


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    raw: bytes

    @property
    def content(self):
        return json.loads(self.raw, parse_constant=lambda name: 1 / 0)


@dataclass(frozen=True)
class Server:
    """Where a server listens.

    Attributes:
        port: on loopback.
        state: of the application.
    """

    port: int

    def call(self, method, path, body=None, headers=None, connection=None):
        """Send a request: bytes as they are, an iterator of bytes in chunks, anything else as JSON."""
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "__next__"):
            body = json.dumps(body).encode()
        own = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            own.request(method, path, body, headers or {})
            found = own.getresponse()
            return Reply(found.status, found.headers, found.read())
        finally:
            if connection is None:
                own.close()


@contextlib.contextmanager
def served(folder, settings=None, load=MadeUpRanker):
    """Serve a folder in a thread."""
    app = create_app(folder, settings or Settings(watch_seconds=None), load=load)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        try:
            yield Server(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
