"""Everything that this project does on a GPU, on one card, in one command and under eight minutes.

    python benchmarks/gpu_check.py --out DIR
    python benchmarks/gpu_check.py --out DIR --gpu -1

Checks run one after the other, the most important first, each in a process of its own with a limit of its own: one that
fails, hangs or crashes ends no other. Below DIR each result is written as it comes, to `results.jsonl` (one line each)
and `summary.md`; what a check prints is in `<check>.log`. The last line on stdout is one JSON object with all results.
The exit status is 0 if every check that ran passed and none was left out for lack of time. With `--gpu -1` all of it
runs small on the CPU, which shows that the environment is complete.

A machine without a network needs, beside torch with CUDA, triton, numpy, h5py and scikit-learn, the packages pyyaml,
tqdm and psutil, and as wheels fuxictr, polars and polars-runtime-32:

    pip install --no-index --no-deps --target SITE WHEELS/*.whl
    PYTHONPATH=SITE:STUB python benchmarks/gpu_check.py --out DIR

FuxiCTR imports Ray, of which nothing here is used: below STUB an empty package `ray` will do, with `ray.data`,
`ray.data.datasource` and `ray.data.datasource.filename_provider` in it and the names in these that FuxiCTR imports. The
check `tests` needs pytest and is skipped without it. Triton needs a C compiler; without one attention is PyTorch's, and
the check `kernels` fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _gpu_results import Results
from _gpu_runner import Check, Options, Result, run

ROOT = Path(__file__).resolve().parents[1]
CHECKS = (
    Check("device", "_gpu_device:device", 60, "versions, memory, and the rates of copies and of matrix products"),
    Check("kernels", "_gpu_kernels:kernels", 90, "Triton attention against PyTorch: values, gradients, seconds"),
    Check("tests", "_gpu_kernels:tests", 120, "tests/qin/test_gpu.py"),
    Check("train_bf16", "_gpu_training:train_bf16", 70, "training step, bf16: as it is, and as one CUDA graph"),
    Check("train_tf32", "_gpu_training:train_tf32", 70, "training step, TF32: as it is, and as one CUDA graph"),
    Check(
        "train_float32", "_gpu_training:train_float32", 70, "training step, float32: as it is, and as one CUDA graph"
    ),
    Check("epoch", "_gpu_epoch:epoch", 150, "loader on the device, and an epoch of 3.6 M samples"),
    Check("score", "_gpu_scoring:score", 60, "scoring, the model as it is and folded"),
    Check("compile_bf16", "_gpu_training:compile_bf16", 110, "training step, bf16: compiled, and with its CUDA graphs"),
    Check("text", "_gpu_text:text", 110, "text encoder `base-en` in bf16: training and encoding 8192 tokens"),
    Check("auc", "_gpu_auc:auc", 80, "AUC on synthetic data by precision, beside that of the true probabilities"),
    Check("compile_tf32", "_gpu_training:compile_tf32", 110, "training step, TF32: compiled, and with its CUDA graphs"),
    Check("compile_float32", "_gpu_training:compile_float32", 110, "training step, float32: compiled, and with graphs"),
)


def main(checks: Sequence[Check] = CHECKS, argv: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    known = {check.name: check for check in checks}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU; -1 runs everything small on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all checks together")
    parser.add_argument("--only", nargs="+", choices=list(known), metavar="CHECK", help="run these checks alone")
    parser.add_argument("--small", action="store_true", help="small sizes on a GPU too")
    parser.add_argument("--list", action="store_true", help="list the checks and end")
    parser.add_argument("--start", choices=("spawn", "fork"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.list:
        for check in checks:
            print(f"{check.name:16} at most {check.limit:3.0f} s  {check.what}")
        return 0
    if arguments.out is None:
        parser.error("--out DIR is needed: the folder of the results")
    chosen = [check for check in checks if arguments.only is None or check.name in arguments.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of checks end too
    # On the CPU one import serves all checks. CUDA does not survive a fork, so nothing that loads it may be here.
    start = arguments.start or ("fork" if arguments.gpu < 0 else "spawn")
    if arguments.gpu < 0:
        os.environ["TRITON_INTERPRET"] = "1"  # decides at its import where kernels run
    if start == "fork":
        for check in chosen:
            with contextlib.suppress(ImportError):  # the check itself says so
                importlib.import_module(check.function.split(":")[0])
    place = "CPU" if arguments.gpu < 0 else f"GPU {arguments.gpu}"
    results = Results(arguments.out, chosen, f"gpu_check.py on {place}, {time.strftime('%Y-%m-%d')}")
    options = Options(arguments.gpu, arguments.small or arguments.gpu < 0)
    started = time.monotonic()

    def done(result: Result) -> None:
        results.add(result)
        print(f"{result.name}: {result.status} in {result.seconds:.0f} s {result.reason}".rstrip(), flush=True)

    # What a check leaves in temporary files when it is ended goes with the folder.
    with tempfile.TemporaryDirectory(prefix="gpu_check.") as scratch:
        os.environ["TMPDIR"] = scratch
        found = run(chosen, options, folder=arguments.out, seconds=60 * arguments.minutes, start=start, done=done)
    results.close()
    ok = all(result.status != "failed" and not result.out_of_time for result in found)
    whole = {
        "name": "gpu_check",
        "ok": ok,
        "small": options.small,
        "seconds": round(time.monotonic() - started, 1),
        "checks": {result.name: {k: v for k, v in result.as_dict().items() if k != "name"} for result in found},
    }
    print(json.dumps(whole, allow_nan=False), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # a checkout needs no installation
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a process that hangs in a driver would be waited for
