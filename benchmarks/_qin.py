"""Rows, item table and model in the challenge's shape, and the peak rate of its arithmetic."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from _common import product_flops_per_s, seconds
from fuxictr.features import FeatureMap

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.system.machine import keep_freed_memory
from model_zoo.QIN import QIN
from model_zoo.QIN.precision import PRECISIONS, Precision
from model_zoo.QIN.products import linear
from model_zoo.QIN.quadratic import QuadraticNetwork

MEASURED = tuple(name for name in PRECISIONS if name != "auto")  # a figure names its precision
ITEMS, TAGS, TAGS_PER_ITEM, PRETRAINED_DIM, LEVELS, MAX_LEN = 91_718, 11_740, 5, 128, 11, 64


def at_least_1(text: str) -> int:
    """Argument type of a count that must be positive."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Options that the benchmarks of the model share; the defaults are the challenge and the published model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--mean-length", type=float, default=9.6, help="mean length of a history of at most 64 items")
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--num-row", type=int, default=4)
    parser.add_argument("--repeats", type=at_least_1, default=5, help="timed steps of the optimized implementation")
    parser.add_argument(
        "--plain-repeats", type=int, default=1, help="timed steps of the reference implementation; 0 skips it"
    )
    parser.add_argument("--precision", choices=MEASURED, default="float32", help="precision of the optimized products")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the optimized quadratic layers")
    parser.add_argument("--gpu", type=int, default=-1)
    keep_freed_memory()  # as every run does
    return parser


def challenge_features(
    options: argparse.Namespace, *, tags_per_item: int = TAGS_PER_ITEM, pretrained_dim: int = PRETRAINED_DIM
) -> FeatureMap:
    """The challenge's features."""
    features = FeatureMap("benchmark", "")
    features.default_emb_dim = options.embedding_dim
    level = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": LEVELS}
    features.features = OrderedDict(
        likes_level=level,
        views_level=dict(level),
        item_id={"source": "item", "type": "categorical", "padding_idx": 0, "vocab_size": options.items},
        item_tags={
            "source": "item",
            "type": "sequence",
            "feature_encoder": "layers.MaskedAveragePooling()",
            "padding_idx": 0,
            "vocab_size": TAGS,
            "max_len": tags_per_item,
        },
        item_emb_d128={"source": "item", "type": "embedding", "pretrain_dim": pretrained_dim},
    )
    features.labels = ["label"]
    return features


def challenge_model(
    options: argparse.Namespace,
    *,
    form: str,
    tags_per_item: int = TAGS_PER_ITEM,
    pretrained_dim: int = PRETRAINED_DIM,
    num_layers: int = 4,
    embedding_update: str = "dense",
) -> QIN:
    """QIN with published widths, and a table of random items of which 28 % of the tag slots are padding."""
    items = options.items
    torch.manual_seed(0)
    features = challenge_features(options, tags_per_item=tags_per_item, pretrained_dim=pretrained_dim)
    model = QIN(
        features,
        form=form,
        embedding_dim=options.embedding_dim,
        num_row=options.num_row,
        num_layers=num_layers,
        embedding_update=embedding_update,
        rowwise_min_rows=items,
        precision=options.precision if form == "fast" else "float32",
        compile=options.compile and form == "fast",
        gpu=options.gpu,
        verbose=0,
    )
    rng = np.random.default_rng(1)
    tags = rng.integers(1, TAGS, (items, tags_per_item))
    tags[rng.random((items, tags_per_item)) < 0.28] = 0
    vectors = rng.standard_normal((items, pretrained_dim), dtype=np.float32)
    tags[0], vectors[0] = 0, 0
    table = {
        "item_id": torch.arange(items),
        "item_tags": torch.from_numpy(tags),
        "item_emb_d128": torch.from_numpy(vectors),
    }
    table = {name: value.int() if value.dtype == torch.int64 else value for name, value in table.items()}
    model.attach(ItemTable(table))
    return model


def challenge_batch(options: argparse.Namespace, *, seed: int, length: int | None = None) -> Batch:
    """Random rows; lengths are geometric, cut to 64, so at a mean of 9.6 about 85 % of padded slots are padding.

    With `length`, every history has that many items.
    """
    rng = np.random.default_rng(seed)
    rows, items = options.batch_size, options.items
    lengths = np.minimum(rng.geometric(1 / options.mean_length, rows), MAX_LEN)
    if length is not None:
        lengths = np.full(rows, length)
    offsets = offsets_from_lengths(lengths)

    def ids(low: int, high: int, count: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(low, high, count, dtype=np.int32))

    return Batch(
        features={
            "likes_level": ids(0, LEVELS, rows),
            "views_level": ids(0, LEVELS, rows),
            "label": torch.from_numpy(rng.integers(0, 2, rows, dtype=np.uint8)),
        },
        target=ids(1, items, rows),
        history=Jagged(ids(1, items, int(offsets[-1])), torch.from_numpy(offsets)),
    )


def product_rate(device: torch.device, precision: str = "float32") -> float:
    """Measured operations per second of a matrix product on the device, in a precision of the model."""
    if device.type == "cpu" and precision != "bf16":
        return max(cpu_product_rates().values())
    width = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with Precision(precision, device).step():
        return 2 * width**3 / min(seconds(product, repeats=10, warm_up=3))


def cpu_product_rates(clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Measured operations per second of float32 products: of `torch.mm`, and of the products of the model."""
    with torch.no_grad():
        return {
            name: product_flops_per_s(product=product, clock=clock)
            for name, product in (("torch.mm", torch.mm), ("model", linear))
        }


def fractions_of_products(flops: float, taken: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    """What `flops` in the processor seconds `taken["cpu_s"]` are of each rate per processor second."""
    return {name: flops / taken["cpu_s"] / rate for name, rate in rates.items()}


def quadratic_flops(model: QIN, *, rows: int, products: int) -> int:
    """Operations per row of the quadratic layers with `rows` maps per layer and `products` products a map."""
    network = model.qnn
    assert isinstance(network, QuadraticNetwork), "the benchmarks measure the published interaction"
    return 2 * products * rows * network.fc.in_features**2 * len(network.layer)


def measure(
    batches: list[Batch], function: Callable[[Batch], object], *, repeats: int, warm_up: int = 0
) -> dict[str, float]:
    """Median wall-clock and processor seconds of a call, cycling through the batches.

    With other work on the machine, processor seconds of one thread still compare two implementations.
    """
    stream = itertools.cycle(batches)
    clock, processor = [], []
    for index in range(warm_up + repeats):
        batch = next(stream)
        started = time.perf_counter(), time.process_time()
        function(batch)
        if batch.target.device.type == "cuda":
            torch.cuda.synchronize(batch.target.device)
        if index >= warm_up:
            clock.append(time.perf_counter() - started[0])
            processor.append(time.process_time() - started[1])
    return {"s": statistics.median(clock), "cpu_s": statistics.median(processor)}


def shapes(options: argparse.Namespace, batch: Batch) -> dict[str, object]:
    """What was measured, for the result."""
    return {
        "batch_size": options.batch_size,
        "items": options.items,
        "history": MAX_LEN,
        "mean_length": len(batch.history.values) / len(batch),
        "embedding_dim": options.embedding_dim,
        "num_row": options.num_row,
        "num_layers": 4,
        "precision": options.precision,
        "compile": options.compile,
    }
