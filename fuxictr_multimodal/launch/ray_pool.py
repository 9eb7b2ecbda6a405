"""A pool whose slots are Ray actors: jobs run wherever the cluster has the resources of one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import INTERRUPT_SECONDS, POLL_SECONDS
from fuxictr_multimodal.launch.ray_slot import Setup, Slot
from fuxictr_multimodal.system.interruption import Interrupted, signals_held

# Machines join and leave.
COUNT_SECONDS = 5.0
# A worker starts within seconds where there is room.
BUSY_SECONDS = 20.0
# The worker ends its job first.
GRACE_SECONDS = INTERRUPT_SECONDS + 15.0
# So many workers in a row that die before their first job show that no other one will live.
MOST_DEATHS = 3
LOST = "its worker or the machine under it is gone"
OUT_OF_MEMORY = "out of memory: Ray ended its worker, because the machine ran low"


@dataclass(eq=False)
class _Slot:
    """An actor, what it was last asked, and the job that it runs."""

    actor: Any
    answer: Any
    ready: bool = False
    job: Job | None = None
    started: float = 0.0
    sent: int | None = None
    deadline: float = math.inf


class RayPool:
    """Runs jobs as `Pool` does, as many at a time as the cluster has room for.

    A slot is made for each set of resources that the machines have; one that other users hold comes when they let go.
    Slots that have nothing left to run are given back.

    Args:
        ray: the module, connected.
        setup: of each slot.
        cpus: of a job.
        gpus: of a job.
        say: gets a line when others hold the resources.

    Attributes:
        stopped: the signal that ended all jobs; None while the pool takes jobs.
        remote: as in `Pool`.
    """

    remote = True

    def __init__(self, ray: Any, setup: Setup, *, cpus: float, gpus: float, say: Callable[[str], None]) -> None:
        self._ray = ray
        self._say = say
        self._setup = setup
        self._cpus, self._gpus = cpus, gpus
        # `stop` is called beside `run`; a slot that dies is replaced here, not by Ray.
        self._actor = ray.remote(Slot).options(num_cpus=cpus, num_gpus=gpus, max_concurrency=2, max_restarts=0)
        self._slots: list[_Slot] = []
        self._room, self._counted = 0, -math.inf
        self._deaths = 0
        self._has_more = True
        self.stopped: int | None = None

    def places(self) -> dict[str, int]:
        """How many slots each machine of the cluster has room for, by its Ray id; those without room are left out."""
        rooms = {}
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                needs = {name: need for name, need in (("CPU", self._cpus), ("GPU", self._gpus)) if need}
                rooms[node["NodeID"]] = int(min(has.get(name, 0) / need for name, need in needs.items()))
        return {name: room for name, room in rooms.items() if room}

    def run(
        self,
        next_job: Callable[[int], Job | None],
        on_end: Callable[[Job, Outcome], None],
        *,
        on_tick: Callable[[], None] = lambda: None,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep every slot busy until there is no job left; the arguments are those of `Pool.run`.

        A job whose worker or machine is gone ends as `lost`.

        Raises:
            KeyboardInterrupt: a signal interrupted this process. It was passed on to all jobs, and they have ended.
            InputError: a machine cannot run jobs.
        """
        self._has_more = True
        busy_at = time.monotonic() + BUSY_SECONDS
        try:
            while True:
                self._make_slots()
                if time.monotonic() >= busy_at and not any(slot.ready for slot in self._slots):
                    self._say("Ray: others hold the resources of the cluster; waiting for a slot")
                    busy_at = math.inf
                self._start_jobs(next_job)
                if not self._busy() and (self.stopped is not None or not (self._has_more or waits())):
                    return
                self._hear(on_end)
                on_tick()
        except KeyboardInterrupt as error:
            self.stop(Interrupted.of(error).number)
            while self._busy():
                self._hear(on_end)
            raise
        finally:
            for slot in list(self._slots):
                self._drop(slot, on_end)

    def stop(self, number: int, job: Job | None = None) -> None:
        """Send a signal to a job, or to all of them and start no more; `on_end` is called when they have ended."""
        if job is None:
            self.stopped = self.stopped or number
        for slot in self._busy():
            if slot.sent is None and job in (None, slot.job):
                slot.sent = number
                slot.deadline = time.monotonic() + GRACE_SECONDS
                slot.actor.stop.remote(number)

    def _busy(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.job is not None]

    def _make_slots(self) -> None:
        """As many as there is room for; one while there is nothing more to run, to ask again."""
        if self.stopped is not None:
            return
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._room, self._counted = sum(self.places().values()), time.monotonic()
        idle = [slot for slot in self._slots if slot.job is None]
        wanted = self._room if self._has_more else len(self._busy()) + 1
        # Those that wait for resources go first.
        for slot in sorted(idle, key=lambda slot: slot.ready)[: max(0, len(self._slots) - wanted)]:
            self._drop(slot)
        while len(self._slots) < wanted and (self._has_more or not self._slots):
            actor = self._actor.remote(self._setup)
            self._slots.append(_Slot(actor, actor.ready.remote()))

    def _start_jobs(self, next_job: Callable[[int], Job | None]) -> None:
        for slot in self._slots:
            if self.stopped is not None:
                return
            if slot.ready and slot.job is None:
                job = next_job(self._setup.gpu)
                self._has_more = job is not None
                if job is None:
                    return
                slot.job, slot.started, slot.sent, slot.deadline = job, time.monotonic(), None, math.inf
                slot.answer = slot.actor.run.remote(job)

    def _hear(self, on_end: Callable[[Job, Outcome], None]) -> None:
        """Take the answers that are there, or wait for one for `POLL_SECONDS`."""
        asked = {slot.answer: slot for slot in self._slots if slot.job is not None or not slot.ready}
        if not asked:
            time.sleep(POLL_SECONDS)
        else:
            # Ray would turn a signal into a Ctrl-C.
            with signals_held():
                answered, _ = self._ray.wait(list(asked), num_returns=1, timeout=POLL_SECONDS)
            for answer in answered:
                self._take(asked[answer], on_end)
        now = time.monotonic()
        for slot in [slot for slot in self._slots if now >= slot.deadline]:
            self._drop(slot, on_end)

    def _take(self, slot: _Slot, on_end: Callable[[Job, Outcome], None]) -> None:
        from ray.exceptions import RayError, RayTaskError

        try:
            with signals_held():
                answer = self._ray.get(slot.answer)
        except RayTaskError as error:
            # The worker lives: this package, or a folder for logs, is not as it should be on its machine.
            self._end(slot, on_end, f"its worker failed: {reason(error)}")
        except RayError as error:
            if not slot.ready:
                self._deaths += 1
                if self._deaths >= MOST_DEATHS:
                    raise InputError(f"--engine ray: {self._deaths} workers in a row died: {reason(error)}") from None
            self._drop(slot, on_end, OUT_OF_MEMORY if "low on memory" in str(error) else LOST)
        else:
            if slot.ready:
                self._end(slot, on_end, answer)
            elif answer:
                raise InputError(f"--engine ray: {answer[0]}")
            else:
                slot.ready, self._deaths = True, 0

    def _end(self, slot: _Slot, on_end: Callable[[Job, Outcome], None], answer: Outcome | str) -> None:
        """Report the end of a job, and keep its slot."""
        job, slot.job = slot.job, None
        if job is None:
            raise InputError(f"--engine ray: {answer}")
        self._has_more = True
        if isinstance(answer, str):
            answer = Outcome(job.name, "failed", error=answer, last_lines=(answer,))
        on_end(job, dataclasses.replace(answer, seconds=_since(slot.started)))

    def _drop(self, slot: _Slot, on_end: Callable[[Job, Outcome], None] | None = None, error: str = LOST) -> None:
        """End a slot with what runs in it, and free its resources."""
        self._ray.kill(slot.actor, no_restart=True)
        self._slots.remove(slot)
        if slot.job is None:
            return
        assert on_end is not None, "only idle slots are dropped in silence"
        self._has_more = True
        outcome = Outcome(slot.job.name, "lost", error=error)
        if (number := slot.sent or self.stopped) is not None:
            text = str(Interrupted(number, "its last saved step is kept: --resume"))
            outcome = Outcome(slot.job.name, "interrupted", error=text, signal=number)
        on_end(slot.job, dataclasses.replace(outcome, seconds=_since(slot.started)))


def reason(error: Exception) -> str:
    """An error of Ray in one line, without the pages of traces."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
