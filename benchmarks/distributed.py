"""One run trained by several processes: same trace as one, rows per second, balance, and what the exchange costs.

Each number of processes is a `torchrun` of its own on synthetic rows; with --nodes 2 also one on two nodes, which are
network namespaces of this machine with a cable between them (needs root and `ip`). Dropout is off, since each process
draws from a stream of its own; a ReLU whose input is near 0 may still show rounding in the trace as 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import emit

ROOT = Path(__file__).resolve().parent.parent
NODES = ("fxmm-node-0", "fxmm-node-1")
ADDRESSES = ("10.213.77.1", "10.213.77.2")
WARM_UP = 3  # steps that are not timed


def main() -> None:
    """Run the script."""
    options = _options()
    if options.child is not None:
        _child(options)
        return
    with tempfile.TemporaryDirectory(prefix="distributed-") as folder:
        found = {}
        for count in options.processes:
            found[str(count)] = _launched(options, Path(folder), count, ["--standalone", f"--nproc-per-node={count}"])
        if options.nodes == 2:
            if (problem := _no_nodes()) is None:
                found["2 nodes"] = _on_two_nodes(options, Path(folder))
            else:
                print(f"--nodes 2 is skipped: {problem}", file=sys.stderr)
    _report(options, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes; the first is 1"
    )
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1, help="2: also two nodes of one process each")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows")
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=1024, help="of all processes together")
    parser.add_argument("--embedding-dim", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--expid", default="QIN_test")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _arguments(options: argparse.Namespace, folder: Path, result: Path) -> list[str]:
    sizes = {name: getattr(options, name) for name in ("rows", "items", "batch_size", "embedding_dim", "epochs")}
    settings = [f"data_root={folder / 'data'}", f"model_root={folder / 'checkpoints'}", *options.overrides]
    return [
        str(Path(__file__).resolve()),
        *(f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()),
        f"--expid={options.expid}",
        *(f"--set={setting}" for setting in settings),
        f"--child={result}",
    ]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **more}


def _launched(options: argparse.Namespace, folder: Path, count: int, torchrun: Sequence[str]) -> dict[str, Any]:
    """What the processes of one torchrun have found."""
    result = folder / f"{count}.json"
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *_arguments(options, folder, result)]
    if count == 1:
        command = [sys.executable, *_arguments(options, folder, result)]
    subprocess.run(command, env=_environment(), check=True, stdout=sys.stderr)
    return json.loads(result.read_text())


def _child(options: argparse.Namespace) -> None:
    """Train as one of the processes; rank 0 writes what they have found."""
    import torch
    from fuxictr.pytorch.torch_utils import seed_everything

    from fuxictr_multimodal.data import loader, shares
    from fuxictr_multimodal.system import ranks
    from fuxictr_multimodal.training.experiment import Experiment
    from fuxictr_multimodal.training.trainer import Trainer

    settings = [
        f"synthetic.rows={options.rows}", f"synthetic.items={options.items}", f"batch_size={options.batch_size}",
        f"embedding_dim={options.embedding_dim}", f"epochs={options.epochs}", "net_dropout=0", "verbose=0",
    ]  # fmt: skip
    if options.expid.startswith("DIN"):
        settings.append("dataset_id=Synthetic_test")
    experiment = Experiment.load(ROOT / "config", options.expid, overrides=[*settings, *options.overrides])
    with ranks.joined() as here:
        seed_everything(seed=experiment.params["seed"])
        feature_map = experiment.feature_map()
        model, to_inputs = experiment.build_model(feature_map)
        averaging = experiment.params.get("weight_averaging") or 0.0
        trainer = Trainer(model, to_inputs=to_inputs, epochs=options.epochs, weight_averaging=averaging)
        train, valid = experiment.loaders("train", feature_map, model.device)
        rows: list[np.ndarray] = []
        balance: list[tuple[float, float]] = []
        own_share = loader.own_share

        def recorded(pool: Any, picks: Any, who: Any, *, least: int = 1) -> Any:
            share = own_share(pool, picks, who, least=least)
            lengths = shares.lengths_of(pool, picks)
            dealt = shares.deal(lengths, who.world_size, least=least)
            rows.append(np.asarray(picks)[dealt[who.rank]])
            in_order = np.array_split(np.arange(len(lengths)), who.world_size)
            balance.append((shares.imbalance(dealt, lengths), shares.imbalance(in_order, lengths)))
            return share

        loader.own_share = recorded  # type: ignore[assignment]
        losses: list[torch.Tensor] = []
        times: list[float] = []
        step = trainer._train_step

        def traced(batch: Any) -> torch.Tensor:
            loss = step(batch)
            losses.append(loss.detach().double())
            times.append(time.perf_counter())
            return loss

        trainer._train_step = traced  # type: ignore[method-assign]
        trainer.fit(train, valid)
        trace = ranks.sum_over_ranks(torch.stack(losses)).tolist()
        metrics = trainer.evaluate(valid)
        seen = ranks.all_of(np.concatenate(rows).tolist() if rows else [])
        cost = None if trainer.parallel is None else trainer.parallel.exchange.cost
        if not here.first:
            return
        steps = len(times) - WARM_UP
        seconds = (times[-1] - times[WARM_UP - 1]) / steps
        once = sorted(row for part in seen for row in part) == sorted(list(range(options.rows)) * options.epochs)
        found = {
            "losses": trace,
            "auc": metrics["AUC"],
            "rows_per_s": options.batch_size / seconds,
            "parameters": sum(weight.numel() for weight in model.parameters()),
        }
        if cost is not None:
            found |= {
                "every_row_once": once,
                "imbalance": float(np.mean([dealt for dealt, _ in balance])),
                "imbalance_undealt": float(np.mean([undealt for _, undealt in balance])),
                "exchanged_bytes_a_step": cost.nbytes / cost.exchanges,
                "exchange_seconds_a_step": cost.seconds / cost.exchanges,
                "exchange_share": cost.seconds / cost.exchanges / seconds,
            }
        options.child.write_text(json.dumps(found))


def _no_nodes() -> str | None:
    """Why two nodes cannot be made here; None if they can."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        return "network namespaces need Linux and the command ip"
    if os.geteuid() != 0:
        return "network namespaces need root"
    done = subprocess.run(["ip", "netns", "add", NODES[0]], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"ip netns add: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", NODES[0]], check=True)
    return None


def _on_two_nodes(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Two torchruns of one process each that meet over a pair of virtual network cards."""
    result = folder / "nodes.json"
    processes = []
    try:
        for node in NODES:
            subprocess.run(["ip", "netns", "add", node], check=True)
        ends = [f"fxmm{place}" for place in range(2)]
        pair = ["ip", "link", "add", ends[0], "netns", NODES[0], "type", "veth", "peer", "name", ends[1]]
        subprocess.run([*pair, "netns", NODES[1]], check=True)
        for node, end, address in zip(NODES, ends, ADDRESSES, strict=True):
            within = ["ip", "-n", node]
            subprocess.run([*within, "addr", "add", f"{address}/24", "dev", end], check=True)
            subprocess.run([*within, "link", "set", end, "up"], check=True)
            subprocess.run([*within, "link", "set", "lo", "up"], check=True)
        for place, (node, end, address) in enumerate(zip(NODES, ends, ADDRESSES, strict=True)):
            meeting = [f"--master-addr={ADDRESSES[0]}", "--master-port=29511", f"--local-addr={address}"]
            torchrun = ["--nnodes=2", f"--node-rank={place}", "--nproc-per-node=1", *meeting]
            command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *_arguments(options, folder, result)]
            environment = _environment(GLOO_SOCKET_IFNAME=end, TP_SOCKET_IFNAME=end)
            processes.append(
                subprocess.Popen(["ip", "netns", "exec", node, *command], env=environment, stdout=sys.stderr)
            )
        ended = [process.wait() for process in processes]
        if any(ended):
            raise SystemExit("the two nodes failed: see above")
    finally:
        for process in processes:
            process.kill()
        for node in NODES:
            subprocess.run(["ip", "netns", "delete", node], check=False)
    return json.loads(result.read_text())


def _report(options: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    one = found["1"]
    trace = np.array(one.pop("losses"))
    for name, result in found.items():
        result["efficiency"] = result["rows_per_s"] / one["rows_per_s"] / (2 if name == "2 nodes" else int(name))
        if name != "1":
            difference = np.abs(np.array(result.pop("losses")) - trace) / np.abs(trace)
            result["trace_difference"] = float(difference.max())
            result["auc_difference"] = result["auc"] - one["auc"]
    several = {name: result for name, result in found.items() if name != "1"}
    name, largest = max(several.items(), key=lambda item: (item[0] != "2 nodes", item[0]))
    cores = os.cpu_count() or 1
    parallel = min(int(name.split()[0]), cores)
    share = largest["exchange_share"]
    emit(
        name="distributed",
        shapes={key: getattr(options, key) for key in ("rows", "items", "batch_size", "embedding_dim", "epochs")},
        rows_per_s=largest["rows_per_s"],
        ceiling=one["rows_per_s"] * parallel,
        ceiling_is=f"one process times {parallel}, the lesser of processes and cores",
        ratio_to_plain=largest["rows_per_s"] / one["rows_per_s"],
        plain_is="one process with the same global batch",
        check="the loss of every step, AUC, and every row once an epoch; see trace_difference and the like",
        steps=len(trace),
        processes=found,
        bottleneck=f"{share:.0%} of a step of {name} processes is spent on the exchange of gradients, waits for slower "
        f"processes included, on {cores} cores",
    )


if __name__ == "__main__":
    main()
