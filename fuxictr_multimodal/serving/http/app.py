"""The application: paths to bodies to the model to answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import to_json

from fuxictr_multimodal.serving.http.batching import Answer, Batcher
from fuxictr_multimodal.serving.http.limits import read_body
from fuxictr_multimodal.serving.http.metrics import Measured, Metrics
from fuxictr_multimodal.serving.http.refusals import Refused, answer_errors
from fuxictr_multimodal.serving.http.reload import Models
from fuxictr_multimodal.serving.http.schemas import (
    ErrorAnswer,
    HealthAnswer,
    RankAnswer,
    RankBody,
    RemoveAnswer,
    RemoveBody,
    ScoreAnswer,
    ScoreBody,
    UpsertAnswer,
    UpsertBody,
    parse,
)
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import Ranked, Ranker
from fuxictr_multimodal.version import __version__

ENDPOINTS = frozenset({"/rank", "/score", "/items", "/healthz", "/metrics", "/openapi.json"})


def create_app(
    model_dir: Path, settings: Settings | None = None, *, load: Callable[[Path], Ranker] | None = None
) -> FastAPI:
    """An application that ranks with an exported model.

    Args:
        model_dir: folder that `fxmm export` wrote.
        settings: sizes and times.
        load: reads a folder, in place of `Ranker`.

    Raises:
        FolderError: the folder holds no model.
    """
    chosen = settings or Settings()
    metrics = Metrics()
    models = Models(model_dir, load or (lambda folder: Ranker(folder, threads=chosen.threads)), metrics)
    batcher = Batcher(models.current, chosen, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        if chosen.watch_seconds is not None:
            models.watch(chosen.watch_seconds)
        yield
        batcher.close()
        models.stop()

    # The pages of FastAPI load scripts from elsewhere, which a machine in production does not reach.
    app = FastAPI(
        title="fxmm serve", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.add_middleware(Measured, metrics=metrics, endpoints=ENDPOINTS)
    answer_errors(app)

    async def answer(body: ScoreBody, *, ranked: bool, k: int | None = None) -> Response:
        # A misread field of a client would be an empty answer else; a model without items has no candidates.
        if models.current().item_column and "candidates" not in body.model_fields_set:
            raise Refused(422, "candidates is missing")
        done = await asyncio.wrap_future(batcher.submit(body.request(), ranked=ranked, k=k))
        metrics.candidates.inc(len(body.candidates))
        metrics.unknown.labels("candidates").inc(len(done.result.unknown))
        metrics.unknown.labels("history").inc(done.result.unknown_history)
        return _json(_content(done))

    @app.post("/rank", **_described(RankBody, RankAnswer))
    async def rank(request: Request) -> Response:
        """Rank the candidates for a user, best first."""
        body = parse(RankBody, await read_body(request, chosen), chosen)
        return await answer(body, ranked=True, k=body.k)

    @app.post("/score", **_described(ScoreBody, ScoreAnswer))
    async def score(request: Request) -> Response:
        """Score the candidates for a user, in their order."""
        return await answer(parse(ScoreBody, await read_body(request, chosen), chosen), ranked=False)

    @app.put("/items", **_described(UpsertBody, UpsertAnswer))
    async def upsert(request: Request) -> Response:
        """Add items, or replace those of the same id."""
        body = parse(UpsertBody, await read_body(request, chosen), chosen)
        added, changed = await run_in_threadpool(models.upsert, body.items)
        return _json({"added": added, "changed": changed})

    @app.delete("/items", **_described(RemoveBody, RemoveAnswer))
    async def remove(request: Request) -> Response:
        """Remove items."""
        body = parse(RemoveBody, await read_body(request, chosen), chosen)
        return _json({"removed": await run_in_threadpool(models.remove, body.item_ids)})

    @app.get("/healthz", response_model=HealthAnswer)
    async def healthz() -> Response:
        """Say that the server works, and with which model."""
        ranker = models.current()
        found = {"status": "ok", "model": ranker.name, "version": ranker.version, "items": len(ranker)}
        return _json(found)

    @app.get("/metrics", response_class=Response)
    async def page() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return app


def _content(done: Answer) -> dict[str, Any]:
    result = done.result
    found = {"items": result.items} if isinstance(result, Ranked) else {}
    return {
        **found,
        "scores": result.scores.tolist(),
        "unknown": result.unknown,
        "unknown_history": result.unknown_history,
        "model": done.model,
        "version": done.version,
    }


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")


def _described(body: type[BaseModel], answer: type[BaseModel]) -> dict[str, Any]:
    """What /openapi.json says of an endpoint that reads its body itself."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    return {
        "response_model": answer,
        "responses": {
            status: {"model": ErrorAnswer, "description": text}
            for status, text in ((400, "No JSON"), (413, "Too large"), (422, "Wrong"), (503, "Busy"))
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }
