"""Latency of ranking for one user with 64 history items: the trained model, folded, exported, quantised, and over HTTP.

Of each size a QIN is trained for an epoch on synthetic data with as many items, or `--expid` names a trained run of any
model. Then one request after the other is ranked, on 1 and on 2 threads, by:

- `reference`: the reference implementation of QIN, one padded history for each candidate;
- `optimized`: its optimized implementation, or the model of the zoo, on the same samples;
- `graph`: the graph that is exported, folded where the model is a QIN, in PyTorch, given gathered item vectors;
- `onnx`, `onnx_int8`, `torch`: `Ranker.rank` on exported folders, ids in and ids out (ONNX Runtime in float32 and with
  int8 products, AOTInductor), each in a process that does nothing else.

The peak is the arithmetic of the graph's products at the rate of ONNX Runtime's own products, measured in the same run.
`cold_start` starts an interpreter that can import neither FuxiCTR nor this project, until its first score.
`http` posts to `fxmm serve` on loopback from concurrent clients.

    python benchmarks/serve.py
    python benchmarks/serve.py --config config --expid QIN_Shop --http-seconds 0
    python benchmarks/serve.py --sizes movielens --candidates 10 100 --seconds 0.2 --http-seconds 1
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import copy_bytes_per_s, emit
from _serving import HISTORY, SIZES, Run, batch_of, latencies, onnx_product_rates, request_of, trained_on_synthetic
from _serving_processes import cold_start, http_load, ranked_alone, served_scores
from fuxictr.pytorch.models import BaseModel
from torch.utils.flop_counter import FlopCounterMode

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.serving.servables import servable_of
from fuxictr_multimodal.zoo.servable import CANDIDATES, REQUESTS, Servable

PEAK_ROWS, PEAK_WIDTH = 1000, 1024
EXPORTS: dict[str, dict[str, Any]] = {
    "onnx": {"engine": "onnx"},
    # The limit is for users; here the change is a result.
    "onnx_int8": {"engine": "onnx", "quantise": "int8", "auc_limit": 1.0},
    "torch": {"engine": "torch"},
}


def main() -> None:
    """Train, export, measure, print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--config", type=Path, help="folder of the configs, with --expid")
    parser.add_argument("--expid", help="a trained run in place of the sizes")
    parser.add_argument("--run", help="name of its run, where it is not the expid")
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--exports", nargs="+", choices=[*EXPORTS], default=[*EXPORTS])
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement, at most 500 calls")
    parser.add_argument("--reference-up-to", type=int, default=1000, help="candidates that the reference is given")
    parser.add_argument("--rows", type=int, default=20000, help="training samples of a size")
    parser.add_argument("--checked-rows", type=int, default=10000, help="valid samples whose scores are compared")
    parser.add_argument("--http-seconds", type=float, default=30, help="of load over HTTP, 0 for none")
    parser.add_argument("--http-clients", type=int, default=8)
    parser.add_argument("--http-candidates", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="keep trained runs and exports here, and take those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        report(options, work.resolve())


def report(options: argparse.Namespace, work: Path) -> None:
    """Measure every size in `work`, and print the result."""
    found = {}
    for name in ["run"] if options.expid else options.sizes:
        if options.expid:
            run = Run(options.config or Path("config"), options.expid, options.run)
        else:
            run = trained_on_synthetic(name, work, rows=options.rows, valid_rows=options.checked_rows)
        found[name] = of_run(run, work / f"exports_{name}", options)
    first = next(iter(found.values()))
    candidates = str(1000 if 1000 in options.candidates else options.candidates[-1])
    most = str(max(options.threads))
    latency = first["latency"][most][candidates]
    emit(
        name="serve",
        shapes={"history": 64, "candidates": options.candidates, "threads": options.threads},
        rows_per_s=int(candidates) / latency["onnx"]["p50_ms"] * 1e3,
        ceiling=first["peak"][most]["float32"] / first["flops_per_candidate"],
        ceiling_is=f"{first['flops_per_candidate'] / 1e6:.2f} MFLOP a candidate of the graph's products at the rate of "
        f"ONNX Runtime's own float32 products, {first['peak'][most]['float32'] / 1e9:.0f} GFLOP/s",
        ratio_to_plain=latency["reference"]["p50_ms"] / latency["onnx"]["p50_ms"] if "reference" in latency else None,
        plain_is=f"form=plain on {candidates} samples of the same user, {most} threads",
        check="scores of each export against the trained model on valid samples: see `checks`",
        sizes=found,
        copy_bytes_per_s=copy_bytes_per_s(),
        load_average=os.getloadavg()[0],
    )


def of_run(run: Run, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one trained run; exports go below `work`."""
    experiment, model, to_inputs = run.load()
    folders, export_s = {}, {}
    for name in options.exports:
        folders[name], export_s[name] = run.export(work / name, **EXPORTS[name])
        print(f"exported {name} in {export_s[name]:.0f} s", flush=True)
    servable = servable_of(experiment, model, model.feature_map)
    forms = {"reference": "plain", "optimized": "fast"} if hasattr(model, "fold") else {"optimized": None}
    found: dict[str, Any] = {
        "expid": run.expid,
        "items": experiment.store.manifest.items,
        "flops_per_candidate": flops_per_candidate(servable),
        "export_s": export_s,
        "folder_mib": {name: folder_mib(folder) for name, folder in folders.items()},
        "checks": {
            name: json.loads((f / "model.json").read_text(encoding="utf-8"))["checks"] for name, f in folders.items()
        },
        "peak": {str(n): onnx_product_rates(PEAK_WIDTH, PEAK_ROWS, n) for n in options.threads},
        "latency": {},
        "peak_rss_mib": {},
    }
    for threads in options.threads:
        torch.set_num_threads(threads)
        at: dict[str, dict[str, Any]] = {str(candidates): {} for candidates in options.candidates}
        for candidates in options.candidates:
            calls: dict[str, Callable[[], object]] = {}
            batch = batch_of(experiment, candidates)
            for name, form in forms.items():
                if name != "reference" or candidates <= options.reference_up_to:
                    calls[name] = scoring(model, to_inputs, batch, form)
            calls["graph"] = in_torch(servable, candidates)
            at[str(candidates)] = {
                name: latencies(call, seconds=options.seconds, most=500) for name, call in calls.items()
            }
        for name, folder in folders.items():
            alone, rss = ranked_alone(folder, threads, options.candidates, options.seconds)
            found["peak_rss_mib"][name] = rss
            for candidates, taken in alone.items():
                at[str(candidates)][name] = taken
        found["latency"][str(threads)] = at
        print(f"{threads} threads: {at}", flush=True)
    found["cold_start"] = {name: cold_start(folder) for name, folder in folders.items()}
    if options.http_seconds:
        served = next(iter(folders.values()))
        found["http"] = http_load(
            served,
            [request_of(served, options.http_candidates, seed=seed) for seed in range(50)],
            seconds=options.http_seconds,
            clients=options.http_clients,
            threads=max(options.threads),
        )
        found["served"] = check_served(run, served, options.checked_rows)
    return found


def flops_per_candidate(servable: Servable, candidates: int = 1000) -> float:
    """Operations of the graph's products a candidate, in a request of so many, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        servable.graph(*graph_inputs(servable, candidates))
    return counter.get_total_flops() / candidates


def scoring(
    model: BaseModel, to_inputs: Callable[[Batch], Any], batch: Batch, form: str | None
) -> Callable[[], object]:
    """Scoring of a batch by the trained model, by one of its implementations where it has several."""

    def call() -> object:
        if form is not None:
            model.form = form
        with torch.inference_mode():
            return model(to_inputs(batch))["y_pred"]

    return call


def in_torch(servable: Servable, candidates: int) -> Callable[[], object]:
    """The graph on made-up tensors of one request."""
    tensors = graph_inputs(servable, candidates)

    def call() -> object:
        with torch.inference_mode():
            return servable.graph(*tensors)

    return call


def graph_inputs(servable: Servable, candidates: int) -> list[torch.Tensor]:
    """Random vectors and codes of one request with full histories."""
    sizes = {REQUESTS: 1, CANDIDATES: candidates}
    tensors = []
    for given in servable.inputs:
        shape = [sizes.get(dim, HISTORY) if isinstance(dim, str) else dim for dim in given.dims]
        if given.dtype == "float32":
            tensors.append(torch.randn(shape) * 0.1)
        else:
            tensors.append(torch.ones(shape, dtype=getattr(torch, given.dtype)))
    return tensors


def check_served(run: Run, folder: Path, rows: int) -> dict[str, Any]:
    """Scores over HTTP against the trained model's own, on valid samples."""
    experiment, model, to_inputs = run.load()
    expected, labels, requests = [], [], []
    loader = experiment.split_loader("valid", experiment.feature_map(), model.device)
    context = [e["name"] for e in json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))["context"]]
    with torch.inference_mode():
        for batch in loader:
            expected.append(model(to_inputs(batch))["y_pred"].view(-1).numpy())
            labels.append(batch.features[model.feature_map.labels[0]].numpy())
            requests += requests_of(batch, context)
            if len(requests) >= rows:
                break
    wanted, label = np.concatenate(expected)[:rows], np.concatenate(labels)[:rows]
    scores = served_scores(folder, requests[:rows])
    return {
        "rows": len(scores),
        "largest_difference": float(np.abs(scores - wanted).max()),
        "auc_difference": float(auc(label, scores) - auc(label, wanted)),
    }


def requests_of(batch: Batch, context: list[str]) -> list[dict[str, Any]]:
    """Each sample of a batch as the body of a request; ids are rows of the item table."""
    columns = {name: batch.features[name].tolist() for name in context}
    offsets, values, targets = batch.history.offsets.tolist(), batch.history.values.tolist(), batch.target.tolist()
    return [
        {
            "context": {name: column[row] for name, column in columns.items()},
            "history": values[offsets[row] : offsets[row + 1]],
            "candidates": [targets[row]],
        }
        for row in range(len(targets))
    ]


def folder_mib(folder: Path) -> float:
    """Size of an exported folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


if __name__ == "__main__":
    main()
