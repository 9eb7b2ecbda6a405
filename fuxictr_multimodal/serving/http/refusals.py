"""The one form of every error that the server answers with: {"error": "one sentence"}."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fuxictr_multimodal.errors import did_you_mean
from fuxictr_multimodal.serving.runtime import FolderError, RequestError

log = logging.getLogger(__name__)
BUSY_SECONDS = 1
FAILED = "the server failed at this request; its log says why"
# A sentence may name what the caller sent, which may be megabytes.
LONGEST_SENTENCE = 500


class Refused(Exception):
    """A request that is not served.

    Args:
        status: of the answer.
        sentence: what is wrong, for the caller.
        headers: of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


class Busy(Refused):
    """A request that the server has no room or time for; the same one may succeed a little later."""

    def __init__(self, sentence: str) -> None:
        super().__init__(503, sentence, {"Retry-After": str(BUSY_SECONDS)})


def answer_errors(app: FastAPI) -> None:
    """Let an app answer whatever goes wrong in the one form, without a traceback."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _answer(error.status, str(error), error.headers)

    @app.exception_handler(RequestError)
    async def wrong(request: Request, error: RequestError) -> Response:
        return _answer(422, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return _answer(400, "the connection was closed before the body had arrived")

    @app.exception_handler(HTTPException)
    async def unmatched(request: Request, error: HTTPException) -> Response:
        methods: dict[str, list[str]] = {}
        for route in app.routes:
            methods.setdefault(getattr(route, "path", ""), []).extend(sorted(getattr(route, "methods", None) or ()))
        path = request.url.path
        if error.status_code == 405 and path in methods:
            allowed = ", ".join(dict.fromkeys(methods[path]))
            return _answer(405, f"{path} does not take {request.method}, but {allowed}", {"Allow": allowed})
        if error.status_code == 404:
            return _answer(404, f"there is no {path[:100]}. {did_you_mean(path, methods)}")
        return _answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(FolderError)
    async def at_fault(request: Request, error: FolderError) -> Response:
        log.error("The model is at fault: %s", error)
        return _answer(500, FAILED)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # uvicorn logs the traceback.
        return _answer(500, FAILED)


def _answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    shown = sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[: LONGEST_SENTENCE - 3]}..."
    return Response(to_json({"error": shown}), status, headers, media_type="application/json")
