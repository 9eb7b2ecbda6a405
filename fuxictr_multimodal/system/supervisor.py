"""A supervised process ends, with all its descendants, when the process that started it does.

The parent holds the writing end of a pipe and never writes. When the parent ends, even by SIGKILL, the system closes
that end, and the reading side kills its own process group with all its descendants. Only a process that leaves the
group (a daemon) survives.
"""

import contextlib
import os
import signal
import threading


def end_with(reader: int) -> None:
    """Kill the process group of this process once nobody holds the writing end of a pipe.

    Args:
        reader: file descriptor of the reading end. This process must lead its own group.
    """

    def wait() -> None:
        while os.read(reader, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="supervisor").start()


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and all that it started; no error if they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
