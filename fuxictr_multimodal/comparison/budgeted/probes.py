"""The probes of a comparison: each model for a moment in a process of its own, measured once."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fuxictr_multimodal.comparison.budgeted.clock import Clock
from fuxictr_multimodal.comparison.budgeted.generate import Files
from fuxictr_multimodal.comparison.budgeted.probe import Speed, probe
from fuxictr_multimodal.launch.job import Job, Outcome
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.system.files import make_folder

# Of a process before its run begins, where no probe has measured it.
START_SECONDS = 3.0
# The shortest and the longest probe, and its part of the whole time between them.
SHORTEST, LONGEST, PART = 0.5, 10.0, 0.005
# Of the whole time, for all probes beside those of the core.
MOST_PART = 0.1


def start_seconds(known: Mapping[str, Any]) -> float:
    """Seconds of a process before its run begins: the first probe also waits for the server that imports PyTorch."""
    return min((speed["start"] for speed in known.get("speeds", {}).values()), default=START_SECONDS)


def speeds_of(
    expids: Sequence[str],
    *,
    core: int,
    files: Files,
    clock: Clock,
    gpus: Sequence[int],
    say: Callable[[str], None],
) -> dict[str, Speed]:
    """The speeds of the models that can be trained; those that no earlier start has probed on these slots are probed.

    Args:
        expids: by priority.
        core: how many of them, from the first, are probed however long that takes.
        files: of the comparison.
        clock: keeps what is found.
        gpus: one GPU index a slot.
        say: prints a line.
    """
    known = clock.known
    if known.get("probed_on") != list(gpus):
        known |= {"probed_on": list(gpus), "speeds": {}, "failed": {}}
    lacking = [name for name in expids if name not in known["speeds"] and name not in known["failed"]]
    if lacking:
        _probe(lacking, expids[:core], files=files, clock=clock, gpus=gpus, say=say)
    for name, reason in known["failed"].items():
        say(f"{name} is left out: {reason}")
    return {name: Speed(**known["speeds"][name]) for name in expids if name in known["speeds"]}


def _probe(
    expids: Sequence[str],
    core: Sequence[str],
    *,
    files: Files,
    clock: Clock,
    gpus: Sequence[int],
    say: Callable[[str], None],
) -> None:
    known, folder = clock.known, files.out / "probes"
    make_folder(folder)
    seconds = min(max(PART * clock.budget, SHORTEST), LONGEST)
    say(f"probing {len(expids)} models, about {4 / 3 * seconds + START_SECONDS:.0f} s each")
    waiting, started = iter(expids), time.monotonic()

    def next_job(gpu: int) -> Job | None:
        late = time.monotonic() - started > MOST_PART * clock.budget
        name = next(waiting, None)
        if name is None or (late and name not in core):
            return None
        path = folder / f"{name}.json"
        path.unlink(missing_ok=True)
        work = functools.partial(probe, files.config, name, gpu=gpu, seconds=seconds, path=path)
        return Job(name, work, folder / f"{name}.log")

    def on_end(job: Job, outcome: Outcome) -> None:
        path = folder / f"{job.name}.json"
        if outcome.status == "completed" and path.is_file():
            speed = Speed(**json.loads(path.read_text(encoding="utf-8")))
            start = max(speed.start, outcome.seconds - speed.worked)
            known["speeds"][job.name] = asdict(replace(speed, start=start))
        elif outcome.status == "failed":
            known["failed"][job.name] = f"its probe ended with {outcome.error}; see {folder / job.name}.log"
        clock.save()

    Pool(gpus).run(next_job, on_end, on_tick=clock.tick)
    if skipped := [name for name in expids if name not in known["speeds"] and name not in known["failed"]]:
        say(f"left out, no time to probe them: {', '.join(skipped)}")
