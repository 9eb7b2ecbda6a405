"""Other processes that the benchmark of serving starts: a cold client, `fxmm serve`, and clients that load it."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _serving import request_of, summary

# What a process is told that ranks alone: of this project nothing can be imported, only what the folder has.
ALONE = """
import json, sys, time
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fuxictr", "ray", "fuxictr_multimodal", "model_zoo"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Nothing())
folder, threads = sys.argv[1], int(sys.argv[2])
sys.path.insert(0, folder)
from runtime import Ranker, Request
requests = [Request(**body) for body in json.loads(sys.stdin.readline())]
seconds = float(sys.stdin.readline())
ranker = Ranker(folder, threads=threads)
loaded = time.time()
ranker.rank(requests[0])
first = time.time()
found = []
for request in requests if seconds else []:
    taken = []
    for _ in range(2):
        ranker.rank(request, k=100)
    end = time.perf_counter() + seconds
    while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 500):
        started = time.perf_counter()
        ranker.rank(request, k=100)
        taken.append((time.perf_counter() - started) * 1e3)
    found.append(taken)
# The resource module would count what the parent held when it started this process.
with open("/proc/self/status") as status:
    rss = int(status.read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"loaded": loaded, "first": first, "peak_rss_mib": rss, "taken_ms": found}))
"""


def _alone(folder: Path, threads: int, candidates: Sequence[int], seconds: float) -> dict[str, Any]:
    bodies = [as_body(request_of(folder, number)) for number in candidates]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), str(threads)],
        check=True,
        input=f"{json.dumps(bodies)}\n{seconds}\n",
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
        cwd=folder,
    )
    return json.loads(done.stdout.splitlines()[-1])


def cold_start(folder: Path, repeats: int = 3) -> dict[str, float]:
    """Seconds from starting an interpreter to the first ranking of 1,000 candidates; the median of some starts."""
    found = []
    for _ in range(repeats):
        started = time.time()
        said = _alone(folder, 2, [1000], 0)
        found.append((said["first"] - started, said["loaded"] - started, said["peak_rss_mib"]))
    total, loaded, rss = sorted(found)[len(found) // 2]
    return {"seconds": total, "loaded_s": loaded, "peak_rss_mib": rss}


def ranked_alone(
    folder: Path, threads: int, candidates: Sequence[int], seconds: float
) -> tuple[dict[int, dict[str, float]], float]:
    """Latencies by the number of candidates, and the peak memory in MiB, of a process that does nothing else."""
    said = _alone(folder, threads, candidates, seconds)
    found = {number: summary(taken) for number, taken in zip(candidates, said["taken_ms"], strict=True)}
    return found, said["peak_rss_mib"]


def as_body(request: Any) -> dict[str, Any]:
    """A request as JSON has it."""
    stored = asdict(request) if is_dataclass(request) and not isinstance(request, type) else dict(request)
    return {name: value for name, value in stored.items() if value not in (None, {}, [])}


@contextmanager
def server(folder: Path, threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """`fxmm serve` of a folder on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fuxictr_multimodal.cli.main", "serve", "--model", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--threads", str(threads)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {process.stderr.read().decode() if process.stderr else ''}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def http_load(
    folder: Path, requests: Sequence[Any], *, seconds: float, clients: int, threads: int
) -> dict[str, float | int]:
    """Requests a second and latencies of `POST /rank` from concurrent clients, each a process with one connection."""
    bodies = [json.dumps({**as_body(request), "k": 100}).encode() for request in requests]
    with server(folder, threads) as (port, process), multiprocessing.get_context("spawn").Pool(clients) as pool:
        found = pool.starmap(_client, [(port, bodies, seconds, number) for number in range(clients)])
        rss = process.memory_info().rss / 2**20
    taken = np.concatenate([times for times, _ in found])
    return {
        "clients": clients,
        "candidates": len(requests[0].candidates),
        "requests_per_s": len(taken) / seconds,
        "p50_ms": float(np.percentile(taken, 50)),
        "p99_ms": float(np.percentile(taken, 99)),
        "errors": sum(errors for _, errors in found),
        "server_rss_mib": rss,
    }


def _client(port: int, bodies: Sequence[bytes], seconds: float, number: int) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    taken, errors, place = [], 0, number
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        place = (place + 1) % len(bodies)
        started = time.perf_counter()
        connection.request("POST", "/rank", bodies[place], {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        errors += answer.status != 200
        taken.append((time.perf_counter() - started) * 1e3)
    return taken, errors


def served_scores(folder: Path, bodies: Sequence[dict[str, Any]]) -> np.ndarray:
    """The score of each request of one candidate by `POST /score`, (rows,)."""
    scores = []
    with server(folder, 2) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for body in bodies:
            connection.request("POST", "/score", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {said.decode()}")
            scores.append(json.loads(said)["scores"][0])
    return np.array(scores)
