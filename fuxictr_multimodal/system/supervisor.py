"""A supervised process ends, with all its descendants, when the process that started it does.

The parent holds the writing end of a pipe and never writes. When the parent ends, even by SIGKILL, the system closes
that end, and the reading side kills its own process group with all its descendants. Only a process that leaves the
group (a daemon) survives.

`end_with` does this inside a process of ours. Run as a file, this module does it for any command, on its standard
input; it imports nothing of the project then, so that it starts in milliseconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
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
    """Kill a process that leads a group, and all that it started; no error if they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Run the command given as arguments; end as it ended, by the same exit status or signal."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    end_with(sys.stdin.fileno())
    status = child.wait()
    # End what the command left running.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    if status < 0:
        with_default = -status not in (signal.SIGKILL, signal.SIGSTOP)
        if with_default:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    # Not sys.exit: the thread still waits on standard input.
    os._exit(status)


if __name__ == "__main__":
    main()
