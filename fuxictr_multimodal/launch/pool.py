"""A pool of slots that runs jobs, each in its own process: one that fails does not stop the others.

A process of its own gives each job its own peak memory, and a crash or the system's out-of-memory killer takes one
job, not all. The seconds of importing are paid once: a server imports the large packages and forks a process for each
job. It imports what starts no threads that a fork would lose (polars does), and never touches the accelerator. Every
optimizer of PyTorch imports `torch._dynamo` when it is made, and every run draws its curves.
Measured on two busy cores: 5 s instead of 14 s for a run that trains for a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fuxictr_multimodal.launch.job import Job, Outcome, exit_text, run_in_this_process
from fuxictr_multimodal.system import supervisor
from fuxictr_multimodal.system.interruption import Interrupted
from fuxictr_multimodal.system.machine import available_cores

PRELOADED = ("torch", "torch._dynamo", "sklearn.preprocessing", "ray.data", "matplotlib.backends.backend_agg")
POLL_SECONDS = 0.2
# A job that gets a signal has this long to write its report.
INTERRUPT_SECONDS = 30.0
TAIL_BYTES = 16_384
TAIL_LINES = 5


@dataclass
class _Running:
    """A job on its slot; `sent` is the signal that it was sent, if any."""

    job: Job
    gpu: int
    process: BaseProcess
    pid: int
    words: connection.Connection
    lifeline: connection.Connection
    log_start: int
    started: float
    deadline: float = math.inf
    outcome: Outcome | None = None
    sent: int | None = None


class Pool:
    """Slots that run jobs; no process outlives this one, however it ends.

    Args:
        gpus: one GPU index a slot, -1 for the CPU; an index may come several times. Several slots share the cores
            evenly, through OMP_NUM_THREADS unless the user has set it.
        preload: whether jobs are forked from a server that has imported PyTorch and what else takes seconds.

    Attributes:
        stopped: the signal that ended all jobs; None while the pool takes jobs.
        remote: whether jobs run on other machines, whose files may appear late.
    """

    remote = False

    def __init__(self, gpus: Sequence[int], *, preload: bool = True) -> None:
        assert gpus, "at least one slot"
        if len(gpus) > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // len(gpus))))
        known = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
        self._context.set_forkserver_preload(list(PRELOADED) if preload else [])
        self._free = list(gpus)
        self._running: dict[Job, _Running] = {}
        self.stopped: int | None = None

    def run(
        self,
        next_job: Callable[[int], Job | None],
        on_end: Callable[[Job, Outcome], None],
        *,
        on_line: Callable[[Job, str], None] = lambda job, line: None,
        on_tick: Callable[[], None] = lambda: None,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep every slot busy until there is no job left.

        Args:
            next_job: gets the GPU index of a free slot and gives the next job for it, or None if there is none now.
            on_end: called with each job that has ended, those of an interruption included.
            on_line: called with each line of progress that a job sends.
            on_tick: called several times a second.
            waits: asked when no job runs and `next_job` gave none: whether it may give one later.

        Raises:
            KeyboardInterrupt: a signal interrupted this process. It was passed on to all jobs, and they have ended.
        """

        def wait() -> None:
            for running in self._heard_of():
                if self._has_ended(running, on_line):
                    on_end(running.job, self._finish(running))

        try:
            while True:
                while self._free and self.stopped is None and (job := next_job(self._free[0])) is not None:
                    self._start(job)
                if not self._running and (self.stopped is not None or not waits()):
                    return
                wait()
                on_tick()
        except KeyboardInterrupt as error:
            self.stop(Interrupted.of(error).number)
            while self._running:
                wait()
            raise
        finally:
            # Whatever broke the loop: no process stays behind.
            if self._running:
                self.stop(signal.SIGTERM)
            for running in list(self._running.values()):
                on_end(running.job, self._finish(running))

    def stop(self, number: int, job: Job | None = None) -> None:
        """Send a signal to a job, or to all of them and start no more; `on_end` is called when they have ended.

        A job gets the signal once, and is killed with all that it started `INTERRUPT_SECONDS` later.
        """
        if job is None:
            self.stopped = self.stopped or number
        for running in self._running.values():
            if running.sent is None and job in (None, running.job):
                running.sent = number
                running.deadline = time.monotonic() + INTERRUPT_SECONDS
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.pid, number)

    def _start(self, job: Job) -> None:
        words, sender = self._context.Pipe(duplex=False)
        reader, lifeline = self._context.Pipe(duplex=False)
        if job.log is not None:
            job.log.parent.mkdir(parents=True, exist_ok=True)
        log_start = job.log.stat().st_size if job.log is not None and job.log.exists() else 0
        arguments = (job, sender, reader, Path.cwd(), dict(os.environ))
        process = self._context.Process(target=run_in_this_process, args=arguments, name=job.name)
        try:
            with sender, reader:
                process.start()
        except BaseException:
            # That ends the process, if it is there already.
            lifeline.close()
            raise
        gpu = self._free.pop(0)
        self._running[job] = _Running(job, gpu, process, process.pid, words, lifeline, log_start, time.monotonic())

    def _heard_of(self) -> list[_Running]:
        """The running jobs, once one of them says something or ends, or after `POLL_SECONDS`."""
        every = list(self._running.values())
        # The server that reports the end of a process may have got the signal too, and then reports at once: its word
        # counts only after that of the process itself.
        ends = [running.process.sentinel for running in every if running.outcome]
        connection.wait([*(running.words for running in every), *ends], timeout=POLL_SECONDS)
        return every

    def _has_ended(self, running: _Running, on_line: Callable[[Job, str], None]) -> bool:
        try:
            while running.words.poll():
                word = running.words.recv()
                if isinstance(word, Outcome):
                    running.outcome = word
                    running.deadline = min(running.deadline, time.monotonic() + INTERRUPT_SECONDS)
                else:
                    on_line(running.job, word)
        except (EOFError, OSError):
            # It is gone, or in its last microseconds; its exit code says why.
            running.process.join(timeout=1.0)
            return True
        if time.monotonic() >= running.deadline:
            return True
        return running.outcome is not None and not running.process.is_alive()

    def _finish(self, running: _Running) -> Outcome:
        """Kill the remaining processes of a job, free its slot and return its outcome."""
        process, job = running.process, running.job
        supervisor.kill_group(running.pid)
        if process.is_alive():
            # It was killed before it led a group.
            process.kill()
        process.join()
        running.words.close()
        running.lifeline.close()
        del self._running[job]
        self._free = sorted([*self._free, running.gpu])
        outcome = running.outcome
        if outcome is None and running.sent is not None:
            text = str(Interrupted(running.sent, "its last saved step is kept: --resume"))
            outcome = Outcome(job.name, "interrupted", error=text, signal=running.sent)
        elif outcome is None:
            outcome = Outcome(job.name, "failed", error=exit_text(process.exitcode), exit_code=process.exitcode)
        lines = () if outcome.status == "completed" or job.log is None else last_lines(job.log, running.log_start)
        seconds = round(time.monotonic() - running.started, 1)
        return dataclasses.replace(outcome, seconds=seconds, last_lines=lines)


def last_lines(log: Path, start: int = 0) -> tuple[str, ...]:
    """The last lines that a job printed to its log; `start` is the size in bytes that the log had before."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
    return tuple([line for line in lines if line][-TAIL_LINES:])
