"""A slot of a Ray cluster: a worker that holds the resources of one job and runs jobs as a pool of one slot does.

The job is a process of its own here too, with its log, its signals and its end: the worker only starts and watches it.
When the worker dies, so does the process, as it does when a tuner is killed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.launch.shared_paths import Seen, differences


@dataclass(frozen=True)
class Setup:
    """What all slots of a cluster have in common.

    Attributes:
        folder: working folder of the jobs, that of the command.
        gpu: index of the GPU that a job gets: 0, the only one that Ray shows it, or -1 for the CPU.
        threads: of a job, unless the user set OMP_NUM_THREADS for the command.
        preload: whether jobs are forked from a server that has imported PyTorch.
        seen: what this machine must see as the one of the command does.
    """

    folder: Path
    gpu: int
    threads: str
    preload: bool
    seen: Seen


class Slot:
    """A Ray actor; `stop` is called while `run` runs, in another thread."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._pool: Pool | None = None
        self._sent: int | None = None
        # Else each process of a job would import the worker's main module, and with it Ray.
        sys.modules["__main__"].__file__ = None

    def ready(self) -> list[str]:
        """What this machine does not see as the one of the command does; nothing where jobs can run."""
        from ray.util import get_node_ip_address

        found = [f"machine {get_node_ip_address()}: {line}" for line in differences(self._setup.seen)]
        if not found:
            os.chdir(self._setup.folder)
            os.environ["OMP_NUM_THREADS"] = self._setup.threads
            self._pool = Pool([self._setup.gpu], preload=self._setup.preload)
        return found

    def run(self, job: Job) -> Outcome:
        """Run a job to its end."""
        assert self._pool is not None, "ready was called first"
        pool, waiting, ends = self._pool, iter([job]), list[Outcome]()

        def pass_on() -> None:
            if self._sent is not None:
                pool.stop(self._sent, job)

        self._sent = None
        pool.run(lambda gpu: next(waiting, None), lambda job, outcome: ends.append(outcome), on_tick=pass_on)
        return ends[0]

    def stop(self, number: int) -> None:
        """Pass a signal on to the job that runs."""
        self._sent = number
