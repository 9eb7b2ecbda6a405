"""Seconds from starting `run_expid.py` to the end of its first training step on a built dataset, and where they go.

Each start is its own process, `_startup_child.py`, with files and bytecode in the system's cache; medians of all.
Stations, in this order: `interpreter`, `arguments` (parsed with the standard library alone), `import_torch`,
`import_fuxictr` (FuxiCTR's models and loaders), `import_ours`, `config` (with the class of the model), `open_store`,
`report_and_log` (lock, commit, versions, seeds, feature map), `build_model` (with item table and optimizer),
`open_loaders`, `first_batch`, `first_step`.
One more start under `python -X importtime` says which package takes how long itself, however it came to be imported.

What can be avoided and what cannot:

- Our part is small: what a run does not need is imported where it is used (drawing, trackers, tuner, search).
- FuxiCTR's models import its preprocessing, and that Ray, pandas and scikit-learn with SciPy, of which training on
  a dataset calls nothing. Only FuxiCTR can change that.
- The first optimizer of a process imports PyTorch's compiler (`torch._dynamo`, with sympy), though nothing is
  compiled: `compiler_s`, within `build_model`. PyTorch has no switch for it.
- Several experiments in one command pay for most of it once: `launch/pool.py` forks runs from a process
  that has imported.

The peak is importing PyTorch alone; the reference is importing FuxiCTR alone.

    python benchmarks/startup.py
    python benchmarks/startup.py --expid QIN_MicroLens_1M --data-root data --repeats 5
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _common import emit

from fuxictr_multimodal.config.expids import load_config

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("_startup_child.py")
TORCH = "import torch"
FUXICTR = "import fuxictr.pytorch.models, fuxictr.pytorch.dataloaders"
COMPILER = "torch._dynamo"
PACKAGES = 12  # of the longest imports that are named


def main() -> None:
    """Start it some times, take medians, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expid", default="QIN_test")
    parser.add_argument("--config", type=Path, default=ROOT / "config")
    parser.add_argument("--data-root", type=Path, help="default: a temporary folder, for synthetic datasets")
    parser.add_argument("--gpu", type=int, default=-1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure with the run's files in `folder`, and print the result."""
    overrides = [f"data_root={(options.data_root or folder / 'data').resolve()}", f"model_root={folder / 'runs'}"]
    command = [sys.executable, str(CHILD), "--expid", options.expid, "--config", str(options.config.resolve())]
    command += ["--gpu", str(options.gpu), "--overwrite", *(part for o in overrides for part in ("--set", o))]
    start(command, folder)  # builds the dataset where it is missing, and warms the caches
    starts, losses, torch_s, fuxictr_s = [], [], [], []
    for _ in range(options.repeats):
        torch_s.append(import_seconds(TORCH))
        fuxictr_s.append(import_seconds(FUXICTR))
        parts, loss, _ = start(command, folder)
        starts.append(parts)
        losses.append(loss)
    assert len(set(losses)) == 1, f"the same seed gave these losses: {losses}"
    medians = {station: statistics.median(parts[station] for parts in starts) for station in starts[0]}
    total = statistics.median(sum(parts.values()) for parts in starts)
    packages, compiler = imports(start([command[0], "-X", "importtime", *command[1:]], folder)[2])
    rows = load_config(options.config, options.expid)["batch_size"]
    emit(
        name="startup",
        shapes={"expid": options.expid, "batch_size": rows, "repeats": options.repeats},
        rows_per_s=rows / total,
        ceiling=rows / statistics.median(torch_s),
        ceiling_is=f"`{TORCH}` alone in its own process; rows are those of the first batch",
        ratio_to_plain=statistics.median(fuxictr_s) / total,
        plain_is=f"`{FUXICTR}` alone in its own process; below 1, as it is a part of every start",
        check=f"{options.repeats} starts give the same loss of the first step, {losses[0]}",
        seconds=total,
        seconds_of_starts=[sum(parts.values()) for parts in starts],
        parts=medians,
        import_torch_alone_s=statistics.median(torch_s),
        import_fuxictr_alone_s=statistics.median(fuxictr_s),
        compiler_s=compiler,
        imports_s=packages,
    )


def start(command: list[str], folder: Path) -> tuple[dict[str, float], float, str]:
    """One start: seconds between its stations by the name of the later one, the first loss, and its stderr."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    parts, before = {}, started
    for station, passed in result["passed"].items():
        parts[station], before = passed - before, passed
    return parts, result["loss"], done.stderr


def import_seconds(statement: str) -> float:
    """Seconds from starting a process to the end of an import statement in it."""
    started = time.monotonic()
    code = f"{statement}\nimport os, time\nprint(time.monotonic(), flush=True)\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) - started


def imports(trace: str) -> tuple[dict[str, float], float]:
    """From the output of `-X importtime`: own seconds of the slowest packages, and all seconds of torch's compiler.

    >>> imports("import time: 7 | 7 |   a.b\\nimport time: 2 | 9 | a\\nimport time: 4 | 90 | torch._dynamo")
    ({'a': 9e-06, 'torch': 4e-06}, 9e-05)
    """
    own: Counter[str] = Counter()
    compiler = 0
    for self_us, cumulative_us, name in re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)", trace):
        own[name.partition(".")[0]] += int(self_us)
        if name == COMPILER:
            compiler = int(cumulative_us)
    return {package: us / 1e6 for package, us in own.most_common(PACKAGES)}, compiler / 1e6


if __name__ == "__main__":
    main()
