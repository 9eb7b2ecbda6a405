"""Training steps of published QIN on a GPU, for `gpu_check.py`: as they are, compiled, as CUDA graphs."""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from _gpu_runner import Options, Report, Skip
from _gpu_timing import (
    device_of,
    finish,
    host_waits,
    known,
    peak_gib,
    product_rate,
    profiled,
    require_no_waits,
    seconds_of,
)
from _qin import ITEMS, challenge_batch, challenge_model, quadratic_flops

from fuxictr_multimodal.data.batch import Batch
from model_zoo.QIN import QIN, quadratic_compiled
from model_zoo.QIN.precision import Precision

NOT_OFFERED = "measured here; QIN has no such option"
# Of the first loss and of its gradients, between two orders of the same sums in this precision.
TOLERANCES = {"float32": (1e-4, 2e-3), "tf32": (1e-3, 5e-2), "bf16": (1e-2, 2e-1)}


def sizes(options: Options, precision: str, *, compiled: bool = False) -> argparse.Namespace:
    """The published configuration, or a small one."""
    small = options.small
    return argparse.Namespace(
        batch_size=64 if small else 8192,
        items=200 if small else ITEMS,
        mean_length=9.6,
        embedding_dim=4 if small else 128,
        num_row=4,
        precision=precision,
        compile=compiled,
        gpu=options.gpu,
    )


def use(model: QIN, precision: str, *, compiled: bool = False) -> None:
    """Let a model compute in another precision from now on: to make one anew would cost seconds."""
    model.precision = Precision(precision, model.device)
    model.qnn.compiled = compiled  # type: ignore[union-attr]
    model.forget()


def make(options: Options, precision: str, *, compiled: bool = False) -> tuple[QIN, list[Batch]]:
    """The published model in training, and three batches on its device; with the same seed always the same."""
    of = sizes(options, precision, compiled=compiled)
    model = challenge_model(of, form="fast")
    if model.device != device_of(options):
        raise RuntimeError(f"the model is on {model.device}, not on {device_of(options)}")
    batches = [challenge_batch(of, seed=seed).to(model.device) for seed in range(3)]
    torch.manual_seed(1)
    return model.train(), batches


def _has(options: Options, precision: str) -> None:
    if precision == "tf32" and options.gpu < 0:
        raise Skip("TF32 is of GPUs")


def train_float32(options: Options, report: Report) -> None:
    """Exact products."""
    _train(options, report, "float32")


def train_tf32(options: Options, report: Report) -> None:
    """Products of TF32."""
    _train(options, report, "tf32")


def train_bf16(options: Options, report: Report) -> None:
    """Products of bfloat16."""
    _train(options, report, "bf16")


def compile_float32(options: Options, report: Report) -> None:
    """Exact products, compiled."""
    _compile(options, report, "float32")


def compile_tf32(options: Options, report: Report) -> None:
    """Products of TF32, compiled."""
    _compile(options, report, "tf32")


def compile_bf16(options: Options, report: Report) -> None:
    """Products of bfloat16, compiled."""
    _compile(options, report, "bf16")


def _train(options: Options, report: Report, precision: str) -> None:
    _has(options, precision)
    device = device_of(options)
    peak = product_rate(device, precision, small=options.small)
    report(product_tflops=peak / 1e12)
    model, batches = make(options, precision)
    losses = [model.train_step(batch).item() for batch in batches[:2]]
    report(losses=losses)
    step = _step_of(model, batches)
    taken = seconds_of(device, step, repeats=3 if options.small else 20, warm_up=3)
    report(**_rates(model, batches, taken, peak), **known(peak_memory_gib=peak_gib(device)))
    waits = host_waits(device, step)
    report(**known(host_waits=waits))
    if device.type == "cuda":
        _host_share(report, device, step, taken)
        with report.attempt("step_as_graph"):
            report(step_as_graph=_as_one_graph(model, batches, peak))
        with report.attempt("profile"):  # last, since it can slow down what comes after it
            report(profile=profiled(step))
    if not all(abs(loss) < 100 for loss in losses):
        raise AssertionError(f"the losses of the first steps are {losses}")
    require_no_waits("a training step", waits)


def _step_of(model: QIN, batches: list[Batch]) -> Callable[[], torch.Tensor]:
    stream = itertools.cycle(batches)
    return lambda: model.train_step(next(stream))


def _rates(model: QIN, batches: list[Batch], taken: float, peak: float) -> dict[str, float]:
    """Rows per second, and the fraction of the peak that the products of the quadratic layers make of it."""
    rows_per_s = len(batches[0]) / taken
    flops = quadratic_flops(model, rows=4, products=3)
    return {"ms": 1e3 * taken, "rows_per_s": rows_per_s, "of_peak": rows_per_s * flops / peak}


def _host_share(report: Report, device: torch.device, step: Callable[[], object], taken: float) -> None:
    """How long the host takes to queue a step on an idle GPU: near the time of the step, the host bounds it."""
    with report.attempt("host_ms"):
        queued = []
        for _ in range(5):
            finish(device)
            started = time.perf_counter()
            step()
            queued.append(time.perf_counter() - started)
        finish(device)
        host = statistics.median(queued)
        report(host_ms=1e3 * host, host_of_step=host / taken)


def _as_one_graph(model: QIN, batches: list[Batch], peak: float) -> dict[str, object]:
    """A whole training step captured for the shapes of one batch, and replayed.

    A replay asks nothing of the host, so this is what a step could take; batches of other history lengths would each
    need a graph, or histories padded to a common sum.
    """
    device, batch = model.device, batches[0]
    for group in model.optimizer.param_groups:
        group["capturable"] = True
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            model.train_step(batch)
    torch.cuda.current_stream(device).wait_stream(aside)
    finish(device)
    model.optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model.train_step(batch)
    weight = model.qnn.fc.weight  # type: ignore[union-attr]
    before = weight.detach().clone()
    graph.replay()
    finish(device)
    if not torch.isfinite(loss) or torch.equal(before, weight):
        raise AssertionError(
            f"a replay gives the loss {loss.item()} and leaves the weights as they were, or breaks them"
        )
    taken = seconds_of(device, graph.replay, repeats=20, warm_up=3)
    return {**_rates(model, batches, taken, peak), "note": NOT_OFFERED}


def _compile(options: Options, report: Report, precision: str) -> None:
    _has(options, precision)
    device = device_of(options)
    model, batches = make(options, precision)
    expected = _first_step(model, batches[0])
    del model
    peak = product_rate(device, precision, small=options.small)

    def measure(name: str, step_begins: Callable[[], object]) -> int | None:
        """Report one way to compile; return how often the host waits in a step."""
        model, batches = make(options, precision, compiled=True)
        stream = itertools.cycle(batches)

        def step() -> torch.Tensor:
            step_begins()
            return model.train_step(next(stream))

        started = time.perf_counter()
        step_begins()
        loss, gradients = _first_step(model, batches[0])
        finish(device)
        figures = {"first_step_s": time.perf_counter() - started}
        of_loss = abs(loss - expected[0]) / abs(expected[0])
        of_gradients = max(
            float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(gradients, expected[1], strict=True)
        )
        report(**{name: figures | {"loss_error": of_loss, "gradient_error": of_gradients}})
        if not (of_loss < TOLERANCES[precision][0] and of_gradients < TOLERANCES[precision][1]):
            raise AssertionError(
                f"{name}: the loss is off by {of_loss:.1e} and gradients of quadratic layers by {of_gradients:.1e}"
            )
        taken = seconds_of(device, step, repeats=3 if options.small else 20, warm_up=4)
        waits = host_waits(device, step)
        errors = {"loss_error": of_loss, "gradient_error": of_gradients}
        report(**{name: _rates(model, batches, taken, peak) | figures | errors | known(host_waits=waits)})
        return waits

    if device.type == "cpu":
        # Inductor would need a C++ compiler and half a minute: what runs here is all but the compiler's last stage.
        with mock.patch.object(quadratic_compiled, "BACKEND", "eager"):
            measure("compiled", lambda: None)
        return
    waits = measure("compiled", lambda: None)
    with report.attempt("reduce_overhead"), mock.patch.object(quadratic_compiled, "_compiled", _with_graphs):
        measure("reduce_overhead", torch.compiler.cudagraph_mark_step_begin)
        report(reduce_overhead_note=NOT_OFFERED)
    require_no_waits("a compiled training step", waits)


def _first_step(model: QIN, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    """Loss of a step, and gradients of the quadratic maps; models of `make` draw the same masks."""
    loss = model.train_step(batch).item()
    gradients = [layer.linear[0].weight.grad for layer in model.qnn.layer]  # type: ignore[index,union-attr]
    return loss, [gradient.clone() for gradient in gradients]


@functools.cache
def _with_graphs(function: Callable, backend: str) -> Callable:
    return torch.compile(function, fullgraph=True, backend=backend, mode="reduce-overhead")
