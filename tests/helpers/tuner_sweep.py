"""A sweep in its own folder, with fake trials as real processes, run through the commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

from fuxictr_multimodal.launch.tuning.space import Space
from tests.helpers.empty_curves import leave_curves_empty
from tests.helpers.typed_command import ROOT, Command, nothing, type_command

FAKE_TRIAL = ROOT / "tests/helpers/fake_trial.py"
FEATURES = [{"name": "user_id", "active": True, "dtype": "int", "type": "meta"}]
DATASET = {
    "data_root": "./data/", "data_format": "h5", "train_data": "./data/d/train.h5", "max_len": 8,
    "min_categr_count": 1, "feature_cols": FEATURES, "label_col": {"name": "label", "dtype": "float"},
}  # fmt: skip
BASE = {
    "model_root": "./checkpoints/", "seed": 1, "metrics": ["AUC", "logloss"], "monitor": {"AUC": 1, "logloss": 0},
    "monitor_mode": "max", "epochs": 1, "batch_size": 64, "verbose": 1, "debug_mode": False,
}  # fmt: skip
FAKE = {
    "model": "DIN", "dataset_id": "d", "learning_rate": 1.0e-3, "net_dropout": 0.1, "behaviour": "ok", "fits": 10**9,
    "epoch_seconds": 0.0, "plan": {}, "dnn_hidden_units": [8, 4],
}  # fmt: skip


def draw_nothing() -> None:
    """Leave the pictures of a summary out, in the process of a tuner, and those of the runs that it starts."""
    leave_curves_empty()
    from fuxictr_multimodal.launch.tuning import pictures

    pictures._draw = lambda *arguments, **settings: []


class Sweep:
    """Writes a config folder and a tuner file under `home`, and runs tuners on them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tuner_file = home / "config/tuner/fake_tuner.yaml"
        self.tuner_file.parent.mkdir(parents=True)
        self.folder = self.tuner_file.with_suffix("")
        self.write("config/model_config/base.yaml", {"Base": BASE})
        self.write("config/model_config/din.yaml", {"DIN_fake": FAKE})
        self.write("config/dataset_config/d.yaml", {"d": DATASET})

    def write(self, name: str, content: dict) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def tuner(self, space: dict, **other) -> "Sweep":
        base = {"base_config": "./config/", "base_expid": "DIN_fake", **other}
        self.write(str(self.tuner_file.relative_to(self.home)), {**base, "tuner_space": space})
        return self

    def space(self, monkeypatch) -> Space:
        monkeypatch.chdir(self.home)
        return Space.read(self.tuner_file.relative_to(self.home))

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a tuner, to send it a signal: a process as a shell starts it."""
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        return subprocess.Popen(
            [sys.executable, *self._words(arguments)],
            cwd=self.home, env={**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, script: Path = FAKE_TRIAL, pictures: bool = False) -> subprocess.CompletedProcess:
        """Run a tuner to its end, without its pictures: they take most of its time."""
        words = self._words(arguments, script)
        done = type_command(
            words,
            folder=self.home,
            environment={"COLUMNS": "200"},
            seconds=120,
            before=nothing if pictures else draw_nothing,
        )
        assert done.status is not None, f"the tuner hung: {done.out}{done.errors}"
        assert "Traceback" not in done.errors, done.errors
        return subprocess.CompletedProcess(words, done.status, done.out, done.errors)

    def typed(self, *arguments: str) -> Command:
        """Start a tuner beside others, without its pictures; cheaper than `start`."""
        return Command(self._words(arguments), folder=self.home, environment={"COLUMNS": "200"}, before=draw_nothing)

    def _words(self, arguments: Sequence[str], script: Path = FAKE_TRIAL) -> list[str]:
        command = [str(ROOT / "run_param_tuner.py"), "--config", "config/tuner/fake_tuner.yaml"]
        return [*command, "--script", str(script), *arguments]

    def starts(self) -> list[list[str]]:
        path = self.home / "checkpoints/starts.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def kill_when(self, process: subprocess.Popen, ready, number: int = signal.SIGKILL) -> None:
        """Send a signal to the tuner as soon as `ready()` holds."""
        deadline = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.wait(timeout=30)
        process.stdout.close()
        process.stderr.close()

    def left_processes(self, within: float = 5.0) -> list[str]:
        """Processes that still know this sweep's folder, after they had time to go."""
        deadline = time.monotonic() + within
        while True:
            found = [line for line in map(self._command, psutil.process_iter()) if line]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _command(self, process: psutil.Process) -> str | None:
        """Command line of a process that works in this sweep's folder, else None."""
        try:
            return " ".join(process.cmdline()) if Path(process.cwd()) == self.home else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
