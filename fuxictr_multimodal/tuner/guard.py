"""A trial's keeper: runs one command and dies, with all that the command started, when the tuner does.

The tuner holds the writing end of this process's standard input and never writes. However the tuner ends, SIGKILL
included, the system closes that end; the keeper then kills its own process group, which the tuner made for it and in
which the trial and its helpers run. Only a helper that leaves the group (a daemon) would survive.

It is run as a file, without the project's imports, so that it starts in milliseconds.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Run the command given as arguments; end as it ended, by the same exit status or signal."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_die_with_the_tuner, daemon=True).start()
    status = child.wait()
    # Whatever the trial left running is not wanted any more.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    if status < 0:
        with_default = -status not in (signal.SIGKILL, signal.SIGSTOP)
        if with_default:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    # Not sys.exit: the thread still waits on standard input.
    os._exit(status)


def _die_with_the_tuner() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
