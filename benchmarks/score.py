"""Scoring speed of QIN (published configuration) in rows per second, against its reference implementation and the peak.

The peak is the arithmetic of the folded quadratic layers, one F x F product a layer, at the rate of a plain matrix
product measured in the same run.

    python benchmarks/score.py
    python benchmarks/score.py --batch-size 256 --items 2000 --embedding-dim 16
"""

from __future__ import annotations

import os
import time

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


@torch.no_grad()
def main() -> None:
    """Measure, check the scores, print the result."""
    options = arguments(__doc__).parse_args()
    batches = [challenge_batch(options, seed=seed) for seed in range(3)]
    taken: dict[str, dict[str, float]] = {}
    scores: dict[str, torch.Tensor] = {}
    rates, peak, flops = [], 0.0, 0
    for form, repeats in (("fast", options.repeats), ("plain", options.plain_repeats)):
        if not repeats:
            continue
        model = challenge_model(options, form=form)
        # Weights of the size that training gives, so that the comparison of scores means something.
        for name, parameter in model.named_parameters():
            if "embedding_layers" in name:
                parameter[1:] = torch.randn(parameter[1:].shape, generator=torch.Generator().manual_seed(2)) * 0.1
        model.eval()
        on_device = [batch.to(model.device) for batch in batches]
        # Before and after: other work on the machine hides the peak.
        rates.append(product_rate(model.device, options.precision))
        warm_up = (
            3 if form == "fast" else 0
        )  # the optimized implementation keeps item vectors from its second or third batch on
        taken[form] = measure(on_device, model, repeats=repeats, warm_up=warm_up)
        scores[form] = model(on_device[0])["y_pred"]
        if form == "fast":
            peak = peak_rss_mib()
            folded = model.fold()
            taken["folded"] = measure(on_device, folded, repeats=repeats, warm_up=warm_up)
            scores["folded"] = folded(on_device[0])["y_pred"]
        rates.append(product_rate(model.device, options.precision))
        flops = quadratic_flops(model, rows=1, products=1)
    differences = {form: float((scores[form] - scores["fast"]).abs().max()) for form in scores if form != "fast"}
    products = {} if options.gpu >= 0 else cpu_product_rates(time.process_time)
    emit(
        name="score",
        shapes=shapes(options, batches[0]),
        rows_per_s=options.batch_size / taken["fast"]["s"],
        ceiling=max(rates) / flops,
        ceiling_is=f"{flops / 1e6:.1f} MFLOP a row of the folded quadratic layers at {max(rates) / 1e9:.0f} GFLOP/s",
        ratio_to_plain=taken["plain"]["s"] / taken["fast"]["s"] if "plain" in taken else None,
        plain_is="form=plain: padded histories, projected keys and values, R maps per layer",
        ratio_of_folded=taken["fast"]["cpu_s"] / taken["folded"]["cpu_s"],
        folded_is="model.fold(), as predict scores; the ratio is of processor seconds of the fast form to its own",
        check=f"largest difference of a probability to the fast form: {differences}",
        batch=taken,
        peak_rss_mib_fast=peak,
        products_per_cpu_s=products,
        fractions_of_cpu_s={
            form: fractions_of_products(options.batch_size * flops, taken[form], products)
            for form in ("fast", "folded")
        },
        load_average=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
