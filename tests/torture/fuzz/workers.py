"""Runs targets in processes of their own, so that one that crashes or hangs is a fault, and the next input follows."""

from __future__ import annotations

import faulthandler
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.fuzz.harness import LONGEST, Fault, Found, Target, fuzz, random_of, shown

# Inputs of one process: what leaks is freed with it.
BATCH = 4000
# Seconds for `prepare`, and beyond the limit of an input, which Python code keeps itself.
PREPARING, GRACE = 600, 55
# Bytes that a process may allocate beside what it starts with.
MEMORY = 3 << 30


def attack_target(
    target: Target, work: Path, *, seed: int, count: int, done: Callable[[int], None] = lambda inputs: None
) -> Found:
    """Call a target `count` times in forked processes.

    Args:
        target: what is attacked.
        work: a folder; each process has one below it.
        seed: of the inputs.
        count: how many.
        done: told how many inputs more were called.
    """
    found, start = Found(), 0
    while start < count:
        stop = min(start + BATCH, count)
        part, reached = _in_a_process(target, work, seed=seed, start=start, stop=stop)
        found.join(part)
        done(reached - start)
        start = reached
    return found


def _in_a_process(target: Target, work: Path, *, seed: int, start: int, stop: int) -> tuple[Found, int]:
    """What inputs brought up to the last one, or up to the one that ended the process, and the number after it."""
    folder, answer = work / f"{target.name}-{start}", work / f"{target.name}-{start}.json"
    folder.mkdir(parents=True, exist_ok=True)
    log = work / f"{target.name}-{start}.log"
    number = mmap.mmap(-1, 8)
    number[:] = struct.pack("q", -1)

    def run() -> None:
        os.setpgid(0, 0)
        # Panics of Rust and tracebacks of this file go there.
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
        faulthandler.disable()
        _bound_memory()
        at = lambda current: number.__setitem__(slice(0, 8), struct.pack("q", current))  # noqa: E731
        answer.write_text(fuzz(target, folder, seed=seed, start=start, stop=stop, at=at).text(), encoding="utf-8")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    hung = _wait(process, number)
    last = struct.unpack("q", number[:])[0]
    try:
        if not hung and process.exitcode == 0 and answer.is_file():
            return Found.of(answer.read_text(encoding="utf-8")), stop
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        answer.unlink(missing_ok=True)
    if last < 0 or not (hung or (process.exitcode or 0) < 0):
        printed = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"fuzz: target {target.name} itself is wrong, at input {last}:\n{printed}")
    if last > start:
        # What this process counted was lost with it: the same again up to the input that ended it.
        before, reached = _in_a_process(target, work, seed=seed, start=start, stop=last)
        if reached < last:
            return before, reached
    else:
        before = Found()
    what = "hang" if hung else signal.Signals(-(process.exitcode or 0)).name
    fault = Fault(
        "a process", what, f"input {last} ended its process", target.name, last, _input(target, work, seed, last)
    )
    before.join(Found(inputs=1))
    before.add(fault)
    return before, last + 1


def _wait(process: multiprocessing.process.BaseProcess, number: mmap.mmap) -> bool:
    """Wait for the end of a process; True where one input took too long, and it was killed."""
    since, current = time.monotonic(), -1
    while process.is_alive():
        process.join(0.2)
        now = struct.unpack("q", number[:])[0]
        if now != current:
            since, current = time.monotonic(), now
        elif time.monotonic() - since > (PREPARING if current < 0 else LONGEST + GRACE):
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            return True
    return False


def _bound_memory() -> None:
    """An allocation of many gigabytes fails in this process, and takes no other one down."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    used = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))


def _input(target: Target, work: Path, seed: int, number: int) -> str:
    """The input that ended a process, made again in another one, where it is only looked at."""
    text = work / f"{target.name}-input.txt"

    def run() -> None:
        folder = work / f"{target.name}-input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        make, _ = target.prepare(folder)
        text.write_text(shown(make(random_of(target.name, seed, number))), encoding="utf-8", errors="replace")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(PREPARING)
    return text.read_text(encoding="utf-8") if text.is_file() else ""
