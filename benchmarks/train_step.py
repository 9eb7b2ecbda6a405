"""Training speed of QIN (published configuration) in rows per second, against its reference implementation and the
peak.

The peak is the arithmetic that exact training cannot avoid: the products of the quadratic layers, forward and for
both gradients, at the rate of a
plain matrix product measured in the same run.

`step_with_loader_ratio` is the cost of loading: seconds of whole shuffled epochs through the loader over those of the
same batches already on the device. Both take turns under the same load; the ratio is the median of all turns.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --batch-size 256 --items 2000 --embedding-dim 16 --loader-steps 50
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import emit, peak_rss_mib
from _qin import (
    arguments,
    challenge_batch,
    challenge_model,
    cpu_product_rates,
    fractions_of_products,
    measure,
    product_rate,
    quadratic_flops,
    shapes,
)
from _split import make_loader, write_split

from model_zoo.QIN import QIN


def main() -> None:
    """Measure, check the loss, print the result."""
    parser = arguments(__doc__)
    parser.add_argument("--loader-steps", type=int, default=3, help="steps of an epoch through the loader")
    parser.add_argument("--loader-turns", type=int, default=3, help="number of such epochs; 0 skips them")
    options = parser.parse_args()
    batches = [challenge_batch(options, seed=seed) for seed in range(3)]
    taken: dict[str, dict[str, float]] = {}
    losses: dict[str, list[float]] = {}
    rates, loading, peak, flops = [], {}, 0.0, 0
    for form, repeats in (("fast", options.repeats), ("plain", options.plain_repeats)):
        if not repeats:
            continue
        model = challenge_model(options, form=form)
        on_device = [batch.to(model.device) for batch in batches]
        # Before and after: other work on the machine hides the peak.
        rates.append(product_rate(model.device, options.precision))
        model.train()
        torch.manual_seed(1)
        losses[form] = [model.train_step(batch).item() for batch in on_device[:2]]
        taken[form] = measure(on_device, model.train_step, repeats=repeats, warm_up=0)
        if form == "fast":
            peak = peak_rss_mib()
            loading = with_loader(options, model)
        rates.append(product_rate(model.device, options.precision))
        flops = quadratic_flops(model, rows=options.num_row, products=3)
    pairs = zip(losses["fast"], losses.get("plain", losses["fast"]), strict=True)
    products = {} if options.gpu >= 0 else cpu_product_rates(time.process_time)
    emit(
        name="train_step",
        shapes=shapes(options, batches[0]),
        rows_per_s=options.batch_size / taken["fast"]["s"],
        ceiling=max(rates) / flops,
        ceiling_is=f"{flops / 1e6:.1f} MFLOP a row of the quadratic layers at {max(rates) / 1e9:.0f} GFLOP/s",
        ratio_to_plain=taken["plain"]["s"] / taken["fast"]["s"] if "plain" in taken else None,
        plain_is="form=plain: padded histories, projected keys and values, composed layers, torch's Adam",
        check=f"losses of the first steps, same seed, differ by {max(abs(a - b) for a, b in pairs):.1e}",
        losses=losses,
        step=taken,
        **loading,
        peak_rss_mib_fast=peak,
        products_per_cpu_s=products,
        fractions_of_cpu_s={
            form: fractions_of_products(options.batch_size * flops, taken[form], products) for form in ("fast",)
        },
        load_average=os.getloadavg()[0],
    )


def with_loader(options: argparse.Namespace, model: QIN) -> dict[str, Any]:
    """Seconds of an epoch whose batches come from the loader, and of the same batches when they lie ready."""
    if not options.loader_turns:
        return {}
    taken: dict[str, list[float]] = {"loaded": [], "ready": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train"
        write_split(path, options.loader_steps * options.batch_size, options.items, options.mean_length)
        loader = make_loader(path, batch_size=options.batch_size, device=str(model.device))
        ready = list(loader)
        for _ in range(options.loader_turns):
            for name, batches in (("loaded", loader), ("ready", ready)):
                loader.load_state_dict({"epoch": 0, "batch": 0})  # the epoch of `ready`
                started = time.perf_counter()
                for batch in batches:
                    model.train_step(batch)
                if model.device.type == "cuda":
                    torch.cuda.synchronize(model.device)
                taken[name].append(time.perf_counter() - started)
    ratios = [loaded / at_hand for loaded, at_hand in zip(taken["loaded"], taken["ready"], strict=True)]
    return {
        "step_with_loader_ratio": statistics.median(ratios),
        "with_loader": {
            "mode": loader.mode,
            "steps": len(loader),
            "ratios": ratios,
            **{f"{name}_s": statistics.median(seconds) for name, seconds in taken.items()},
        },
    }


if __name__ == "__main__":
    main()
