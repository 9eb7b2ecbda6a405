"""Slots that run trials as processes: a GPU index or a share of the CPU each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.system import supervisor
from fuxictr_multimodal.system.machine import available_cores

TAIL_BYTES = 16_384
TAIL_LINES = 5


class Process:
    """A running trial.

    Attributes:
        slot: index of its slot.
        started: `time.monotonic()` of its start.
        log: where its output goes.
    """

    def __init__(self, popen: subprocess.Popen[bytes], *, slot: int, log: Path, log_start: int) -> None:
        self._popen = popen
        self._log_start = log_start
        self.slot = slot
        self.log = log
        self.started = time.monotonic()

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        status = self._popen.poll()
        if status is not None:
            self._close()
            if status < 0:
                # A supervisor that was itself killed may have left the trial behind.
                supervisor.kill_group(self._popen.pid)
        return status

    def kill(self) -> None:
        """End the trial and all its helpers now, and wait for them."""
        supervisor.kill_group(self._popen.pid)
        self._popen.wait()
        self._close()

    def last_lines(self) -> list[str]:
        """The last lines that the trial printed."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
        return [line for line in lines if line][-TAIL_LINES:]

    def _close(self) -> None:
        if self._popen.stdin:
            self._popen.stdin.close()


class Slots:
    """Starts `script --config <folder> --expid <trial> --gpu <index>`, as FuxiCTR does, on a free slot.

    Args:
        gpus: one GPU index a slot, -1 for the CPU; the same index may come several times.
        script: what runs a trial.

    The cores are split evenly between the slots through `OMP_NUM_THREADS`, unless the user has set it.
    """

    def __init__(self, gpus: Sequence[int], *, script: Path) -> None:
        assert gpus, "at least one slot"
        self.gpus = list(gpus)
        self.script = script
        self.free = list(range(len(self.gpus)))
        threads = max(1, available_cores() // len(self.gpus))
        # What a trial prints goes into a log file, which is UTF-8 whatever the terminal is.
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONIOENCODING": "utf-8"}

    def start(self, folder: SweepFolder, expid: str, *, options: Sequence[str] = ()) -> Process:
        """Start a trial of a sweep's folder on a free slot."""
        slot = self.free.pop(0)
        command = [
            *(sys.executable, "-u", str(self.script), "--config", str(folder.path)),
            *("--expid", expid, "--gpu", str(self.gpus[slot]), *options),
        ]
        log = folder.log(expid)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            start = file.tell()
            popen = start_guarded(command, environment=self.environment, stdout=file, stderr=subprocess.STDOUT)
        return Process(popen, slot=slot, log=log, log_start=start)

    def release(self, process: Process) -> None:
        """Give the slot of an ended trial back."""
        self.free.append(process.slot)
        self.free.sort()


def start_guarded(
    command: Sequence[str], *, environment: Mapping[str, str], stdout: Any = None, stderr: Any = None
) -> subprocess.Popen[bytes]:
    """Start a command under a supervisor that ends it when this process ends; see `supervisor.py`."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=dict(environment),
        start_new_session=True,
    )


def exit_text(status: int) -> str:
    """Say an exit status in words.

    >>> exit_text(3), exit_text(-9)
    ('exit status 3', 'killed by SIGKILL')
    """
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
