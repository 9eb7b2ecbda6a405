"""Score the test split or new raw rows with a trained experiment, and write the scores.

Scores and kept columns of all rows are in memory (about 30 bytes a row); features are read piece by piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.scoring.calibration import Effect, calibration_of, check_method
from fuxictr_multimodal.scoring.new_samples import new_samples
from fuxictr_multimodal.scoring.published_weights import export_weights, import_weights
from fuxictr_multimodal.scoring.raw_rows import ROW_ID, RawRows, Reading
from fuxictr_multimodal.scoring.submission import write_submission
from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.system.machine import keep_freed_memory
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trained import load_trained
from fuxictr_multimodal.training.trainer import Trainer

SUFFIXES = (".parquet", ".csv")
ENGINES = ("folded", "model")


@dataclass(frozen=True)
class Scored:
    """The files written, and counts of what was scored.

    Attributes:
        out: the file of scores.
        submission: the zip file, or None.
        rows: rows scored, in the order of the source.
        seconds: loading and scoring, without writing.
        unknown: values outside of the vocabulary or the item table, by column.
        cut_histories: histories that were longer than `max_len`.
        calibrated: what a calibration changed on the test split, where it was scored and has labels.
    """

    out: Path
    submission: Path | None
    rows: int
    seconds: float
    unknown: dict[str, int] = field(default_factory=dict)
    cut_histories: int = 0
    calibrated: Effect | None = None


def predict(
    *,
    config_dir: Path,
    expid: str,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    data: Path | None = None,
    history_column: str | None = None,
    out: Path | None = None,
    submission: bool = False,
    task: str = "Task2",
    imported: Path | None = None,
    exported: Path | None = None,
    score: bool = True,
    calibrate: str | None = None,
    engine: str = "folded",
) -> Scored | None:
    """Score rows with an experiment's checkpoint, or with imported weights.

    Args:
        config_dir: folder of the configs.
        expid: the experiment.
        gpu: index of the GPU, -1 for the CPU.
        seed: of the run, as in training.
        overrides: `key=value`, as in training.
        name: of the run, if it has one; its settings then come from its report.
        data: csv or parquet file of new raw rows, a folder of its parts or a glob; the test split where not given.
        history_column: its column of histories.
        out: file of scores, `.parquet` or `.csv`; `<run>.scores.parquet` beside the checkpoint where not given.
        submission: write `<out without suffix>.zip` for the challenge, too.
        task: score column of the submission.
        imported: published weights instead of the checkpoint.
        exported: write the weights under their published names.
        score: False only exports.
        calibrate: `platt` or `isotonic`: scores are calibrated on the valid split, and the column `score_raw` has those
            of the model.
        engine: `folded` scores with the inference form of a model that has one (`fold`), of others as they are; `model`
            with the model itself. Scores agree to float32 rounding.

    Raises:
        InputError: no checkpoint, one of another dataset, a wrong file, or an error in the configuration.
    """
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: scores are written as {' or '.join(SUFFIXES)}")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder: pass a file")
    if calibrate is not None:
        check_method(calibrate)
    if engine not in ENGINES:
        raise ConfigError(f"engine: {engine!r} is unknown. {did_you_mean(engine, ENGINES)}")
    keep_freed_memory()
    experiment = Experiment.load(config_dir, expid, gpu=gpu, seed=seed, overrides=overrides, name=name)
    if score and data is None and experiment.store.split_path("test") is None:
        raise DataError(f"{experiment.store.dir} has no test split: pass samples with --data")
    # A model may draw numbers while it is built; scoring is the same at every call.
    seed_everything(seed=experiment.params["seed"])
    feature_map = experiment.feature_map()
    model, to_inputs = experiment.build_model(feature_map)
    if imported is not None:
        import_weights(model, imported)
    else:
        load_trained(experiment, model, otherwise="pass published weights with --import-weights")
    if exported is not None:
        export_weights(model, exported)
    if not score:
        return None
    rows = _rows(experiment, model, feature_map, data, history_column)
    kept = _kept_columns(experiment, rows)
    out = out or experiment.directory / f"{experiment.run}.scores.parquet"
    if out.suffix.lower() == ".csv":
        _check_csv(kept, out)
    if submission:
        _check_ids(kept, data or experiment.store.dir)
    trainer = Trainer(model, to_inputs=to_inputs, epochs=1, scorer=scorer_of(experiment, model, engine))
    calibration = None
    if calibrate is not None:
        # Before the samples, which may be many, are scored.
        own = experiment.files
        calibration = calibration_of(
            experiment, trainer, calibrate, weights=imported or own.model, keep=None if imported else own.calibration
        )
    started = time.perf_counter()
    predictions = trainer.predict(rows)
    scores = raw = predictions.scores.astype(np.float32)
    seconds = time.perf_counter() - started
    effect = None
    if calibration is not None:
        scores = calibration.apply(raw).astype(np.float32)
        kept = {**kept, "score_raw": pl.Series(raw)}
        effect = None if predictions.labels is None else Effect.of(predictions.labels, raw, scores)
    _write(out, kept, scores)
    archive = out.with_suffix(".zip") if submission else None
    if archive is not None:
        write_submission(archive, ids=kept[ROW_ID].to_numpy(), scores=scores, task=task, rows=rows.num_samples)
    facts: dict[str, Any] = {}
    if isinstance(rows, RawRows):
        facts = {"unknown": dict(rows.unknown), "cut_histories": rows.cut_histories}
    return Scored(out=out, submission=archive, rows=len(scores), seconds=seconds, calibrated=effect, **facts)


def scorer_of(experiment: Experiment, model: BaseModel, engine: str) -> Callable[[Any], Any]:
    """What turns inputs into scores: the folded form where there is one; a dataset without items has none."""
    if engine == "folded" and hasattr(model, "fold") and experiment.store.manifest.item_col is not None:
        return model.fold()
    return model.forward


def _rows(
    experiment: Experiment, model: BaseModel, feature_map: FeatureMap, data: Path | None, history_column: str | None
) -> Any:
    """What to score: the loader of the test split, or new rows."""
    if data is None:
        return experiment.loaders("test", feature_map, model.device)
    reading = Reading(
        store=experiment.store,
        feature_map=feature_map,
        batch_size=experiment.params["batch_size"],
        max_len=experiment.max_len,
        device=torch.device(model.device),
    )
    return new_samples(data, reading, params=experiment.params, history_column=history_column)


def _check_ids(kept: dict[str, pl.Series], where: Path) -> None:
    """The ids of a submission are the challenge's: whole numbers, one per row."""
    if ROW_ID not in kept:
        raise DataError(f"a submission needs the column {ROW_ID!r}, which {where} lacks")
    if not kept[ROW_ID].dtype.is_integer() or kept[ROW_ID].has_nulls():
        raise DataError(f"{where}: column {ROW_ID!r}: a submission needs a whole number in every row")


def _check_csv(kept: dict[str, pl.Series], out: Path) -> None:
    """A csv file has no form for bytes, durations and nested values."""
    for name, values in kept.items():
        if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Duration):
            raise DataError(f"--out {out}: a csv file cannot hold column {name!r} ({values.dtype}): write .parquet")


def _kept_columns(experiment: Experiment, rows: Any) -> dict[str, pl.Series]:
    """Columns that tell which row a score belongs to: the id if there is one, the group and the target item."""
    manifest = experiment.store.manifest
    names = [ROW_ID, manifest.group_id, manifest.item_col]
    if isinstance(rows, RawRows):
        return rows.columns([name for name in names if name])
    store, kept = experiment.store, {}
    with store.reader("test") as reader:
        for name in names:
            if name in reader.columns:
                codes = reader.read(name, 0, reader.rows)
                ids = store.ids(name)
                kept[name] = pl.Series(name, codes) if ids is None else ids.originals(codes).alias(name)
    return kept


def _write(path: Path, kept: dict[str, pl.Series], scores: np.ndarray) -> None:
    frame = pl.DataFrame({**kept, "score": scores})
    make_folder(path.parent)
    with replace_atomically(path) as temporary:
        if path.suffix.lower() == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_parquet(temporary)
