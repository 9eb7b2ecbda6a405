"""Seconds and peak memory of a training step of QIN as one size grows at a time, with the exponent of growth.

Axes: `batch` rows, `history` items of a row, `items` of the vocabulary (with dense and with row-wise updates of the
item table), `tags` slots of an item, `layers` of the interaction. Along an axis the other sizes stay those of `base`.
An exponent is the slope in log-log, of all points (least squares) and of the last two; 1 is growth in proportion.

Each point is measured in its own process, forked from one that has imported everything. Peak memory is that of the
steps, the model and the item table included, without what the imports hold; on a GPU it is that of the device.

Sizes are small by default; `--full` has the challenge's sizes, published widths, and up to 10 million
items, with the narrower embeddings of `--vocabulary-dim` for that axis. Points that do not fit into memory are
skipped and listed. The peak is that of `train_step.py`, at the base point.

    python benchmarks/growth.py
    python benchmarks/growth.py --full --out results/growth.svg
    python benchmarks/growth.py --full --axes items --vocabulary-dim 128 --gpu 0
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from _common import emit, peak_rss_mib

if TYPE_CHECKING:
    from fuxictr_multimodal.data.batch import Batch
    from model_zoo.QIN import QIN

AXES = ("batch", "history", "items", "tags", "layers")
MEASURES = {"s": "seconds per step", "mib": "peak memory, MiB"}
UPDATES = ("dense", "rowwise")


@dataclass(frozen=True)
class Point:
    """Sizes of one measurement; every row has `history` items, every item `tags` slots, 28 % of them padding."""

    batch: int
    history: int
    items: int
    tags: int
    layers: int
    dim: int
    update: str = "dense"

    def bytes(self) -> int:
        """Roughly what a step needs at least: tables and moments, the item table, and the interaction's activations."""
        copies = 7 if self.update == "dense" else 3  # weights and moments; gradients of lookup, tags and penalty
        weights = self.items * self.dim * 4 * copies
        table = self.items * (4 * self.dim + 20 * self.tags)
        return weights + table + self.batch * self.layers * 8 * self.dim * 40


SMALL = Point(batch=256, history=10, items=2_000, tags=5, layers=2, dim=16)
FULL = Point(batch=8192, history=10, items=91_718, tags=5, layers=4, dim=128)
SMALL_VALUES = {
    "batch": (128, 256, 512),
    "history": (5, 10, 20),
    "items": (20_000, 80_000, 320_000),
    "tags": (1, 5, 10),
    "layers": (1, 2, 4),
}
FULL_VALUES = {
    "batch": (512, 1024, 2048, 4096, 8192, 16384),
    "history": (5, 10, 20, 40, 80, 160),
    "items": (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    "tags": (1, 2, 5, 10, 20, 40),
    "layers": (1, 2, 4, 8),
}


def main() -> None:
    """Measure the axes, draw, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the challenge's sizes and published widths")
    parser.add_argument("--axes", default=",".join(AXES), help="which axes, by comma")
    parser.add_argument("--max-items", type=int, default=10_000_000, help="largest vocabulary of `items`")
    parser.add_argument("--vocabulary-dim", type=int, default=16, help="embedding_dim of the axis `items`")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a point, after one that is not timed")
    parser.add_argument("--gpu", type=int, default=-1)
    parser.add_argument("--out", type=Path, help="where to draw: a .png or .svg file")
    options = parser.parse_args()
    axes = options.axes.split(",")
    if unknown := set(axes) - set(AXES):
        parser.error(f"--axes: {', '.join(sorted(unknown))} is none of {', '.join(AXES)}")
    if options.out and options.out.suffix not in (".png", ".svg"):
        parser.error(f"--out: {options.out} ends neither in .png nor in .svg")
    base, values = (FULL, FULL_VALUES) if options.full else (SMALL, SMALL_VALUES)
    curves = plan(base, values, axes, max_items=options.max_items, vocabulary_dim=options.vocabulary_dim)
    measured: dict[Point, dict[str, float] | str] = {}
    # The smallest first, so that a machine that stops a large one has shown the others.
    for point in sorted({base, *(p for points in curves.values() for p in points)}, key=Point.bytes):
        measured[point] = measure_apart(point, repeats=options.repeats, gpu=options.gpu, ceiling=point == base)
        print(f"{asdict(point)}: {measured[point]}", flush=True)
    figures = {point: result for point, result in measured.items() if isinstance(result, dict)}
    kept = {name: [p for p in points if p in figures] for name, points in curves.items()}
    found = {
        name: [{"value": value_of(name, p), **figures[p]} for p in points] for name, points in kept.items() if points
    }
    exponents = {
        name: {measure: exponent([(row["value"], row[measure]) for row in rows]) for measure in MEASURES}
        for name, rows in found.items()
    }
    if options.out:
        draw(found, exponents, options.out, title=describe(base, curves))
    report(base, curves, measured, found, exponents)


def plan(
    base: Point, values: Mapping[str, Sequence[int]], axes: Sequence[str], *, max_items: int, vocabulary_dim: int
) -> dict[str, list[Point]]:
    """The points of each curve; the axis `items` has one curve for each way of updating."""
    curves = {}
    for axis in axes:
        if axis == "items":
            sizes = [items for items in values["items"] if items <= max_items]
            for update in UPDATES:
                wide = replace(base, dim=vocabulary_dim, update=update)
                curves[f"items, {update}"] = [replace(wide, items=items) for items in sizes]
        else:
            curves[axis] = [Point(**{**asdict(base), axis: value}) for value in values[axis]]
    return curves


def value_of(curve: str, point: Point) -> int:
    """The size that grows along a curve."""
    return getattr(point, curve.split(",")[0])


def measure_apart(point: Point, *, repeats: int, gpu: int, ceiling: bool) -> dict[str, float] | str:
    """`measure_point` in its own process; a sentence where the memory does not hold it."""
    free = torch.cuda.mem_get_info(gpu)[0] if gpu >= 0 else psutil.virtual_memory().available
    if point.bytes() > 0.85 * free:
        return f"skipped: about {point.bytes() / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["_qin", "torch._dynamo"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure_point, point, repeats, gpu, ceiling).result()
    except BrokenProcessPool:
        return "skipped: the system ended its process, probably for its memory"


def measure_point(point: Point, repeats: int, gpu: int, ceiling: bool) -> dict[str, float]:
    """Seconds and memory of training steps, and the data loss of the first batch before and after them."""
    from _qin import challenge_batch, challenge_model, measure, product_rate, quadratic_flops

    from fuxictr_multimodal.system.machine import keep_freed_memory

    imported = peak_rss_mib()
    options = argparse.Namespace(
        batch_size=point.batch,
        items=point.items,
        embedding_dim=point.dim,
        num_row=4,
        mean_length=1.0,
        precision="float32",
        compile=False,
        gpu=gpu,
    )
    model = challenge_model(
        options,
        form="fast",
        tags_per_item=point.tags,
        pretrained_dim=point.dim,
        num_layers=point.layers,
        embedding_update=point.update,
    )
    batches = [challenge_batch(options, seed=seed, length=point.history).to(model.device) for seed in range(3)]
    keep_freed_memory()  # as a run does; what it took to make the tables has been given back
    model.train()
    restart_peak(model.device)
    before = data_loss(model, batches[0])
    torch.manual_seed(1)
    taken = measure(batches, model.train_step, repeats=repeats, warm_up=1)
    if model.device.type == "cuda":
        mib = torch.cuda.max_memory_allocated(model.device) / 2**20
    else:
        mib = peak_rss_mib() - imported
    found = {**taken, "mib": mib, "loss_before": before, "loss_after": data_loss(model, batches[0])}
    if ceiling:
        found["ceiling_s"] = quadratic_flops(model, rows=4, products=3) * point.batch / product_rate(model.device)
    return found


def data_loss(model: QIN, batch: Batch) -> float:
    """The loss without penalties, from the forward pass that training takes, dropout masks by a fixed seed."""
    torch.manual_seed(2)
    return model.add_loss(model(batch), model.get_labels(batch)).item()


def restart_peak(device: torch.device) -> None:
    """Forget the peak so far, where the system allows it; else it includes the making of model and item table."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def exponent(points: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Slope of log y over log x: `all` points by least squares, and the `last` two. None for less than two points.

    >>> exponent([(1, 3.0), (2, 6.0), (4, 24.0)])
    {'all': 1.5, 'last': 2.0}
    """
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points, dtype=float).T)
    slope = float(np.polyfit(x, y, 1)[0])
    return {"all": round(slope, 4), "last": round(float((y[-1] - y[-2]) / (x[-1] - x[-2])), 4)}


def describe(base: Point, curves: Mapping[str, Sequence[Point]]) -> str:
    """The fixed sizes, in one line."""
    text = "A training step of QIN. Base: " + ", ".join(f"{name} {asdict(base)[name]:,}" for name in (*AXES, "dim"))
    dims = {point.dim for points in curves.values() for point in points} - {base.dim}
    return text + "".join(f"; vocabulary axis: dim {dim}" for dim in sorted(dims))


def short(value: float) -> str:
    """A size for an axis.

    >>> short(512), short(30_000), short(10_000_000)
    ('512', '30k', '10M')
    """
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size and value % (size // 10) == 0:
            return f"{value / size:g}{letter}"
    return str(value)


def draw(
    found: Mapping[str, Sequence[Mapping[str, float]]], exponents: Mapping[str, Any], path: Path, *, title: str
) -> None:
    """One column an axis, seconds above memory, both in log-log, with the exponents beside the curves."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    from fuxictr_multimodal.system.files import replace_atomically

    axes = list(dict.fromkeys(name.split(",")[0] for name in found))
    figure = Figure(figsize=(3.3 * len(axes) + 0.4, 6.2), dpi=110, layout="constrained")
    panels = figure.subplots(len(MEASURES), len(axes), squeeze=False)
    figure.suptitle(title, fontsize=10)
    for column, axis in enumerate(axes):
        for row, (measure, label) in enumerate(MEASURES.items()):
            panel = panels[row][column]
            curves = [name for name in found if name.split(",")[0] == axis]
            for name, colour in zip(curves, ("#0b63c5", "#c4500a"), strict=False):
                x, y = zip(*((p["value"], p[measure]) for p in found[name]), strict=True)
                slope = exponents[name][measure]
                text = f"{slope['all']:.2f} (last two points {slope['last']:.2f})" if slope else "one point"
                if len(curves) > 1:
                    text = f"{name.split(', ')[1]}: {text}"
                panel.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=text)
            panel.set_xscale("log")
            panel.set_yscale("log")
            # Two decades at least: on less, noise would look like growth. Room for the legend above.
            low, high = (math.log10(limit) for limit in panel.get_ylim())
            spare = max(2 - (high - low), 0.3) / 2
            panel.set_ylim(10 ** (low - spare), 10 ** (high + spare + 0.2))
            values = sorted({p["value"] for name in curves for p in found[name]})
            panel.set_xticks(values, [short(value) for value in values], fontsize=8)
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.tick_params(axis="y", labelsize=8)
            panel.legend(frameon=False, fontsize=8, loc="upper left", title="exponent", title_fontsize=8)
            panel.grid(color="#e4e8ee")
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_xlabel(axis)
            if column == 0:
                panel.set_ylabel(label)
    # Without versions, dates and random ids: the same figures give the same bytes.
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "growth"}), replace_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)


def report(
    base: Point,
    curves: Mapping[str, Sequence[Point]],
    measured: Mapping[Point, dict[str, float] | str],
    found: Mapping[str, Any],
    exponents: Mapping[str, Any],
) -> None:
    """Print the result: rows per second at the base, and row-wise against dense at the largest vocabulary of both."""
    figures = {point: result for point, result in measured.items() if isinstance(result, dict)}
    assert base in figures, f"the base point failed: {measured[base]}"
    at_base = figures[base]
    both = [
        pair
        for pair in zip(*(curves.get(f"items, {update}", ()) for update in UPDATES), strict=True)
        if all(p in figures for p in pair)
    ]
    dense, rowwise = [figures[p] for p, _ in both], [figures[p] for _, p in both]
    before, after = (
        max((abs(a[when] - b[when]) for a, b in zip(dense, rowwise, strict=True)), default=0.0)
        for when in ("loss_before", "loss_after")
    )
    emit(
        name="growth",
        shapes={"base": asdict(base)} | {name: [value_of(name, p) for p in points] for name, points in curves.items()},
        rows_per_s=base.batch / at_base["s"],
        ceiling=base.batch / at_base["ceiling_s"],
        ceiling_is="products of the quadratic layers at the rate of a matrix product, at the base point",
        ratio_to_plain=dense[-1]["s"] / rowwise[-1]["s"] if both else None,
        plain_is=f"dense updates against row-wise ones, at {both[-1][0].items:,} items" if both else "not measured",
        check=f"data losses, dense against row-wise, differ by {before:.1e} before the steps and by {after:.1e} after "
        "them, as the two differ for rows outside a batch"
        if both
        else "none",
        exponents=exponents,
        points=found,
        skipped={str(asdict(point)): why for point, why in measured.items() if isinstance(why, str)},
        load_average=os.getloadavg()[0],
    )


if __name__ == "__main__":
    main()
