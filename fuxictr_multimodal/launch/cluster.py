"""The cluster that `--engine ray` names: joined, its machines compared with this one, and slots on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuxictr_multimodal
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.launch.ray_pool import RayPool, reason
from fuxictr_multimodal.launch.ray_slot import Setup
from fuxictr_multimodal.launch.shared_paths import Seen, differences, marked, seen_here
from fuxictr_multimodal.system.machine import available_cores
from fuxictr_multimodal.system.ray_cluster import ray_at

# A machine that does not answer within this cannot be used.
ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Cluster:
    """What the user says of a cluster.

    Attributes:
        address: of a running one; None starts Ray on this machine and ends it afterwards.
        cpus: of a job.
        gpus: of a job, at most one; None is one where the cluster has GPUs.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float | None = None


def check_room(cluster: Cluster) -> None:
    """Refuse, before anything is prepared, trials that Ray on this machine cannot hold; others are asked when joined.

    Raises:
        InputError: a trial needs more CPUs than there are.
    """
    ray = sys.modules.get("ray")
    if cluster.address is None and (ray is None or not ray.is_initialized()) and cluster.cpus > available_cores():
        raise _no_room(cluster.cpus, 0)


def _no_room(cpus: float, gpus: float) -> InputError:
    return InputError(f"--engine ray: no machine of the cluster has the {_needs(cpus, gpus)} of a trial")


def _needs(cpus: float, gpus: float) -> str:
    return _counted(cpus, "CPU") + (f" and {_counted(gpus, 'GPU')}" if gpus else "")


@contextmanager
def slots_of(
    cluster: Cluster, *, files: Iterable[Path], folders: Iterable[Path], preload: bool, say: Callable[[str], None]
) -> Iterator[RayPool]:
    """A pool on a cluster, whose machines see the files and folders of the jobs as this one does.

    Args:
        cluster: what to join, and what a job needs.
        files: that all machines must read; what is not here yet is not compared.
        folders: that all machines must write.
        preload: whether jobs are forked from servers that have imported PyTorch.
        say: gets a line about the slots.

    Raises:
        InputError: the cluster cannot be reached, has no room for a job, or a machine sees something else.
    """
    with ray_at(cluster.address) as ray:
        gpus = cluster.gpus if cluster.gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
        setup = Setup(
            folder=Path.cwd(),
            gpu=0 if gpus else -1,
            threads=os.environ.get("OMP_NUM_THREADS", str(max(1, int(cluster.cpus)))),
            preload=preload,
            seen=seen_here(files, [Path.cwd()]),
        )
        pool = RayPool(ray, setup, cpus=cluster.cpus, gpus=gpus, say=say)
        places = pool.places()
        if not places:
            raise _no_room(cluster.cpus, gpus)
        with marked(folders) as marks:
            _compare(ray, places, setup.seen, marks)
        room, machines = _counted(sum(places.values()), "trial"), _counted(len(places), "machine")
        say(f"Ray: room for {room}, each of {_needs(cluster.cpus, gpus)}, on {machines}")
        yield pool


def _counted(count: float, what: str) -> str:
    """A number of things.

    >>> _counted(1, "CPU"), _counted(0.5, "GPU")
    ('1 CPU', '0.5 GPUs')
    """
    return f"{count:g} {what}" + ("" if count == 1 else "s")


def facts(seen: Seen, marks: Seen) -> tuple[str, list[str]]:
    """The version of this package, and what is seen otherwise; called on each machine."""
    return fuxictr_multimodal.__version__, differences(seen) + differences(marks, written=True)


def _compare(ray: Any, places: Iterable[str], seen: Seen, marks: Seen) -> None:
    """Ask each machine what it sees.

    Raises:
        InputError: naming the first machine that sees something else, and what.
    """
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    task = ray.remote(num_cpus=0, max_retries=0)(facts)
    asked = {
        place: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=False)).remote(seen, marks)
        for place in places
    }
    for place, answer in asked.items():
        where = f"--engine ray: machine {names[place]}"
        try:
            version, differing = ray.get(answer, timeout=ANSWER_SECONDS)
        except GetTimeoutError:
            raise InputError(f"{where} does not answer") from None
        except RayError as error:
            raise InputError(f"{where} cannot run this package: {reason(error)}") from None
        if version != fuxictr_multimodal.__version__:
            raise InputError(f"{where} has version {version} of this package, here is {fuxictr_multimodal.__version__}")
        if differing:
            raise InputError(
                f"{where}: {differing[0]}: all machines must see the config folder, data_root and model_root at the "
                "same paths, for example on a shared disk"
            )
