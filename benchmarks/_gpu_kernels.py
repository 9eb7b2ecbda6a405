"""Triton's attention against PyTorch's, and the tests of QIN on a GPU, for `gpu_check.py`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from _gpu_runner import Options, Report, Skip
from _gpu_timing import device_of, finish, seconds_of
from _gpu_training import sizes
from _qin import challenge_batch

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN import sparse_attend

ROOT = Path(__file__).resolve().parents[1]
WIDTH, NARROW = 384, 48  # of published and of small item vectors
TOLERANCE = 2e-5  # float32 sums in another order, relative to the largest number


def kernels(options: Options, report: Report) -> None:
    """Values and gradients of the kernels equal those of PyTorch, on an example and at the published sizes.

    On the CPU the kernels run on the example in Triton's interpreter.
    """
    device = device_of(options)
    if importlib.util.find_spec("triton") is None:
        raise Skip("Triton is not installed: attention is PyTorch's")
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # `gpu_check.py` does so too, before anything imports Triton
    from triton.runtime.errors import InterpreterError

    from model_zoo.QIN import sparse_attend_triton

    cases = [(torch.float32, 8)]
    if device.type == "cuda":
        cases = [(torch.float32, WIDTH), (torch.float32, NARROW), (torch.float64, NARROW)]
    for dtype, width in cases:
        try:
            error = sparse_attend_triton._error_on_example(device, dtype, width)
        except InterpreterError as problem:  # of Triton's interpreter alone; some versions do not fit some of NumPy
            raise Skip(f"Triton's interpreter does not run here: {problem}") from problem
        report(**{f"error_{str(dtype).split('.')[1]}_{width}": error})
        if not error < (TOLERANCE if dtype == torch.float32 else 1e-9):
            raise AssertionError(f"the kernels are off by {error:.1e} at width {width} in {dtype}")
    if device.type == "cuda":
        if not sparse_attend._kernels_run_on(device, torch.float32, WIDTH):
            raise AssertionError("attention does not use its kernels here; the log says why")
        _at_published_sizes(options, report, device)


def _at_published_sizes(options: Options, report: Report, device: torch.device) -> None:
    batch = challenge_batch(sizes(options, "float32"), seed=0).to(device)
    slots = Jagged(batch.history.values.long(), batch.history.offsets)
    generator = torch.Generator(device).manual_seed(0)
    items = sizes(options, "float32").items

    def draw(rows: int) -> torch.Tensor:
        return torch.randn(rows, WIDTH, device=device, generator=generator)

    query, vectors, weight = draw(len(batch)), draw(items), draw(len(batch))
    inputs = query.requires_grad_(), vectors.requires_grad_()
    found: dict[str, list[torch.Tensor]] = {}
    for form in ("triton", "pytorch"):

        def forward() -> torch.Tensor:
            return sparse_attend.attend(*inputs, slots, activation="relu")

        def both() -> tuple[torch.Tensor, ...]:
            pooled = forward()
            return pooled, *torch.autograd.grad((pooled * weight).sum(), inputs)

        with mock.patch.object(sparse_attend, "_kernels_run_on", lambda *_, form=form: form == "triton"):
            found[form] = [value.detach() for value in both()]
            finish(device)
            with torch.no_grad():
                report(**{f"{form}_forward_ms": 1e3 * seconds_of(device, forward, repeats=10, warm_up=2)})
            report(**{f"{form}_both_ms": 1e3 * seconds_of(device, both, repeats=10, warm_up=2)})
    pairs = zip(found["triton"], found["pytorch"], strict=True)
    errors, worst = zip(*(_errors_of_rows(one, other) for one, other in pairs), strict=True)
    report(errors_at_published_sizes=errors, worst_rows=worst)
    if not max(errors) < 10 * TOLERANCE:
        raise AssertionError(f"values, gradients of queries and of items are off by {errors} at the published sizes")


def _errors_of_rows(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Error of a row, relative to the largest number of all: of all rows but one in a thousand, and of the worst.

    A score next to 0 may fall on either side of it, and then the gradients of its row are others.
    """
    errors = ((one - other).abs().amax(dim=1) / other.abs().max()).sort().values
    return float(errors[int(0.999 * (len(errors) - 1))]), float(errors[-1])


def tests(options: Options, report: Report) -> None:
    """Run tests/qin/test_gpu.py in this process."""
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed")
    if options.gpu < 0:
        raise Skip("these tests need a GPU")
    if options.gpu > 0:
        raise Skip("these tests take the first GPU: set CUDA_VISIBLE_DEVICES and use --gpu 0")
    # Plugins of whatever else is installed would be loaded, and could take longer than the tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    class Outcomes:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                outcomes[report.outcome].append(report.nodeid.split("::")[-1])

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    # Warnings of libraries that are other versions here than in the project's own environment are no failures.
    arguments = ["-q", "-x" if options.small else "--maxfail=20", "-p", "no:cacheprovider", "-W", "default"]
    status = pytest.main([*arguments, "tests/qin/test_gpu.py"], plugins=[Outcomes()])
    report(**{name: len(those) for name, those in outcomes.items()}, failures=outcomes["failed"][:20])
    if status != 0:
        raise AssertionError(f"pytest ended with status {int(status)}; failed: {', '.join(outcomes['failed'][:3])}")
