"""A Ray cluster, started on this machine or joined: quiet, without calls home, and left as it was found."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.system.interruption import Interrupted, signals_held
from fuxictr_multimodal.system.machine import available_cores

ADDRESS_SECONDS = 10
# A signal waits so long for a call of Ray to end.
POLL_SECONDS = 0.25
# How often a piece of work is tried again whose process ended.
RETRIES = 3
Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Refused:
    """The answer to a piece with an error of input in it: Ray would wrap an exception into a page of traces."""

    text: str


@contextmanager
def ray_at(address: str | None) -> Iterator[Any]:
    """Ray, quiet and without calls home; what is started or joined here ends here.

    Args:
        address: of a Ray cluster; None starts Ray on the cores of this process, unless the process has Ray already.

    Raises:
        InputError: the cluster cannot be reached.
    """
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray prints these in colour even where a task that it tries again succeeds; an error says it where none does.
    os.environ.setdefault(
        "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed|killed due to memory pressure|retries remaining"
    )
    # By default Ray tries work that was ended for want of memory again for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)  # errors come as exceptions too
    started = not ray.is_initialized()
    if started:
        if address == "auto":
            address = _check_address(_found(), named="auto")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            quiet |= {"num_cpus": available_cores(), "include_dashboard": False}
        try:
            with _handlers_kept():
                ray.init(address=address or "local", **quiet)
        except SystemExit as error:
            # Ray's own handler of SIGTERM, while it starts, ends the process with that status.
            if error.code == signal.SIGTERM:
                raise Interrupted(signal.SIGTERM) from None
            raise
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _unreachable(address, error) from None
    try:
        yield ray
    finally:
        if started:
            with signals_held():
                ray.shutdown()


def in_order(
    ray: Any, work: Callable[[Piece], Answer], pieces: Iterable[Piece], *, what: str
) -> Iterator[tuple[Piece, Answer | Refused]]:
    """Each piece with what `work` makes of it on the cluster, in their order; `Refused` for an `InputError`.

    A piece whose worker is killed is tried again elsewhere: work must depend on its piece alone. At most two pieces a
    core are under way or wait to be taken, so memory does not grow with their number.

    Args:
        ray: as `ray_at` hands it out.
        work: sent to each worker once; it computes on one core.
        pieces: taken as they are needed.
        what: was done, for messages: `built`.

    Raises:
        InputError: a piece failed, or its workers ended again and again.
    """
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_worked)
    sent = ray.put(work)
    most = 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
    under_way: deque[tuple[Piece, Any]] = deque()
    waiting = iter(pieces)
    while True:
        while len(under_way) < most and (piece := next(waiting, None)) is not None:
            with signals_held():
                # In a list, Ray leaves it to the task to fetch them.
                under_way.append((piece, task.remote([sent, ray.put(piece)])))
        if not under_way:
            return
        piece, answer = under_way.popleft()
        yield piece, _fetched(ray, answer, what)


_work: tuple[str, Any] = ("", None)


def _worked(sent: list[Any]) -> Any:
    """A task: what the work makes of a piece. A worker keeps the last work that it got."""
    global _work
    # Before polars is imported, which would take every core for itself.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    import ray

    logging.disable(logging.WARNING)
    work, piece = sent
    if _work[0] != work.hex():
        _work = (work.hex(), ray.get(work))
    part = ray.get(piece)
    try:
        return _work[1](part)
    except (InputError, OSError) as error:
        return Refused(str(error))


def _fetched(ray: Any, answer: Any, what: str) -> Any:
    """The answer of a task, or one sentence."""
    there: list[Any] = []
    while not there:
        # An exception in the midst of a call of Ray leaves it in a state in which it cannot be ended safely.
        with signals_held():
            there, _ = ray.wait([answer], num_returns=1, timeout=POLL_SECONDS)
    try:
        with signals_held():
            return ray.get(answer)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise InputError(
            f"--engine ray: a worker's process ended while it {what}, {RETRIES + 1} times for one piece, most often "
            "for want of memory: start Ray with fewer CPUs on such a machine"
        ) from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"--engine ray: a worker failed while it {what}: {reason[-1] if reason else type(error).__name__}"
        ) from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces: a command ends by its own."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if here and before is not None:
            signal.signal(signal.SIGTERM, before)


def _unreachable(address: str | None, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    # Ray looks for a token by itself where it looks for the address too.
    if "InvalidAuthToken" in f"{error} {error.__cause__}":
        reason = (
            "the cluster asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where this machine has no "
            "~/.ray/auth_token"
        )
    return InputError(f"--ray-address {address}: Ray cannot be reached there: {reason}")


def _found() -> str:
    """The address that `auto` stands for.

    Raises:
        InputError: there is none.
    """
    if (named := os.environ.get("RAY_ADDRESS", "")) not in ("", "auto"):
        return named
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address("auto"))
    except (ConnectionError, ValueError, OSError):
        raise InputError("--ray-address auto: this machine belongs to no Ray cluster that runs") from None


def _check_address(address: str | None, *, named: str | None = None) -> str | None:
    """Refuse an address where nobody listens; Ray tries for minutes, then ends the process.

    Args:
        address: of a cluster.
        named: what the user calls it, where that differs.
    """
    if address is not None and not address.strip():
        raise InputError("--ray-address is empty: write HOST:PORT or auto, or leave it out for Ray on this machine")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        where = "there" if named is None else f"at {address}, where it ran last"
        raise InputError(f"--ray-address {named or address}: Ray cannot be reached {where}: {error}") from None
    return address
