"""A Ray cluster, started on this machine or joined: quiet, without calls home, and left as it was found."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.system.machine import available_cores

ADDRESS_SECONDS = 10


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
    import ray
    import ray.data  # sets levels of its own

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors come as exceptions too
    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            quiet |= {"num_cpus": available_cores(), "include_dashboard": False}
        try:
            with _handlers_kept():
                ray.init(address=address or "local", **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"--ray-address {address}: Ray cannot be reached there: {reason}") from None
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


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


def _check_address(address: str | None) -> None:
    """Refuse an address where nobody listens; Ray tries for minutes, then ends the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address {address}: Ray cannot be reached there: {error}") from None
