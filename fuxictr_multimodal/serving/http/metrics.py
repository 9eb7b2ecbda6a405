"""What Prometheus reads of a server: requests, batches, the catalogue and the model in use."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS = (1, 10, 100, 500, 1000, 2000, 4000, 8000, 20_000, 100_000)


class Metrics:
    """Metrics in a registry of their own, so that one process may hold several servers."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("fxmm_requests", "Requests.", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "fxmm_request_seconds", "Time from the request's head to the end of its answer.", ["endpoint"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_requests = Histogram(
            "fxmm_batch_requests", "Requests that were scored together.", buckets=REQUESTS, registry=registry
        )
        self.batch_rows = Histogram(
            "fxmm_batch_rows", "Candidates that were scored together.", buckets=ROWS, registry=registry
        )
        self.queue_length = Gauge("fxmm_queue_length", "Requests that wait for the model.", registry=registry)
        self.candidates = Counter("fxmm_candidates", "Candidates that were scored.", registry=registry)
        self.unknown = Counter(
            "fxmm_unknown_items", "Items that the model does not know.", ["place"], registry=registry
        )
        self.items = Gauge("fxmm_items", "Items of the catalogue.", registry=registry)
        self.model = Info("fxmm_model", "The model in use.", registry=registry)
        self.model_loaded = Gauge("fxmm_model_loaded_timestamp_seconds", "When it was loaded.", registry=registry)
        self.reloads = Counter("fxmm_reloads", "Replaced folders, by outcome.", ["outcome"], registry=registry)
        for outcome in ("succeeded", "failed"):
            self.reloads.labels(outcome)
        for place in ("candidates", "history"):
            self.unknown.labels(place)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware that counts and times requests by endpoint and status.

    Args:
        app: what answers.
        metrics: where they are counted.
        endpoints: known paths; all others are one, so that a client cannot make up series.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str]) -> None:
        self._app, self._metrics, self._endpoints = app, metrics, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun = time.perf_counter()
        try:
            await self._app(scope, receive, sent)
        finally:
            endpoint = scope["path"] if scope["path"] in self._endpoints else "other"
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun)
