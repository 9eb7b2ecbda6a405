"""Scoring of QIN at the published configuration on a GPU, for `gpu_check.py`: the model as it is, folded, compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from _gpu_runner import Options, Report
from _gpu_timing import device_of, host_waits, known, precisions_of, product_rate, require_no_waits, seconds_of
from _gpu_training import make, use
from _qin import quadratic_flops

from fuxictr_multimodal.data.batch import Batch

# Of the worst probability, against float32 without folding; the mean difference in bf16 is a thirtieth of it.
TOLERANCE = {"float32": 1e-4, "tf32": 2e-2, "bf16": 1e-1}


@torch.no_grad()
def score(options: Options, report: Report) -> None:
    """Rows per second by precision, and the largest difference of a probability to float32."""
    device = device_of(options)
    model, batches = make(options, "float32")
    # Weights of the size that training gives, so that the comparison of scores means something.
    for name, parameter in model.named_parameters():
        if "embedding_layers" in name:
            parameter[1:] = torch.randn(parameter[1:].shape, generator=torch.Generator().manual_seed(2)) * 0.1
    model.eval()
    exact = model(batches[0])["y_pred"].clone()
    flops = quadratic_flops(model, rows=1, products=1)
    repeats = 3 if options.small else 30
    waits, errors = 0, {}
    for precision in reversed(precisions_of(device)):
        peak = product_rate(device, precision, small=options.small)
        use(model, precision)
        folded = model.fold()
        for form, call in (("model", model), ("folded", folded)):
            step = _step_of(call, batches)
            taken = seconds_of(device, step, repeats=repeats, warm_up=4)  # item vectors are kept from the third on
            rows_per_s = len(batches[0]) / taken
            waited = host_waits(device, step)
            errors[f"{form} in {precision}"] = error = float((call(batches[0])["y_pred"] - exact).abs().max())
            figures = {"rows_per_s": rows_per_s, "of_peak": rows_per_s * flops / peak, "error": error}
            report(**{f"{precision}_{form}": figures | known(host_waits=waited)})
            waits += waited or 0
            if not error < TOLERANCE[precision]:
                raise AssertionError(f"probabilities of {form} in {precision} are off by {error:.1e}")
    if device.type == "cuda":
        use(model, "bf16", compiled=True)
        peak = product_rate(device, "bf16", small=options.small)
        step = _step_of(model, batches)
        taken = seconds_of(device, step, repeats=repeats, warm_up=4)
        rows_per_s = len(batches[0]) / taken
        error = float((model(batches[0])["y_pred"] - exact).abs().max())
        report(bf16_compiled={"rows_per_s": rows_per_s, "of_peak": rows_per_s * flops / peak, "error": error})
    require_no_waits("scoring", waits)


def _step_of(call: Callable[[Batch], object], batches: list[Batch]) -> Callable[[], object]:
    stream = itertools.cycle(batches)
    return lambda: call(next(stream))
