"""What the benchmarks of serving share: a trained run of a published size, its exports, requests, and latencies."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import yaml
from fuxictr.pytorch.models import BaseModel
from onnx import TensorProto, helper, numpy_helper

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.serving.export import Options, export
from fuxictr_multimodal.serving.runtime import Request
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.runner import run_experiment
from fuxictr_multimodal.training.trained import load_trained

ROOT = Path(__file__).resolve().parents[1]
HISTORY = 64
# What a size changes of the published configuration, and the items of its catalogue.
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "published": ({"embedding_dim": 128, "num_layers": 4}, 91_717),
    "movielens": ({"embedding_dim": 16, "num_layers": 2, "batch_norm": False}, 3_883),
}


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        config: folder of the configs.
        expid: the experiment.
        name: of the run, where it is not the expid.
    """

    config: Path
    expid: str
    name: str | None = None

    def load(self) -> tuple[Experiment, BaseModel, Callable[[Batch], Any]]:
        """The experiment, its model in eval mode with the trained weights, and what turns a batch into its input."""
        experiment = Experiment.load(self.config, self.expid, name=self.name)
        model, to_inputs = experiment.build_model(experiment.feature_map())
        load_trained(experiment, model)
        return experiment, model.eval(), to_inputs

    def export(self, out: Path, **options: Any) -> tuple[Path, float]:
        """Export it; the folder, and the seconds that it took."""
        started = time.perf_counter()
        export(
            config_dir=self.config,
            expid=self.expid,
            name=self.name,
            out=out,
            options=Options(**options),
            overwrite=True,
        )
        return out, time.perf_counter() - started


def trained_on_synthetic(size: str, folder: Path, *, rows: int, valid_rows: int) -> Run:
    """Train QIN of a size for one epoch on synthetic data, in `folder`; a finished run is taken as it is."""
    config, expid = folder / "config", f"Serve_{size}"
    shutil.copytree(ROOT / "config", config, dirs_exist_ok=True)
    options, items = SIZES[size]
    entry = yaml.safe_load((config / "dataset_config/synthetic.yaml").read_text(encoding="utf-8"))["Synthetic_demo"]
    entry |= {"synthetic": {"rows": rows, "valid_rows": valid_rows, "test_rows": 1000, "items": items, "seed": 1}}
    entry |= {"data_root": str(folder / "data")}
    entry |= {f"{split}_data": str(folder / f"data/{expid}/{split}.h5") for split in ("train", "valid", "test")}
    (config / f"dataset_config/{expid}.yaml").write_text(yaml.safe_dump({expid: entry}), encoding="utf-8")
    experiment = {
        "model": "QIN",
        "dataset_id": expid,
        "model_root": str(folder / "checkpoints"),
        "learning_rate": 2e-3,
        "batch_size": 1024,
        "epochs": 1,
        **options,
    }
    (config / f"model_config/{expid}.yaml").write_text(yaml.safe_dump({expid: experiment}), encoding="utf-8")
    run_experiment(config_dir=config, expid=expid)
    return Run(config, expid)


def request_of(folder: Path, candidates: int, *, seed: int = 0, history: int = HISTORY) -> Request:
    """A request of one user with a full history; the context is that of the export's own example."""
    rng = np.random.default_rng(seed)
    example = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    ids = known_ids(folder)
    return Request(
        context=example["context"],
        history=[ids[i] for i in rng.integers(0, len(ids), history)],
        candidates=[ids[i] for i in rng.integers(0, len(ids), candidates)],
    )


def known_ids(folder: Path) -> Sequence[Any]:
    """The ids of the catalogue, padding left out."""
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    ids = vocabulary["items"].get("ids")
    return range(1, vocabulary["items"]["rows"]) if ids is None else ids[1:]


def batch_of(experiment: Experiment, candidates: int, *, seed: int = 0, history: int = HISTORY) -> Batch:
    """Samples of one user, one for each candidate: what a model that knows no requests is given."""
    with experiment.store.reader("valid") as reader:
        names = [c.name for c in experiment.store.manifest.columns if c.role in ("context", "event", "label")]
        features = {name: torch.from_numpy(reader.read(name, 0, 1)) for name in names if name in reader.columns}
    rng = np.random.default_rng(seed)
    items = experiment.store.manifest.items
    own = torch.from_numpy(rng.integers(1, items, history, dtype=np.int32))
    offsets = torch.arange(candidates + 1) * history
    return Batch(
        features={name: column.repeat_interleave(candidates, dim=0) for name, column in features.items()},
        target=torch.from_numpy(rng.integers(1, items, candidates, dtype=np.int32)),
        history=Jagged(own.repeat(candidates), offsets),
    )


def latencies(call: Callable[[], object], *, seconds: float, most: int, least: int = 3) -> dict[str, float]:
    """Latencies of calls for some seconds, after two that are not timed."""
    taken: list[float] = []
    for _ in range(2):
        call()
    end = time.perf_counter() + seconds
    while len(taken) < least or (time.perf_counter() < end and len(taken) < most):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return summary(taken)


def summary(taken_ms: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds, and the number of calls."""
    return {"p50_ms": statistics.median(taken_ms), "p99_ms": float(np.percentile(taken_ms, 99)), "calls": len(taken_ms)}


def onnx_product_rates(width: int, rows: int, threads: int) -> dict[str, float]:
    """Operations per second of ONNX Runtime's own products (rows, width) x (width, width): its peak.

    float32, and unsigned with signed 8-bit integers.
    """
    rates = {}
    rng = np.random.default_rng(0)
    for name, node, kind, dtype, weight in (
        ("float32", "MatMul", TensorProto.FLOAT, np.float32, rng.standard_normal((width, width), dtype=np.float32)),
        ("int8", "MatMulInteger", TensorProto.UINT8, np.uint8, rng.integers(-127, 127, (width, width), dtype=np.int8)),
    ):
        result = TensorProto.FLOAT if name == "float32" else TensorProto.INT32
        graph = helper.make_graph(
            [helper.make_node(node, ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", kind, ["rows", width])],
            [helper.make_tensor_value_info("y", result, ["rows", width])],
            [numpy_helper.from_array(weight, "w")],
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        left = rng.integers(0, 100, (rows, width)).astype(dtype)
        taken = latencies(partial(session.run, None, {"x": left}), seconds=0.5, most=100)
        rates[name] = 2 * rows * width**2 / (taken["p50_ms"] / 1e3)
    return rates
