"""Requests that wait are scored together: one worker takes what is there, and waits for nothing more."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fuxictr_multimodal.serving.http.metrics import Metrics
from fuxictr_multimodal.serving.http.refusals import Busy
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import Ranked, Ranker, Request, Scores


@dataclass(frozen=True)
class Answer:
    """What a model gave, and which one: it may be replaced before the answer is sent."""

    result: Ranked | Scores
    model: str
    version: str


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request in the queue.

    Attributes:
        request: for the model.
        ranked: whether the candidates are ranked, else scored.
        k: number of items wanted of a ranking.
        until: the time, by `time.monotonic`, after which nobody waits for the answer.
        answer: is set by the worker.
    """

    request: Request
    ranked: bool
    k: int | None
    until: float
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """Candidates; a request without any costs as much as one."""
        return max(1, len(self.request.candidates))


class Batcher:
    """A queue of requests and the thread that answers them.

    Args:
        current: gives the model in use; asked once a batch.
        settings: sizes and times.
        metrics: what is counted.
    """

    def __init__(self, current: Callable[[], Ranker], settings: Settings, metrics: Metrics) -> None:
        self._current, self._settings, self._metrics = current, settings, metrics
        self._queue: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        metrics.queue_length.set_function(lambda: len(self._queue))

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def submit(self, request: Request, *, ranked: bool, k: int | None = None) -> Future[Answer]:
        """Put a request into the queue.

        Returns:
            Its answer; or the `RequestError` that the model gave, or `Busy` where it waited too long.

        Raises:
            Busy: the queue is full, or the server stops.
        """
        waiting = Waiting(request, ranked, k, time.monotonic() + self._settings.max_wait_seconds)
        with self._changed:
            if self._closed:
                raise Busy("the server stops: ask another one, or this one later")
            if len(self._queue) >= self._settings.max_waiting:
                raise Busy(f"the queue is full, at {len(self._queue):,}: try again later")
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.answer

    def _work(self) -> None:
        while batch := self._take():
            now = time.monotonic()
            in_time = []
            for waiting in batch:
                # False where the server gave it up at its end.
                if not waiting.answer.set_running_or_notify_cancel():
                    continue
                if waiting.until < now:
                    waiting.answer.set_exception(Busy("the request waited too long: try again later"))
                else:
                    in_time.append(waiting)
            for ranked in (True, False):
                if chosen := [waiting for waiting in in_time if waiting.ranked == ranked]:
                    self._answer(chosen, self._current())

    def _take(self) -> list[Waiting]:
        """All requests that wait, up to the largest number of rows; empty at the end."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            taken: list[Waiting] = []
            rows = 0
            while self._queue and (not taken or rows + self._queue[0].rows <= self._settings.max_batch_rows):
                taken.append(self._queue.popleft())
                rows += taken[-1].rows
            return taken

    def _answer(self, batch: Sequence[Waiting], ranker: Ranker) -> None:
        model, version = ranker.name, ranker.version
        try:
            results = _results(batch, ranker)
        except Exception as error:
            if len(batch) > 1:
                # One of them is at fault, and fails alone.
                for waiting in batch:
                    self._answer([waiting], ranker)
                return
            batch[0].answer.set_exception(error)
            return
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_rows.observe(sum(waiting.rows for waiting in batch))
        for waiting, result in zip(batch, results, strict=True):
            waiting.answer.set_result(Answer(result, model, version))


def _results(batch: Sequence[Waiting], ranker: Ranker) -> Sequence[Ranked | Scores]:
    requests = [waiting.request for waiting in batch]
    if not batch[0].ranked:
        return ranker.score_many(requests)
    wanted = {waiting.k for waiting in batch}
    if len(wanted) == 1:
        return ranker.rank_many(requests, k=batch[0].k)
    results = ranker.rank_many(requests, k=None)
    return [
        Ranked(items=result.items[: waiting.k], scores=result.scores[: waiting.k], unknown=result.unknown,
               unknown_history=result.unknown_history)
        for waiting, result in zip(batch, results, strict=True)
    ]  # fmt: skip
