"""Run a function as several ranks: forked processes, which have torch already, connected as torchrun's are."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any


def run_forked(
    world_size: int, body: Callable[[int], Any], *, timeout: float = 60.0, failing: bool = False
) -> list[Any]:
    """What `body(rank)` returns in each process, by rank.

    Args:
        world_size: number of processes.
        body: called in each of them with torchrun's environment; what it returns is pickled.
        timeout: seconds after which all are killed.
        failing: return the exception of a process that raised one, and None for one that was killed, in place of
            failing.
    """
    context = multiprocessing.get_context("fork")
    port = _free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(body, rank, world_size, port, writer), daemon=True)
        process.start()
        writer.close()
        pipes.append(reader)
        processes.append(process)
    results = []
    try:
        for rank, reader in enumerate(pipes):
            assert reader.poll(timeout), f"rank {rank} did not end in {timeout} s"
            try:
                kind, value = pickle.loads(reader.recv_bytes())  # noqa: S301 - of a child of this process
            except EOFError:
                kind, value = "killed", None
            assert kind == "result" or failing, f"rank {rank}: {value}"
            results.append(value)
    finally:
        for process in processes:
            process.join(0 if failing else 5)
            process.kill()
            process.join()
    return results


def _child(body: Callable[[int], Any], rank: int, world_size: int, port: int, writer: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        outcome = "result", body(rank)
    except BaseException as error:
        outcome = "error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    try:
        # As bytes: torch would leave tensors in memory that ends with this process.
        writer.send_bytes(pickle.dumps(outcome))
    finally:
        writer.close()
        # Without the exit handlers of the test session.
        os._exit(0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
