"""Everything that this project does on a GPU, on one card, in one command and under eight minutes.

    python benchmarks/gpu_check.py --out DIR
    python benchmarks/gpu_check.py --out DIR --gpu -1

Checks run one after the other, the most important first, each in a process of its own with a limit of its own: one that
fails, hangs or crashes ends no other. Below DIR each result is written as it comes, to `results.jsonl` (one line each)
and `summary.md`; what a check prints is in `<check>.log`. The last line on stdout is one JSON object with all results.
The exit status is 0 if every check that ran passed and none was left out for lack of time, 1 if not, and 2 with one
line on stderr if an argument, the folder or the GPU cannot be used. With `--gpu -1` all of it runs small on the CPU,
which shows that the environment is complete.

A run into the folder of an earlier one keeps the lines of checks that do not run again: a check that runs again
replaces its own line and log. Ctrl-C, SIGTERM and SIGHUP end the check that runs, keep what it has measured so far, and
give the status 130, 143 or 129. The end of a terminal is a SIGHUP: `nohup` or `tmux` keeps the run alive.

`--list` prints the seconds of each check: those expected on an H200, and the limit, which is two to three times that.
The expected ones are not measured. They are sums from the work of each check: 5 s for the context of CUDA and the
model, the steps at 10 to 60 ms each, 10 to 25 s for each form that is compiled, 10 s to write the samples of an epoch,
and the epochs at 4 to 20 s each. The first eight checks, which matter most, fit into eight minutes even where each
takes all of its limit.

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

from _gpu_command import Refused, arguments_of, noticed_signals, open_streams, require_gpu, say
from _gpu_results import Results
from _gpu_runner import Check, Options, Result, Stop, run

ROOT = Path(__file__).resolve().parents[1]
CHECKS = (
    Check("device", "_gpu_device:device", 30, "versions, memory, rates of copies and of matrix products", expected=12),
    Check("tests", "_gpu_kernels:tests", 60, "tests/qin/test_gpu.py", expected=25),
    Check("kernels", "_gpu_kernels:kernels", 40, "Triton attention and PyTorch: values, gradients, times", expected=15),
    Check("train_bf16", "_gpu_training:train_bf16", 45, "training step, bf16: as it is, and as a graph", expected=18),
    Check("epoch", "_gpu_epoch:epoch", 140, "loader on the device, and an epoch of 3.6 M samples", expected=70),
    Check("train_tf32", "_gpu_training:train_tf32", 45, "training step, TF32: as it is, and as a graph", expected=18),
    Check("train_float32", "_gpu_training:train_float32", 50, "training step, float32: the same", expected=20),
    Check("score", "_gpu_scoring:score", 60, "scoring, the model as it is and folded", expected=25),
    Check("compile_bf16", "_gpu_training:compile_bf16", 90, "training step, bf16: compiled, and graphs", expected=40),
    Check("auc", "_gpu_auc:auc", 75, "AUC by precision on synthetic data, beside that of the truth", expected=30),
    Check("text", "_gpu_text:text", 75, "text encoder `base-en`, bf16: training, encoding 8192 tokens", expected=30),
    Check("compile_tf32", "_gpu_training:compile_tf32", 90, "training step, TF32: compiled, and graphs", expected=40),
    Check("compile_float32", "_gpu_training:compile_float32", 90, "training step, float32: the same", expected=40),
)


def main(checks: Sequence[Check] = CHECKS, argv: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    started = time.monotonic()
    open_streams()
    try:
        arguments = arguments_of(checks, argv, __doc__)
        if arguments.list:
            for check in checks:
                say(f"{check.name:16} about {check.expected:3.0f} s, at most {check.limit:3.0f} s  {check.what}")
            return 0
        with noticed_signals() as stop:
            ok = _run(checks, arguments, stop, started)
    except Refused as error:
        say(f"error: {error}", error=True)
        return 2
    if stop.signal:
        name = signal.Signals(stop.signal).name
        say(f"error: interrupted by {name}; the results until then are in {arguments.out}", error=True)
        return 128 + stop.signal
    return 0 if ok else 1


def _run(checks: Sequence[Check], arguments: argparse.Namespace, stop: Stop, started: float) -> bool:
    """Run the chosen checks within the time; whether all is well."""
    chosen: list[Check] = arguments.chosen
    options = Options(arguments.gpu, arguments.small or arguments.gpu < 0)
    # On the CPU one import serves all checks. CUDA does not survive a fork, so nothing that loads it may be here.
    start = arguments.start or ("fork" if arguments.gpu < 0 else "spawn")
    if arguments.gpu >= 0:
        require_gpu(options, stop)
    place = ("CPU" if arguments.gpu < 0 else f"GPU {arguments.gpu}") + (", small sizes" if options.small else "")
    place += time.strftime(", %Y-%m-%d %H:%M")
    written = True

    def done(result: Result) -> None:
        nonlocal written
        result.run = place
        try:
            results.add(result)
        except OSError as error:  # the last line on stdout still has it
            written = False
            say(f"error: {arguments.out} cannot be written: {error.strerror}", error=True)
        if not result.interrupted:
            say(f"{result.name}: {result.status} in {result.seconds:.0f} s {result.reason}".rstrip())

    with contextlib.ExitStack() as stack:
        try:
            results = Results(arguments.out, checks, f"gpu_check.py on {place}")
            # What a check leaves in temporary files when it is ended goes with the folder.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu_check.", ignore_cleanup_errors=True))
        except OSError as error:
            raise Refused(f"{error.filename or arguments.out} cannot be written: {error.strerror}") from None
        except ValueError as error:
            raise Refused(str(error)) from None
        os.environ["TMPDIR"] = scratch
        tempfile.tempdir = None  # read anew: torch makes folders at its import
        if arguments.gpu < 0:
            os.environ["TRITON_INTERPRET"] = "1"  # decides at its import where kernels run
        if start == "fork":
            for check in chosen:
                if not stop.signal:
                    with contextlib.suppress(ImportError):  # the check itself says so
                        importlib.import_module(check.function.split(":")[0])
        left = started + 60 * arguments.minutes - time.monotonic()
        found = run(chosen, options, folder=arguments.out, seconds=left, start=start, stop=stop, done=done)
    ok = written and all(result.status != "failed" and not result.out_of_time for result in found)
    whole = {
        "name": "gpu_check",
        "ok": ok,
        "small": options.small,
        "seconds": round(time.monotonic() - started, 1),
        "checks": {result.name: {k: v for k, v in result.as_dict().items() if k != "name"} for result in found},
    }
    if not stop.signal:
        say(json.dumps(whole, allow_nan=False))
    return ok


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # a clone runs without installation
    status = main()
    os._exit(status)  # a process that hangs in a driver would be waited for
