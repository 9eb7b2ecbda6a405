"""Predicted rows/s of QIN on 1 to 512 GPUs and up to 10^10 items, by a cost model, and the same model on this machine.

The model is `_scaling.py`. Constants of a GPU are those of its data sheet times the share that is assumed to be reached
(`--share`); `--flops` and the others take measured ones, such as those of `gpu_check.py`. Those of this machine are
measured: products and loopback all-reduces of 1, 2 and 4 processes. With `--measured`, the output of `distributed.py`,
predictions stand beside what it measured.

    python benchmarks/distributed.py | tail -1 > distributed.json
    python benchmarks/scaling.py --measured distributed.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from _common import machine, product_flops_per_s, rounded, seconds
from _scaling import DESIGNS, Machine, Model, content_bytes, devices_for, step, table_bytes

DEVICES = (1, 8, 64, 512)
ITEMS = (10**7, 10**8, 10**9, 10**10)
TABLE_WIDTH = 64
# Of NVIDIA's data sheet of the H200: TF32 products without sparsity, NVLink and a 400 Gb/s adapter in one direction.
H200 = {"flops": 494e12, "memory": 141e9, "near": 450e9, "far": 50e9, "per_node": 8}
LATENCY, OVERHEAD = (
    20e-6,
    4e-3,
)  # assumed: of a collective for each doubling, and of the launches of a step, without CUDA graphs
# `loader.py` on two cores of an EPYC.
RESIDENT, STREAMING = 6.1e6, 4.5e6
PUBLISHED_BATCH = 8192


def gpu(options: argparse.Namespace) -> Machine:
    """The assumed machine of the predictions."""
    return Machine(
        flops_per_s=options.flops * options.share,
        memory=options.memory,
        near_bytes_per_s=options.near * 0.8,
        far_bytes_per_s=options.far * 0.8,
        per_node=options.per_node,
        latency=LATENCY,
        overhead=options.overhead,
        resident_rows_per_s=RESIDENT,
        streaming_rows_per_s=STREAMING,
    )


def predictions(of: Machine) -> list[dict[str, Any]]:
    """Rows/s of the published model by devices, batch, design of the table and way of loading."""
    rows = []
    for devices in DEVICES:
        for batch, size in (("8192 a device", PUBLISHED_BATCH), ("8192 in all", PUBLISHED_BATCH / devices)):
            for design in DESIGNS:
                for streaming in (False, True):
                    took = step(of, Model(), rows=size, devices=devices, design=design, streaming=streaming)
                    rows.append(
                        {
                            "devices": devices,
                            "batch": batch,
                            "table": design,
                            "loader": "streaming" if streaming else "resident",
                            "rows_per_s": took.rows_per_s,
                            "epoch_s": 3.6e6 / took.rows_per_s,
                            "bottleneck": took.bottleneck,
                            "ms": {part: 1e3 * getattr(took, part) for part in ("compute", "load", "exchange")},
                            "mb_sent": took.bytes_sent / 1e6,
                        }
                    )
    return rows


def sizes(of: Machine) -> list[dict[str, Any]]:
    """Bytes of the tables by items and optimizer, the devices that hold them, and rows/s where they are sharded."""
    rows = []
    for items in ITEMS:
        content = content_bytes(items, Model().content_width)
        for optimizer in ("adam", "rowwise_adagrad"):
            table = table_bytes(items, TABLE_WIDTH, optimizer)
            least = devices_for(table, of)
            model = replace(Model(), items=items, width=TABLE_WIDTH)
            rows.append(
                {
                    "items": items,
                    "optimizer": optimizer,
                    "table_gb": table / 1e9,
                    "content_gb": content / 1e9,
                    "devices_for_table": least,
                    "content_fits_a_device": content < 0.3 * of.memory,
                    "rows_per_s": step(of, model, rows=PUBLISHED_BATCH, devices=least).rows_per_s,
                }
            )
    return rows


def measured_here(processes: int, weights: int) -> Machine:
    """Constants of so many processes on this machine, each with one thread, measured at the same time."""
    context, port = multiprocessing.get_context("spawn"), _free_port()
    results: Queue[dict[str, float]] = context.Queue()
    ranks = [
        context.Process(target=_measure, args=(rank, processes, port, weights, results)) for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=300) for _ in ranks]
    for rank in ranks:
        rank.join()
    mean: Callable[[str], float] = lambda name: statistics.mean(one[name] for one in found)  # noqa: E731
    return Machine(
        flops_per_s=mean("flops_per_s"),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes,
        near_bytes_per_s=mean("bytes_per_s"),
        far_bytes_per_s=mean("bytes_per_s"),
        per_node=processes,
        latency=mean("latency") / max((processes - 1).bit_length(), 1),
        overhead=0.0,
        resident_rows_per_s=RESIDENT / 2,
        streaming_rows_per_s=STREAMING / 2,
    )


def _measure(rank: int, processes: int, port: int, weights: int, results: Queue[dict[str, float]]) -> None:
    torch.set_num_threads(1)
    found = {"flops_per_s": product_flops_per_s(1024), "bytes_per_s": float("inf"), "latency": 0.0}
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes
        )
        large, small = torch.zeros(weights), torch.zeros(1)
        taken = [
            statistics.median(seconds(lambda of=of: torch.distributed.all_reduce(of), repeats=repeats, warm_up=1))
            for of, repeats in ((small, 50), (large, 5))
        ]
        sent = 2 * (processes - 1) / processes * large.nbytes
        found |= {"latency": taken[0], "bytes_per_s": sent / max(taken[1] - taken[0], 1e-9)}
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    results.put(found)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main() -> None:
    """Print predictions as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops", type=float, default=H200["flops"], help="operations/s of a device (H200, TF32)")
    parser.add_argument("--share", type=float, default=0.5, help="share of --flops that is reached (default: 0.5)")
    parser.add_argument("--memory", type=float, default=H200["memory"], help="bytes of a device")
    parser.add_argument("--near", type=float, default=H200["near"], help="bytes/s to devices of the node")
    parser.add_argument("--far", type=float, default=H200["far"], help="bytes/s to other nodes, for each device")
    parser.add_argument("--per-node", type=int, default=H200["per_node"], help="devices of a node")
    parser.add_argument("--overhead", type=float, default=OVERHEAD, help="seconds of a step without rows")
    parser.add_argument("--measured", type=Path, help="JSON object that distributed.py printed")
    options = parser.parse_args()
    of = gpu(options)
    result: dict[str, Any] = {
        "name": "scaling",
        "machine": machine(),
        "assumed": {"share": options.share, "latency": LATENCY, "overhead": options.overhead, "links": 0.8},
        "rows_per_s": predictions(of),
        "tables": sizes(of),
    }
    if options.measured:
        measured = json.loads(options.measured.read_text(encoding="utf-8").splitlines()[-1])
        result["held_against"] = held_against(measured)
    print(json.dumps(rounded(result), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
