"""The published QIN beside ours in one run: training and scoring at the published configuration, rows per second.

Both train on the same batches from the same weights, and take turns. With `--clone` the published code itself runs,
from a clone of github.com/salmon1802/QIN: code of that folder is executed. Without it the reference implementation
stands in, which writes the same layers from the paper's formulas (`form: plain`). The published layout pads every
history to 64 items: a batch of 8,192 then needs about 15 GB of memory to train.

    python benchmarks/published.py --clone ../QIN
    python benchmarks/published.py --batch-size 256 --items 2000 --embedding-dim 16
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import emit, peak_rss_mib
from _qin import (
    MAX_LEN,
    arguments,
    challenge_batch,
    challenge_features,
    challenge_model,
    cpu_product_rates,
    fractions_of_products,
    product_rate,
    quadratic_flops,
    shapes,
)

from fuxictr_multimodal.zoo.layouts import as_longctr

FILE, CLASS = Path("src/QIN_variety_v9.py"), "QIN_variety_v9"
# The published settings; ours are the defaults of QIN.
SETTINGS = {
    "num_layers": 4,
    "net_dropout": 0.1,
    "batch_norm": True,
    "learning_rate": 2e-3,
    "embedding_regularizer": 2e-4,
    "net_regularizer": 0,
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "task": "binary_classification",
    "metrics": ["AUC", "logloss"],
    "monitor": "AUC",
    "model_root": "",
}


def main() -> None:
    """Measure, check losses and scores, print the result."""
    parser = arguments(__doc__)
    parser.add_argument("--clone", type=Path, help="a clone of the published code, which is run")
    options = parser.parse_args()
    if options.gpu >= 0:
        parser.error("the comparison runs on the CPU: leave out --gpu")
    ours = challenge_model(options, form="fast")
    model = challenge_model(options, form="plain") if options.clone is None else published_model(options)
    model.load_state_dict(ours.state_dict())
    batches = [challenge_batch(options, seed=seed) for seed in range(2)]
    table = ours.item_table
    assert table is not None
    inputs: dict[str, list[Any]] = {"ours": batches, "published": batches}
    if options.clone is not None:
        inputs["published"] = [as_longctr(batch, table, max_len=MAX_LEN) for batch in batches]
    models = {"ours": ours, "published": model}
    for each in models.values():
        each.eval()
    rates = [product_rate(ours.device)]
    scores = {name: score(each, inputs[name][0]) for name, each in models.items()}
    scoring = turns(options, inputs, models, score, warm_up=3)
    for each in models.values():
        each.train()
    losses = {}
    for name, each in models.items():
        torch.manual_seed(1)
        losses[name] = [each.train_step(batch).item() for batch in inputs[name]]
    training = turns(options, inputs, models, lambda model, batch: model.train_step(batch))
    rates.append(product_rate(ours.device))
    per_cpu_s = cpu_product_rates(time.process_time)
    flops = {
        "training": quadratic_flops(ours, rows=options.num_row, products=3),
        "scoring": quadratic_flops(ours, rows=1, products=1),
    }
    taken = {"training": training, "scoring": scoring}
    emit(
        name="published",
        shapes=shapes(options, batches[0]),
        rows_per_s=options.batch_size / training["ours"]["s"],
        ceiling=max(rates) / flops["training"],
        ceiling_is=f"{flops['training'] / 1e6:.1f} MFLOP a row of the layers at {max(rates) / 1e9:.0f} GFLOP/s",
        ratio_to_plain=training["published"]["s"] / training["ours"]["s"],
        plain_is="form=plain" if options.clone is None else f"{CLASS} of the clone, histories padded to {MAX_LEN}",
        check=f"largest difference of a score {float((scores['ours'] - scores['published']).abs().max()):.1e}, of the "
        f"first loss {abs(losses['ours'][0] - losses['published'][0]):.1e} (same masks without a clone)",
        times_as_fast={name: of["published"]["s"] / of["ours"]["s"] for name, of in taken.items()},
        times_as_fast_in_cpu_s={name: of["published"]["cpu_s"] / of["ours"]["cpu_s"] for name, of in taken.items()},
        all_rows_per_s={
            name: {who: options.batch_size / s["s"] for who, s in of.items()} for name, of in taken.items()
        },
        seconds=taken,
        losses=losses,
        products_per_cpu_s=per_cpu_s,
        fractions_of_cpu_s={
            name: fractions_of_products(options.batch_size * flops[name], of["ours"], per_cpu_s)
            for name, of in taken.items()
        },
        peak_rss_mib_published=peak_rss_mib(),
        load_average=os.getloadavg()[0],
    )


def published_model(options: argparse.Namespace) -> Any:
    """The published class, as its file is."""
    file = options.clone / FILE
    if not file.is_file():
        raise SystemExit(f"error: {options.clone} is no clone of github.com/salmon1802/QIN: it lacks {FILE}")
    spec = importlib.util.spec_from_file_location(CLASS, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = getattr(module, CLASS)(
        challenge_features(options),
        gpu=options.gpu,
        embedding_dim=options.embedding_dim,
        num_row=options.num_row,
        verbose=0,
        **SETTINGS,
    )
    model._batch_index, model._max_gradient_norm = 0, 10.0  # which FuxiCTR's `fit` sets
    return model


def turns(
    options: argparse.Namespace,
    inputs: dict[str, list[Any]],
    models: dict[str, Any],
    call: Callable[[Any, Any], object],
    *,
    warm_up: int = 0,
) -> dict[str, dict[str, float]]:
    """Median wall-clock and processor seconds of a call; ours before and after the published, against drift."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for name in ("ours", "published", "ours"):
        repeats, idle = (options.repeats, warm_up) if name == "ours" else (max(options.plain_repeats, 1), 0)
        stream = itertools.cycle(inputs[name])
        for index in range(idle + repeats):
            batch = next(stream)
            started = time.perf_counter(), time.process_time()
            call(models[name], batch)
            if index >= idle:
                taken[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {
        name: {
            clock: statistics.median(values)
            for clock, values in zip(("s", "cpu_s"), zip(*each, strict=True), strict=True)
        }
        for name, each in taken.items()
    }


def score(model: Any, batch: Any) -> torch.Tensor:
    """Probabilities of a batch."""
    with torch.no_grad():
        return model(batch)["y_pred"]


if __name__ == "__main__":
    main()
