"""Predicted rows/s of QIN on 1 to 512 GPUs and up to 10^10 items, by a cost model, and the same model on this machine.

The model is `_scaling.py`. Constants of a GPU are those of its data sheet times the share that is assumed to be reached
(`--share`); `--flops` and the others take measured ones, such as those of `gpu_check.py`. With `--measured`, the output
of `distributed.py`, the rows/s of several processes that follow from its run of one, and from all-reduces measured now,
stand beside those that it measured.

    python benchmarks/distributed.py | tail -1 > distributed.json
    python benchmarks/scaling.py --measured distributed.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from _common import machine, median_seconds, rounded
from _scaling import DESIGNS, Machine, Model, all_reduced, content_bytes, devices_for, step, table_bytes

DEVICES = (1, 8, 64, 512)
ITEMS = (10**7, 10**8, 10**9, 10**10)
TABLE_WIDTH = 64
# Of NVIDIA's data sheet of the H200: TF32 products without sparsity, NVLink and a 400 Gb/s adapter in one direction.
H200 = {"flops": 494e12, "memory": 141e9, "near": 450e9, "far": 50e9, "per_node": 8}
LATENCY, OVERHEAD = (
    20e-6,
    4e-3,
)  # assumed: of a collective for each doubling, and of the launches of a step, without CUDA graphs
# `loader.py` on two cores of an EPYC, rows/s.
RESIDENT, STREAMING = 6.1e6, 4.5e6
PUBLISHED_BATCH = 8192
FILLED = 0.6  # of a device's memory, by tables; the rest is for activations and buffers
COLLECTIVES = 20  # of a step of QIN: four for each of four BatchNorm layers, and a few of gradients


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
    """Bytes of the tables by items and optimizer, and rows/s of a sharded table where it fits on so many devices.

    `with_content`: each device holds the pretrained vectors of all items beside its rows, as the item table does;
    `ids_alone`: items have no such vectors, or these lie elsewhere.
    """
    rows = []
    for items in ITEMS:
        content = content_bytes(items, Model().content_width)
        model = replace(Model(), items=items, width=TABLE_WIDTH)
        for optimizer in ("adam", "rowwise_adagrad"):
            table = table_bytes(items, TABLE_WIDTH, optimizer)
            row: dict[str, Any] = {"items": items, "optimizer": optimizer}
            row |= {"table_gb": table / 1e9, "content_gb": content / 1e9, "devices_for_table": devices_for(table, of)}
            for name, beside in (("with_content", content), ("ids_alone", 0.0)):
                row[name] = {
                    str(devices): step(of, model, rows=PUBLISHED_BATCH, devices=devices).rows_per_s
                    if table / devices + beside < FILLED * of.memory
                    else None
                    for devices in DEVICES
                }
            rows.append(row)
    return rows


def held_against(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What `distributed.py` measured, beside what follows from its run of one process and this machine's constants.

    Processes share the cores: one process a core computes as fast as one alone, and more are no faster together.
    """
    runs, cores = measured["processes"], measured["machine"]["cores"]
    alone, batch = runs["1"]["rows_per_s"], measured["shapes"]["batch_size"]
    rows = []
    for name, run in runs.items():
        if not name.isdecimal() or name == "1":
            continue
        processes = int(name)
        latency, rate = exchange_here(processes, run["parameters"])
        compute = batch / (alone * min(processes, cores))
        exchange = all_reduced(run["parameters"], processes) / rate + COLLECTIVES * latency
        rows.append(
            {
                "processes": processes,
                "rows_per_s": {"predicted": batch / (compute + exchange), "measured": run["rows_per_s"]},
                "exchange_s": {"predicted": exchange, "measured": run["exchange_seconds_a_step"]},
                "bytes_per_s": rate,
                "latency_s": latency,
            }
        )
    return rows


def exchange_here(processes: int, numbers: int) -> tuple[float, float]:
    """Seconds of the smallest all-reduce of so many processes on this machine, and bytes/s that each sends in one."""
    context, port = multiprocessing.get_context("spawn"), _free_port()
    results: Queue[tuple[float, float]] = context.Queue()
    ranks = [
        context.Process(target=_measure, args=(rank, processes, port, numbers, results)) for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=300) for _ in ranks]
    for rank in ranks:
        rank.join()
    latencies, rates = zip(*found, strict=True)
    return statistics.mean(latencies), statistics.mean(rates)


def _measure(rank: int, processes: int, port: int, numbers: int, results: Queue[tuple[float, float]]) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    small, large = (_all_reduce_seconds(size, repeats) for size, repeats in ((1, 50), (numbers, 20)))
    results.put((small, all_reduced(numbers, processes) / max(large - small, 1e-9)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _all_reduce_seconds(numbers: int, repeats: int) -> float:
    values = torch.zeros(numbers)
    return median_seconds(lambda: torch.distributed.all_reduce(values), repeats=repeats)


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
