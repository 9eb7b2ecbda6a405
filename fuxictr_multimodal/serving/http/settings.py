"""Settings of a server: the sizes that it accepts, how it batches, and whether it follows its folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a server accepts and how it works.

    Attributes:
        threads: that one run of the model uses; None leaves it to the engine.
        max_body_bytes: of a request.
        max_candidates: of a request.
        max_history: items in each history of a request.
        max_items: of one change of the catalogue.
        max_batch_rows: candidates that are scored together, where several requests wait; a request that has more is
            scored alone. The runtime puts 1,024 into one call of the graph: with more, the first request would wait for
            the last one, and nothing would be faster.
        max_waiting: requests that may wait; the next one is refused with 503.
        max_wait_seconds: that a request may wait; after them it is refused with 503.
        max_body_seconds: that a body may take to arrive.
        watch_seconds: between two looks at the folder; None does not watch it.
    """

    threads: int | None = None
    max_body_bytes: int = 8 << 20
    max_candidates: int = 20_000
    max_history: int = 10_000
    max_items: int = 10_000
    max_batch_rows: int = 1024
    max_waiting: int = 1024
    max_wait_seconds: float = 5.0
    max_body_seconds: float = 30.0
    watch_seconds: float | None = 1.0
