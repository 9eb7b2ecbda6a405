"""Rows a second of one training step of QIN (published configuration), fast against plain, and against its ceiling.

The ceiling is the arithmetic that exact training cannot avoid: the products of the quadratic layers, forward and for
both gradients, at the rate of a plain matrix product measured in the same run.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --batch-size 256 --items 2000 --embedding-dim 16
"""

from __future__ import annotations

import os

import torch
from _common import emit, peak_rss_mib
from _qin import arguments, challenge_batch, challenge_model, measure, product_rate, quadratic_flops, shapes


def main() -> None:
    """Measure, check the loss, print the result."""
    options = arguments(__doc__).parse_args()
    batches = [challenge_batch(options, seed=seed) for seed in range(3)]
    taken, losses, rates = {}, {}, []
    for form, repeats in (("fast", options.repeats), ("plain", options.plain_repeats)):
        if not repeats:
            continue
        model = challenge_model(options, form=form)
        on_device = [batch.to(model.device) for batch in batches]
        rates.append(product_rate(model.device))  # before and after: other work on the machine hides the ceiling
        model.train()
        torch.manual_seed(1)
        losses[form] = [model.train_step(batch).item() for batch in on_device[:2]]
        taken[form] = measure(on_device, model.train_step, repeats=repeats, warm_up=0)
        if form == "fast":
            peak = peak_rss_mib()
    rate = max(*rates, product_rate(model.device))
    flops = quadratic_flops(model, rows=options.num_row, products=3)
    pairs = zip(losses["fast"], losses.get("plain", losses["fast"]), strict=True)
    emit(
        name="train_step",
        shapes=shapes(options, batches[0]),
        rows_per_s=options.batch_size / taken["fast"]["s"],
        ceiling=rate / flops,
        ceiling_is=f"{flops / 1e6:.1f} MFLOP a row of the quadratic layers at {rate / 1e9:.0f} GFLOP/s",
        ratio_to_plain=taken["plain"]["s"] / taken["fast"]["s"] if "plain" in taken else None,
        plain_is="form=plain: padded histories, projected keys and values, composed layers, torch's Adam",
        check=f"losses of the first steps, same seed, differ by {max(abs(a - b) for a, b in pairs):.1e}",
        losses=losses,
        step=taken,
        peak_rss_mib_fast=peak,
        load_average=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
