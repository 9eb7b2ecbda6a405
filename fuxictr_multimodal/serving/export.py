"""A trained run to a folder that ranks without FuxiCTR: load, trace, write, verify, rename."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuxictr_multimodal.data.store.staging import Staging
from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.scoring.calibration import Calibration, calibration_of, check_method
from fuxictr_multimodal.scoring.trained_run import LoadedRun, TrainedRun
from fuxictr_multimodal.serving.card import LICENCE_UNKNOWN, card, versions_of
from fuxictr_multimodal.serving.client import CLIENT
from fuxictr_multimodal.serving.example_request import FILE as REQUEST
from fuxictr_multimodal.serving.example_request import as_text, example_request
from fuxictr_multimodal.serving.graphs import check_engine, write_graph
from fuxictr_multimodal.serving.items_file import STORAGES, Stored, write_items
from fuxictr_multimodal.serving.quantise import quantise_products
from fuxictr_multimodal.serving.runtime import Ranker, Request, RequestError
from fuxictr_multimodal.serving.runtime.engines import SUFFIXES
from fuxictr_multimodal.serving.runtime.folder import FORMAT, digests, read_model
from fuxictr_multimodal.serving.servables import servable_of
from fuxictr_multimodal.serving.verification import SAMPLES, SAMPLES_OF_LOSSY, Checks, check_limits, compare
from fuxictr_multimodal.serving.vocabulary import vocabulary_of
from fuxictr_multimodal.system.files import write_json, write_text
from fuxictr_multimodal.system.writing import writing
from fuxictr_multimodal.training.trainer import Trainer
from fuxictr_multimodal.zoo.servable import GraphInput, Servable

AUC_LIMIT = 1e-4
QUANTISATIONS = ("int8",)
# A folder with these is an export.
MARKERS = ("model.json", "vocabulary.json")
RUNTIME = Path(__file__).parent / "runtime"
# What an export holds: a folder that holds anything else is never replaced.
FILES = frozenset(
    {
        *(f"{name}{suffix}" for name in ("model", "item_model") for suffix in (*SUFFIXES.values(), ".onnx.data")),
        *("items.safetensors", "vocabulary.json", "model.json", "card.md", "client.py", REQUEST, "runtime"),
        "__pycache__",
    }
)


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    Attributes:
        engine: `onnx` or `torch`.
        quantise: `int8` for the dense products in 8 bits, or None.
        auc_limit: what `quantise` and a storage of items may change of the AUC on valid.
        items: how item vectors are stored: `float32`, `float16` or `int8`.
        calibrate: `platt` or `isotonic`, fitted on valid, or None.
        licence: what the model card says.
    """

    engine: str = "onnx"
    quantise: str | None = None
    auc_limit: float = AUC_LIMIT
    items: str = "float32"
    calibrate: str | None = None
    licence: str = LICENCE_UNKNOWN

    def check(self) -> None:
        """Refuse what has no meaning, before anything is loaded.

        Raises:
            ConfigError: naming the option.
        """
        check_engine(self.engine)
        if self.quantise is not None and self.quantise not in QUANTISATIONS:
            raise ConfigError(f"--quantise {self.quantise}: {did_you_mean(self.quantise, QUANTISATIONS)}")
        if self.quantise is not None and self.engine != "onnx":
            raise ConfigError(f"--quantise {self.quantise} needs --to onnx")
        if self.items not in STORAGES:
            raise ConfigError(f"--items {self.items}: {did_you_mean(self.items, STORAGES)}")
        if not 0 <= self.auc_limit <= 1:
            raise ConfigError(f"--auc-limit {self.auc_limit:g}: it is a difference of two AUCs, from 0 to 1")
        if self.calibrate is not None:
            check_method(self.calibrate)

    @property
    def lossy(self) -> str | None:
        """The options that cost accuracy, as they are typed."""
        given = {"--quantise": self.quantise, "--items": None if self.items == "float32" else self.items}
        return " ".join(f"{option} {value}" for option, value in given.items() if value) or None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out: the folder.
        checks: scores of the export against those of the trained model.
        stored: how each array of the catalogue lies there.
        products: dense products in 8 bits.
        megabytes: of all files.
        seconds: from loading to renaming.
    """

    out: Path
    checks: Checks
    stored: dict[str, Stored]
    products: int
    megabytes: float
    seconds: float


def export(
    *,
    config_dir: Path,
    expid: str,
    out: Path | None = None,
    options: Options | None = None,
    overwrite: bool = False,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a trained run as a folder that `Ranker` and `fxmm serve` read.

    Args:
        config_dir: folder of the configs.
        expid: the experiment.
        out: the folder, or a symbolic link to it; `<run>.export` beside the checkpoint where not given.
        options: how.
        overwrite: replace an export that is there.
        seed: of the run, as in training.
        overrides: `key=value`, as in training.
        name: of the run, if it has one.
        say: is told what is being done, one line a step.

    Raises:
        InputError: nothing was trained, the model has no graph, a limit is passed, or the folder is in the way.
    """
    options = options or Options()
    options.check()
    if out is not None:
        _staging(out, overwrite).check()
    started = time.perf_counter()
    say(f"loading the trained run of {expid}")
    run = TrainedRun(config_dir, expid, seed=seed, overrides=overrides, name=name)
    experiment = run.experiment()
    trained = run.load(experiment)
    trained.model.eval()
    out = out or experiment.directory / f"{experiment.run}.export"
    staging = _staging(out, overwrite)
    staging.check()
    with staging:
        say(f"preparing the graph of {experiment.run}")
        servable = servable_of(experiment, trained.model, trained.feature_map)
        if options.engine == "onnx" and servable.only_torch:
            raise InputError(f"ONNX Runtime would give other scores: {servable.only_torch}; or pass --to torch")
        stored, products = _write(staging.dir, trained, servable, options, say)
        content = _model_json(trained, servable, options, stored, _calibration(trained, options))
        content["files"] = digests(staging.dir, options.engine)
        write_json(staging.dir / "model.json", content)
        say("comparing its scores on valid with those of the trained model")
        checks = _verify(staging.dir, trained, servable, options)
        check_limits(checks, lossy=options.lossy, auc_limit=options.auc_limit)
        content["checks"] |= {**checks.as_dict(), "quantised_products": products}
        write_json(staging.dir / "model.json", content)
        request = _ranked_example(staging.dir)
        text = card(experiment, content, licence=options.licence, request=request)
        write_text(staging.dir / "card.md", text)
        megabytes = sum(file.stat().st_size for file in staging.dir.rglob("*") if file.is_file()) / 1e6
        staging.commit()
    return Exported(out, checks, stored, products, megabytes, time.perf_counter() - started)


def _staging(out: Path, overwrite: bool) -> Staging:
    """Of the folder that is written."""
    staging = Staging(out.absolute(), overwrite=overwrite, owned=FILES, marker=MARKERS[0], what="an export")
    folder = staging.final_dir
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {out} is a file: name a folder")
    for parent in folder.parents:
        if all((parent / name).is_file() for name in MARKERS):
            raise ConfigError(f"--out {out} is inside {parent}, which is an export: name a folder outside of it")
    return staging


def _write(
    folder: Path, trained: LoadedRun, servable: Servable, options: Options, say: Callable[[str], None]
) -> tuple[dict[str, Stored], int]:
    """Write all files but model.json and the card; the arrays as they are stored, and the number of int8 products."""
    run, suffix = trained.experiment.run, SUFFIXES[options.engine]
    say(f"writing model{suffix}" + (" (compiling takes a minute)" if options.engine == "torch" else ""))
    graph = folder / f"model{suffix}"
    write_graph(options.engine, servable.graph, servable.inputs, ["scores"], graph, model=run)
    products = 0
    if options.quantise is not None:
        products = quantise_products(graph)
        say(f"{products} dense products are in 8 bits")
    if servable.encode_items is not None:
        say(f"writing item_model{suffix}")
        item_graph = folder / f"item_model{suffix}"
        encoder, inputs = servable.encode_items, servable.item_inputs
        # An array may have the name of a feature, and a graph each name once.
        outputs = [f"items.{name}" for name in servable.items]
        write_graph(options.engine, encoder, inputs, outputs, item_graph, model=f"{run}'s encoder of items")
    stored: dict[str, Stored] = {}
    if servable.items:
        rows = len(next(iter(servable.items.values())))
        say(f"writing {rows - 1:,} items in {options.items}")
        stored = write_items(folder / "items.safetensors", servable.items, options.items)
    experiment = trained.experiment
    vocabulary = vocabulary_of(experiment.store, trained.feature_map, experiment.params)
    write_json(folder / "vocabulary.json", vocabulary)
    write_text(folder / REQUEST, as_text(example_request(vocabulary, servable.behaviours)))
    write_text(folder / "client.py", CLIENT)
    with writing(folder / "runtime"):
        shutil.copytree(RUNTIME, folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    return stored, products


def _calibration(trained: LoadedRun, options: Options) -> Calibration | None:
    if options.calibrate is None:
        return None
    trainer = Trainer(trained.model, to_inputs=trained.to_inputs, epochs=1)
    own = trained.experiment.files
    return calibration_of(trained.experiment, trainer, options.calibrate, weights=own.model, keep=own.calibration)


def _model_json(
    trained: LoadedRun,
    servable: Servable,
    options: Options,
    stored: dict[str, Stored],
    calibration: Calibration | None,
) -> dict[str, Any]:
    experiment = trained.experiment
    return {
        "format": FORMAT,
        "name": experiment.run,
        "model": type(trained.model).__name__,
        "dataset": experiment.params["dataset_id"],
        "engine": options.engine,
        "task": experiment.params.get("task", "binary_classification"),
        "inputs": _listed(servable.inputs),
        "arrays": {name: {"storage": found.storage} for name, found in stored.items()},
        "item_inputs": _listed(servable.item_inputs),
        "behaviours": list(servable.behaviours),
        "fixed_slots": servable.fixed_slots,
        "padding": servable.padding,
        "max_len": experiment.max_len,
        "folded": servable.folded,
        "quantised": options.quantise,
        "calibration": None if calibration is None else asdict(calibration),
        "checks": {"storage": {name: asdict(found) for name, found in stored.items()}},
        "versions": versions_of(options.engine),
    }


def _listed(inputs: Sequence[GraphInput]) -> list[dict[str, Any]]:
    return [{"name": given.name, "dtype": given.dtype, "dims": list(given.dims)} for given in inputs]


def _ranked_example(folder: Path) -> str:
    """The example request of the folder, after the model has answered it."""
    text = (folder / REQUEST).read_text(encoding="utf-8")
    ranker, request = Ranker(folder), Request(**json.loads(text))
    try:
        found = ranker.rank(request) if ranker.model.has_items else ranker.score(request)
    except RequestError as error:
        raise InputError(f"{REQUEST}, the example of a request, does not fit the model: {error}") from None
    if found.unknown or found.unknown_history:
        raise InputError(f"{REQUEST}, the example of a request, has items that the model does not know")
    return text


def _verify(folder: Path, trained: LoadedRun, servable: Servable, options: Options) -> Checks:
    """Compare the files in the folder with the trained model."""
    model = read_model(folder)
    engine, arrays = model.graph(None), model.stored()
    loader = trained.experiment.split_loader("valid", trained.feature_map, "cpu")
    return compare(
        trained.model,
        trained.to_inputs,
        loader,
        servable,
        lambda tensors: engine.run(tensors)[0],
        lambda name, ids: arrays[name].gather(ids.reshape(-1)).reshape(*ids.shape, *arrays[name].shape),
        samples=SAMPLES if options.lossy is None else SAMPLES_OF_LOSSY,
    )
