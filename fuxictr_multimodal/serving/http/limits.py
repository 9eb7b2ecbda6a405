"""Sizes of requests: a body is refused before it is held in memory, lists are refused before the model sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

from fastapi import Request

from fuxictr_multimodal.serving.http.refusals import Refused
from fuxictr_multimodal.serving.http.settings import Settings

# A client that is still sending does not see the answer: so much of a body that is too large is read and thrown away.
DISCARDED_BYTES = 64 << 20
# Where the connection stands in the middle of a body, it cannot be used again.
CLOSE = {"Connection": "close"}


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body of a request, whether its length is announced or it comes in chunks.

    Raises:
        Refused: it is larger than `settings.max_body_bytes` (413), or takes too long (408).
    """
    most = settings.max_body_bytes
    large = Refused(413, f"the body is larger than {most:,} bytes, the most that this server takes", CLOSE)
    announced = int(request.headers.get("content-length", 0))
    # A client that asked first sends nothing before it is told to.
    asked = request.headers.get("expect", "").lower() == "100-continue"
    if announced > most and (asked or announced > DISCARDED_BYTES):
        raise large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.max_body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if max(size, announced) <= most:
                    chunks.append(chunk)
                    continue
                chunks.clear()
                if size > DISCARDED_BYTES:
                    raise large
    except TimeoutError:
        raise Refused(408, f"the body has not arrived within {settings.max_body_seconds:g} seconds", CLOSE) from None
    if size > most:
        raise large
    return b"".join(chunks)


def check_count(what: str, values: Sized, most: int) -> None:
    """Refuse a list that is too long.

    Raises:
        Refused: with 422.

    >>> check_count("candidates", range(30), 20)
    Traceback (most recent call last):
    fuxictr_multimodal.serving.http.refusals.Refused: candidates: 30 are more than the 20 that this server takes at once
    """
    if len(values) > most:
        raise Refused(422, f"{what}: {len(values):,} are more than the {most:,} that this server takes at once")
