"""A stand-in for `run_experiment` that ends in the way its expid says; the processes of jobs import it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system import progress


def stand_in(*, config_dir: Path, expid: str, seed: int, gpu: int, directory: Path):
    """Write a small report, raise, or die."""
    print(f"{expid} speaks")
    if expid == "input_error":
        raise DataError("the data is missing")
    if expid == "crash":
        raise ZeroDivisionError("oops")
    if expid == "exit":
        sys.exit(3)
    if expid == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if expid == "interrupted":
        os.kill(os.getpid(), signal.SIGTERM)
    if expid == "slow":
        progress.LINE_SECONDS = 0.0
        list(progress.followed([2, 3], size=int, total=10, what="epoch 1", verbose=False))
    if expid.startswith("meet"):
        # Two that run at the same time see each other.
        (directory / f"{expid}.here").touch()
        deadline = time.monotonic() + 20
        while len(list(directory.glob("meet*.here"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    if expid in ("endless", "stubborn"):
        # A helper that would outlive the run, and a word that both are there.
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (directory / f"{expid}.started").write_text(f"{os.getpid()} {helper.pid}")
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                if expid == "endless":
                    raise
    if expid == "large":
        assert len(b"x" * (200 * 2**20)) > 0
    path = directory / f"{expid}.json"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seen = {"seed": seed, "gpu": gpu, "process": os.getpid(), "peak_mib": peak, "folder": str(Path.cwd())}
    path.write_text(json.dumps({**seen, "threads": os.environ.get("OMP_NUM_THREADS")}))
    return SimpleNamespace(status="completed", error=None), path
