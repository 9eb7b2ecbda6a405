"""No orphans: a process ends, with all that it started, when the process that it works for does.

Whoever starts work holds the writing end of a pipe and never writes. However it ends, SIGKILL included, the system
closes that end; the reading side then kills its own process group, in which all that it started runs. Only what leaves
the group (a daemon) would survive.
"""

import contextlib
import os
import signal
import threading


def end_with(reader: int) -> None:
    """Kill the process group of this process once nobody holds the writing end of a pipe.

    Args:
        reader: file descriptor of the reading end. This process must lead a group of its own.
    """

    def wait() -> None:
        while os.read(reader, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="supervisor").start()


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and all that it started; nothing where they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
