"""Which models train a step on our datasets: this project's, FuxiCTR's LongCTR, and those of a FuxiCTR clone.

A census, no measurement of speed: each model is constructed with the settings of its own `<Model>_test` experiment,
trains one step on a batch, and scores another. The code of models of a clone is run.

    python benchmarks/zoo_models.py --zoo-root ~/FuxiCTR --markdown results/zoo_models.md
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import logging
import math
import statistics
import subprocess
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from _common import machine
from rich.console import Console
from rich.table import Table

from fuxictr_multimodal.config.expids import load_dataset_config
from fuxictr_multimodal.data.entry.build import open_or_build
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.at_once import fits_at_once
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.zoo import clone as fuxictr_clone
from fuxictr_multimodal.zoo import models as zoo

# Keys of a clone's experiments that describe their own data and runs.
NOT_THE_MODEL = frozenset(
    "model dataset_id loss metrics task optimizer learning_rate batch_size embedding_dim epochs shuffle seed monitor "
    "monitor_mode embedding_regularizer net_regularizer regularizer use_features feature_specs num_tasks".split()
)

# What was met on the way; the tests named test_fault_* hold the models' own faults fast.
NOTES = """
## What stands in the way

In a FuxiCTR clone (2.3.10), and what is done about it here:

* QNN_alpha does not train: its `add_loss(inputs)` has the signature of before issue 122 of FuxiCTR, which calls
  `add_loss(return_dict, y_true)`. Nothing is done about it.
* MMoE, PLE and ShareBottom train, but give their scores as `<label>_pred`, one per label; the trainer reads `y_pred`.
* QNN and QNN_alpha call the embedding layer with `dynamic_emb_dim`, which is `flatten_emb` now. The old name works
  here.
* FM, FFM, FFMv2, FmFM, FwFM, HOFM, LR and LorentzFM take one `regularizer` and fail beside `embedding_regularizer`.
  Here that one is handed over under their name.
* Layers of width 1 (`LogisticRegression`) do not project features of `type: embedding`. Models with such a layer are
  trained without those features (column "without"), with a warning.
* `init_weights` skips a column with `share_embedding` even in a layer that does not share, so the table keeps N(0, 1)
  beside 1e-4 and a summed history drowns the rest (logloss 1.3 instead of 0.67 after two epochs of DeepFM on
  Synthetic_test). Here it is initialised, with a warning.
* DCNv2, APG_DCNv2, GDCN and GDCNP fail with their own defaults (`[]` hidden units), PPNet with its own (`gate_priors:
  []`): give these parameters. DMR fails when it is given a `context_field` (`torch.cat(..., dimi=-1)`).
* The TensorFlow variants (`*_tf`) are not PyTorch models and are not listed.

In FuxiCTR's LongCTR and, as marked, in the clone:

* SIM, ETA, SDIM, TWIN and MIRRN cut the newest `short_seq_len` items with a mask that is shifted by one: the newest
  item is judged by the slot before it. The comparison says so; nothing is done about it.
* The same five fail on a batch whose longest history is shorter than `short_seq_len`. Here they always get `max_len`
  slots.
* DIEN (both) packs histories, which reads them from the left, while the loader's default fills them on the left: short
  histories would be padding only. Here DIEN gets them filled on the right. It fails on a batch with only one history.
* SIM's search gives padding the score 0, above every real item with a negative one. MIRRN averages the items that it
  found, padding included. FinalMLP builds its feature selection and never calls it. Nothing is done about these.
"""


@dataclass
class Outcome:
    """What became of one model."""

    model: str
    layout: str
    trains: bool = False
    scores: bool = False
    parameters: int | None = None
    rows_per_s: float | None = None
    left_out: str = ""
    reason: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo-root", type=Path, help="folder of a FuxiCTR clone; without it only what is installed")
    parser.add_argument("--dataset", default="Synthetic_test", help="id of a built dataset")
    parser.add_argument("--config", type=Path, default=Path("config"))
    parser.add_argument("--data-root", type=Path, help="replaces the dataset entry's")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--embedding-dim", type=int, default=8)
    parser.add_argument("--markdown", type=Path, help="write the table there, with date and versions")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    params = base_params(args)
    names = [f"LongCTR/{name}" for name in zoo.longctr_models()]
    # A model that is fitted at once has no step to time.
    own = [name for name in zoo.own_models() if not fits_at_once(zoo.resolve(name).model_class)]
    names = [*own, *names]
    if args.zoo_root:
        names += [f"clone/{name}" for name in sorted(fuxictr_clone.find_models(args.zoo_root))]
    outcomes = [try_model(name, {**params, **own_settings(name, args.zoo_root)}, args.zoo_root) for name in names]
    Console(width=160).print(as_table(outcomes))
    if args.markdown:
        args.markdown.write_text(as_markdown(outcomes, args), encoding="utf-8")
    rates = [outcome.rows_per_s for outcome in outcomes if outcome.trains and outcome.rows_per_s is not None]
    result = {
        "name": "zoo_models",
        "machine": machine(),
        "shapes": {key: params[key] for key in ("dataset_id", "batch_size", "embedding_dim", "max_len")},
        "rows_per_s": round(statistics.median(rates)) if rates else None,
        "ceiling": None,
        "ceiling_fraction": None,
        "ratio_to_plain": None,
        "check": f"{len(rates)} of {len(outcomes)} models train a step with a finite loss",
        "models": [asdict(outcome) for outcome in outcomes],
    }
    print(json.dumps(result), flush=True)


def base_params(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters that all models share."""
    params = load_dataset_config(args.config, args.dataset)
    if args.data_root:
        params["data_root"] = str(args.data_root)
    return {
        "group_id": None,
        **params,
        "batch_size": args.batch_size,
        "embedding_dim": args.embedding_dim,
        "embedding_regularizer": None,
        "net_regularizer": None,
        "gpu": -1,
        "verbose": 0,
        "model_root": "checkpoints",
        "metrics": ["AUC"],
        "monitor": "AUC",
        "optimizer": "adam",
        "loss": "binary_crossentropy",
        "task": "binary_classification",
        "learning_rate": 1e-3,
        "seed": 1,
        "shuffle": False,
    }


def own_settings(name: str, zoo_root: Path | None) -> dict[str, Any]:
    """Sizes of a clone's model from its own `<Model>_test` experiment; LongCTR has none, its default will do."""
    place, _, short = name.rpartition("/")
    if place == "LongCTR":
        return {"parallel_dnn_hidden_units": [64, 32]} if short == "DCNv2" else {}
    if place != "clone" or zoo_root is None:
        return {}
    config = fuxictr_clone.find_models(zoo_root)[short].parent.parent / "config" / "model_config.yaml"
    entries = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    entry: Mapping[str, Any] = next(
        (entries[key] for key in (f"{short}_test", f"{short}_default") if key in entries), {}
    )
    kept = {k: v for k, v in entry.items() if k not in NOT_THE_MODEL and not k.endswith(("_field", "_context"))}
    if "gate_priors" in kept:  # names of columns
        kept["gate_priors"] = ["item_id"]
    return kept


def try_model(name: str, params: dict[str, Any], zoo_root: Path | None) -> Outcome:
    """Train one step on one batch and score the next."""
    outcome = Outcome(name, "")
    try:
        zoo_model = zoo.resolve(name, zoo_root=zoo_root)
        outcome.layout = zoo_model.layout
        experiment = Experiment({**params, "model_id": name.replace("/", "_")}, zoo_model, open_or_build(params))
        torch.manual_seed(params["seed"])
        model, to_inputs = experiment.build_model(experiment.feature_map())
        read = set(getattr(getattr(model, "feature_map", None), "features", ()))
        given = {n for n, s in experiment.feature_map().features.items() if s["type"] == "embedding"}
        outcome.left_out = ", ".join(sorted(given - read))
        outcome.parameters = sum(p.numel() for p in model.parameters())
        train, _ = experiment.loaders("train", experiment.feature_map(), model.device)
        batches = iter(train)
        model._max_gradient_norm, model._batch_index, model._steps_per_epoch = 10.0, 0, 1
        model.train()
        batch = next(batches)
        start = time.perf_counter()
        loss = float(model.train_step(to_inputs(batch)))
        outcome.rows_per_s = round(len(batch) / (time.perf_counter() - start))
        if not math.isfinite(loss):
            raise ConfigError(f"the loss of the first step is {loss}")
        outcome.trains = True
        model.eval()
        with torch.no_grad():
            outcome.scores = bool(torch.isfinite(model.forward(to_inputs(next(batches)))["y_pred"]).all())
    except Exception as error:  # a census reports whatever went wrong
        outcome.reason = reason(error)
    return outcome


def reason(error: Exception) -> str:
    """The error and the innermost line of a model's own file that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "model_zoo" in f.filename]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def as_table(outcomes: list[Outcome]) -> Table:
    table = Table("model", "layout", "trains", "scores", "parameters", "without", "why not")
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    return table


def as_markdown(outcomes: list[Outcome], args: argparse.Namespace) -> str:
    places: dict[str, list[Outcome]] = {"own": [], "LongCTR": [], "clone": []}
    for outcome in outcomes:
        places[outcome.model.partition("/")[0] if "/" in outcome.model else "own"].append(outcome)
    counts = ", ".join(f"{place} {sum(o.trains for o in found)} of {len(found)}" for place, found in places.items())
    lines = [
        "# Which zoo models train on our datasets",
        "",
        f"{datetime.date.today()}, fuxictr {importlib.metadata.version('fuxictr')}, torch {torch.__version__}. Made by",
        f"`python benchmarks/zoo_models.py --zoo-root <FuxiCTR clone> --dataset {args.dataset} --markdown "
        "results/zoo_models.md`.",
        *([f"The FuxiCTR clone is at commit {commit}."] if (commit := clone_commit(args.zoo_root)) else []),
        "",
        f"Models that train a step with a finite loss: {counts}.",
        "",
        "| model | layout | trains | scores | parameters | without | why not |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(outcome)) + " |" for outcome in outcomes]
    return "\n".join(lines) + "\n" + NOTES


def clone_commit(zoo_root: Path | None) -> str:
    """Short hash and date of the clone's commit, or "" where git does not know."""
    if zoo_root is None or not (zoo_root / ".git").exists():
        return ""
    command = ["git", "-C", str(zoo_root), "log", "-1", "--format=%h of %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cells(outcome: Outcome) -> list[str]:
    parameters = "" if outcome.parameters is None else f"{outcome.parameters:,}"
    yes = {True: "yes", False: "no"}
    return [
        outcome.model,
        outcome.layout,
        yes[outcome.trains],
        yes[outcome.scores],
        parameters,
        outcome.left_out,
        outcome.reason,
    ]


if __name__ == "__main__":
    main()
