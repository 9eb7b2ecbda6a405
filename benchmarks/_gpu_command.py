"""The command line of `gpu_check.py`: arguments, signals, closed streams, and whether the GPU is there."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from _gpu_runner import SIGNALS, Check, Options, Stop

GPU_ANSWERS = 60  # seconds until a GPU counts as hung; a first import of torch from a slow disk is among them
PROBE = """
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"torch cannot be imported: {error}")
gpu, seen = int(sys.argv[1]), torch.cuda.device_count()
if gpu >= seen:
    sys.exit(f"--gpu {gpu}, but torch {torch.__version__} sees {seen} CUDA devices; --gpu -1 is the CPU")
try:
    torch.ones(1, device=f"cuda:{gpu}").item()
except Exception as error:
    sys.exit(f"--gpu {gpu} cannot be used: {str(error).splitlines()[0]}")
"""


class Refused(Exception):
    """A wrong argument, or a place or a GPU that cannot be used; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def arguments_of(checks: Sequence[Check], argv: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Parse and check the arguments; `chosen` holds the checks to run.

    Raises:
        Refused: an argument is wrong.
    """
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; those of checks that do not run again stay")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU; -1 runs everything small on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all checks together")
    parser.add_argument("--only", nargs="+", action="extend", metavar="CHECK", help="run these checks alone")
    parser.add_argument("--small", action="store_true", help="small sizes on a GPU too")
    parser.add_argument("--list", action="store_true", help="list the checks and end")
    parser.add_argument("--start", choices=("spawn", "fork"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    known = [check.name for check in checks]
    for name in arguments.only or ():
        if name not in known:
            from fuxictr_multimodal.errors import did_you_mean

            raise Refused(f"--only {name}: there is no such check. {did_you_mean(name, known)}")
    arguments.chosen = [check for check in checks if arguments.only is None or check.name in arguments.only]
    if arguments.list:
        return arguments
    if arguments.out is None:
        raise Refused("--out DIR is missing: the folder of the results")
    if arguments.gpu < -1:
        raise Refused(f"--gpu {arguments.gpu}: give the number of a GPU, from 0, or -1 for the CPU")
    least = min(check.least for check in arguments.chosen) / 60
    if not (math.isfinite(arguments.minutes) and arguments.minutes >= least):
        raise Refused(f"--minutes {arguments.minutes:g}: give a number of {least:.2g} or more, which one check needs")
    return arguments


def require_gpu(options: Options, stop: Stop) -> None:
    """Use the GPU once, in a process of its own.

    Raises:
        Refused: there is no such GPU, or it does not answer.
    """
    probe = subprocess.Popen(
        [sys.executable, "-c", PROBE, str(options.gpu)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    ends = time.monotonic() + GPU_ANSWERS
    while not stop.signal:
        try:
            _, told = probe.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() < ends:
                continue
            _end(probe)
            raise Refused(f"--gpu {options.gpu} does not answer within {GPU_ANSWERS} s") from None
        if probe.returncode:
            lines = told.strip().splitlines() or [f"--gpu {options.gpu}: the process that tried it died"]
            raise Refused(lines[-1])
        return
    _end(probe)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process; one that hangs in a driver may not end, and is left."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=3)


@contextlib.contextmanager
def noticed_signals() -> Iterator[Stop]:
    """Note the first signal that asks for an end, instead of ending; one that is ignored, as by nohup, stays so."""
    stop = Stop()
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop.notice)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_streams() -> None:
    """Let no file take the number of a standard stream that is closed: processes of checks write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def say(line: str, *, error: bool = False) -> None:
    """Print a line; a stream that is closed or full is no reason to end."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr if error else sys.stdout, flush=True)
