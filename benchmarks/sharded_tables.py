"""A large table whose rows two processes hold, against the unsharded model in one: logits, losses, memory and bytes.

QIN reads a table of a million items of width 64 and trains 20 steps, in one process with the whole table, then in
several (gloo, this machine) with its rows spread over them by torchrec. Compared are the logits before the first step,
the loss of each step, and the logits after the last one:

* `adam`: row-wise Adam on both sides (`embedding_update: rowwise` is the unsharded one), with a penalty,
* `Adagrad`, `SGD`: torch's dense optimizer on one side, FBGEMM's fused one on the other, without a penalty, which is of
  the whole table on one side only.

A third side has a copy of the whole table in each process: what it differs by is the rounding of sums over processes,
which Adam and Adagrad enlarge where a gradient is nearly zero.

Dropout is off, since each process draws numbers of its own. The time of a step says little: all processes share the
cores of one machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from _common import emit, peak_rss_mib
from _qin import at_least_1
from fuxictr.features import FeatureMap
from torch import distributed

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.data.item_table import ItemTable
from fuxictr_multimodal.data.jagged import offsets_from_lengths
from fuxictr_multimodal.data.shares import own_share
from fuxictr_multimodal.system.ranks import current, sum_over_ranks
from fuxictr_multimodal.training.data_parallel import DataParallel
from fuxictr_multimodal.training.sharded.of_run import shard_tables
from fuxictr_multimodal.training.sharded.table import ShardedTable
from model_zoo.QIN import QIN

OPTIMIZERS = ("adam", "Adagrad", "SGD")
LEVELS, MAX_LEN = 11, 64
COMPARED = ("logits_before", "losses", "logits_after")
DENSE = ("dense_gradients_mib_a_step",)


def make_model(options: argparse.Namespace, optimizer: str, **more: Any) -> QIN:
    """QIN over an item id and a level; the same weights in every process."""
    torch.manual_seed(0)
    features = FeatureMap("benchmark", "")
    categorical = {"type": "categorical", "padding_idx": 0}
    features.features = OrderedDict(
        level={"source": "", "vocab_size": LEVELS, **categorical},
        item_id={"source": "item", "vocab_size": options.rows, **categorical},
    )
    features.labels = ["label"]
    model = QIN(
        features,
        optimizer=optimizer,
        learning_rate=1e-3,
        embedding_dim=options.width,
        embedding_regularizer=1e-5 if optimizer == "adam" else 0,
        num_row=1,
        num_layers=2,
        net_dropout=0,
        gpu=-1,
        verbose=0,
        **more,
    )
    model.attach(ItemTable({"item_id": torch.arange(options.rows, dtype=torch.int32)}))
    return model


def make_batch(options: argparse.Namespace, seed: int) -> Batch:
    """Random rows; items are Zipf-distributed, so that some are in every batch."""
    rng = np.random.default_rng(seed)
    rows = options.batch_size
    offsets = offsets_from_lengths(np.minimum(rng.geometric(1 / options.mean_length, rows), MAX_LEN))

    def items(count: int) -> torch.Tensor:
        popular = rng.zipf(1.2, count) % (options.rows - 1) + 1
        return torch.from_numpy(popular.astype(np.int32))

    return Batch(
        features={
            "level": torch.from_numpy(rng.integers(0, LEVELS, rows, dtype=np.int32)),
            "label": torch.from_numpy(rng.integers(0, 2, rows, dtype=np.uint8)),
        },
        target=items(rows),
        history=Jagged(items(int(offsets[-1])), torch.from_numpy(offsets)),
    )


def unsharded(options: argparse.Namespace, optimizer: str) -> dict[str, Any]:
    """One process with the whole table."""
    torch.set_num_threads(1)
    model = make_model(options, optimizer, **_rowwise(options, optimizer))
    return _train(options, model, lambda batch: float(model.train_step(batch)))


def one_of_several(
    options: argparse.Namespace, optimizer: str, rank: int, meeting: str, answers: Any, shard: bool
) -> None:
    """One of several processes, each with its rows of the table, or with all of them."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    exchanged = _count_exchanged()
    model = make_model(options, optimizer, **({} if shard else _rowwise(options, optimizer)))
    if shard:
        shard_tables(model, {"shard_min_rows": options.rows}, Path(meeting).with_suffix(".state"))
    parallel = DataParallel(model, sync_batch_norm=True)

    def step(batch: Batch) -> float:
        share = own_share(batch, range(len(batch)), current())
        loss = parallel.step(share, lambda: model.train_step(share))
        return float(sum_over_ranks(loss))

    found = _train(options, model, step)
    if shard:
        (table,) = model.sharded_tables.tables.values()
        found["table_mib"] = _mib(table.weight.nbytes + sum(value.nbytes for value in table.updates.state().values()))
    found["exchanged_mib_a_step"] = exchanged["bytes"] / (options.steps * 2**20)
    found["rows_a_step"] = exchanged["rows"] / options.steps
    found["dense_gradients_mib_a_step"] = parallel.exchange.cost.nbytes / (options.steps * 2**20)
    answers.put((rank, found))
    distributed.barrier()
    distributed.destroy_process_group()


def _rowwise(options: argparse.Namespace, optimizer: str) -> dict[str, Any]:
    return {"embedding_update": "rowwise", "rowwise_min_rows": options.rows} if optimizer == "adam" else {}


def _train(options: argparse.Namespace, model: QIN, step: Any) -> dict[str, Any]:
    probe = make_batch(options, 10**6)
    found: dict[str, Any] = {"logits_before": _logits(model, probe)}
    model.train()
    losses, seconds = [], []
    for seed in range(options.steps):
        batch = make_batch(options, seed)
        started = time.perf_counter()
        losses.append(step(batch))
        seconds.append(time.perf_counter() - started)
    found |= {"losses": losses, "step_s": statistics.median(seconds), "logits_after": _logits(model, probe)}
    return found | {"rss_mib": _mib(psutil.Process().memory_info().rss), "peak_rss_mib": peak_rss_mib()}


@torch.no_grad()
def _logits(model: QIN, batch: Batch) -> np.ndarray:
    model.eval()
    return model(batch)["logit"].numpy().ravel()


def _count_exchanged() -> dict[str, int]:
    """Count what this process sends and receives for its lookups in training: ids, their rows and their gradients."""
    counted = {"rows": 0, "bytes": 0}
    look_up = ShardedTable.look_up

    def counting(self: ShardedTable, ids_U: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            rows_U = self.scattered.rows_of(ids_U)
            others = (rows_U < self.first) | (rows_U >= self.first + len(self.weight))
            counted["rows"] += len(ids_U)
            counted["bytes"] += int(others.sum()) * (ids_U.element_size() + 2 * self.weight[:1].nbytes)
        return look_up(self, ids_U)

    ShardedTable.look_up = counting  # type: ignore[method-assign]
    return counted


def _mib(nbytes: int) -> float:
    return round(nbytes / 2**20, 1)


def _in_processes(options: argparse.Namespace, optimizer: str, *, shard: bool) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answers = context.Queue()
        arguments = [
            (options, optimizer, rank, f"{folder}/meeting", answers, shard) for rank in range(options.processes)
        ]
        processes = [context.Process(target=one_of_several, args=given) for given in arguments]
        for process in processes:
            process.start()
        found = dict(answers.get(timeout=600) for _ in processes)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(options.processes)]


def _alone(options: argparse.Namespace, optimizer: str) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(unsharded, (options, optimizer))


def compare(options: argparse.Namespace, optimizer: str) -> dict[str, Any]:
    """All sides of one optimizer, and how far they are apart."""
    one, ranks = _alone(options, optimizer), _in_processes(options, optimizer, shard=True)
    copies = _in_processes(options, optimizer, shard=False)
    result = {
        "first_loss": one["losses"][0],
        "last_loss": one["losses"][-1],
        "largest_difference": _apart(one, ranks),
        "largest_difference_of_copies": _apart(one, copies),
        "unsharded": {name: one[name] for name in ("step_s", "rss_mib", "peak_rss_mib")},
        "a_rank": {name: ranks[0][name] for name in ranks[0] if name not in COMPARED},
        "a_rank_with_a_copy": {name: copies[0][name] for name in ("step_s", "rss_mib", "peak_rss_mib", *DENSE)},
        "exchanged_mib_a_step_of_all": sum(rank["exchanged_mib_a_step"] for rank in ranks),
    }
    print(optimizer, result, flush=True)
    apart = _apart(one, ranks)
    assert apart["losses"] < options.tolerance, f"{optimizer}: sharded and unsharded differ by {apart}"
    assert apart["logits_before"] < options.tolerance, f"{optimizer}: sharded and unsharded differ by {apart}"
    return result


def _apart(one: dict[str, Any], ranks: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(max(np.abs(np.subtract(one[name], rank[name])).max() for rank in ranks)) for name in COMPARED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=at_least_1, default=1_000_000, help="rows of the table")
    parser.add_argument("--width", type=at_least_1, default=64)
    parser.add_argument("--processes", type=at_least_1, default=2)
    parser.add_argument("--batch-size", type=at_least_1, default=1024, help="samples of the global batch")
    parser.add_argument("--mean-length", type=float, default=9.6, help="mean length of a history of at most 64 items")
    parser.add_argument("--steps", type=at_least_1, default=20)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, help="largest difference of a loss, or of a first logit"
    )
    options = parser.parse_args()
    found = {optimizer: compare(options, optimizer) for optimizer in options.optimizers}
    first = found[options.optimizers[0]]
    sharded_rate, plain_rate = (options.batch_size / side["step_s"] for side in (first["a_rank"], first["unsharded"]))
    worst = {name: max(result["largest_difference"][name] for result in found.values()) for name in COMPARED}
    emit(
        name="sharded_tables",
        shapes={name: value for name, value in vars(options).items() if name not in ("optimizers", "tolerance")},
        rows_per_s=sharded_rate,
        ceiling=plain_rate,
        ceiling_is="the unsharded model in one process: on one machine the processes share its cores",
        ratio_to_plain=sharded_rate / plain_rate,
        plain_is="the unsharded model in one process",
        check="largest differences: " + ", ".join(f"{name} {value:.2g}" for name, value in worst.items()),
        optimizers=found,
    )


if __name__ == "__main__":
    main()
