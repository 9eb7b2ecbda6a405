"""Score the test split or new raw rows with a trained experiment, and write the scores.

Scores and kept columns of all rows are in memory (about 30 bytes a row); features are read piece by piece.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.scoring.calibration import Effect, calibration_of, check_method
from fuxictr_multimodal.scoring.published_weights import export_weights
from fuxictr_multimodal.scoring.raw_rows import ROW_ID, RawRows
from fuxictr_multimodal.scoring.ray_scores import score_with_ray
from fuxictr_multimodal.scoring.score_files import check_out, write_scores
from fuxictr_multimodal.scoring.submission import write_submission
from fuxictr_multimodal.scoring.trained_run import TrainedRun
from fuxictr_multimodal.system.machine import keep_freed_memory
from fuxictr_multimodal.training.experiment import Experiment

ENGINES = ("folded", "model", "ray")


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
    ray_address: str | None = None,
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
            with the model itself; `ray` like `folded`, new samples in parquet with the workers of a Ray cluster,
            to the same bits as `folded` on one thread. Other engines and numbers of threads agree to float32 rounding.
        ray_address: of a Ray cluster for `ray`, which is started on this machine where not given. With `ray`, an `out`
            without a suffix is a folder of parts, of `PART_ROWS` rows each.

    Raises:
        InputError: no checkpoint, one of another dataset, a wrong file, or an error in the configuration.
    """
    if ray_address is not None and engine != "ray":
        raise ConfigError(f"--ray-address is for --engine ray, not {engine}")
    if out is not None:
        check_out(out, parts=engine == "ray")
    if calibrate is not None:
        check_method(calibrate)
    if engine not in ENGINES:
        raise ConfigError(f"engine: {engine!r} is unknown. {did_you_mean(engine, ENGINES)}")
    if engine == "ray" and gpu >= 0:
        raise ConfigError("--engine ray scores on the cores of its workers: leave out --gpu")
    keep_freed_memory()
    run = TrainedRun(config_dir, expid, gpu, seed, tuple(overrides), name, imported)
    experiment = run.experiment()
    if score and data is None and (engine == "ray" or experiment.store.split_path("test") is None):
        what = "--engine ray reads parquet" if engine == "ray" else f"{experiment.store.place} has no test split"
        raise DataError(f"{what}: pass samples with --data")
    loaded = run.load(experiment, otherwise="pass published weights with --import-weights")
    model = loaded.model
    if exported is not None:
        export_weights(model, exported)
    if not score:
        return None
    rows: Any
    if data is None:
        rows = experiment.loaders("test", loaded.feature_map, model.device)
    else:
        rows = loaded.samples(data, history_column)
    kept = _kept_columns(experiment, rows)
    out = out or experiment.directory / f"{experiment.run}.scores.parquet"
    if out.suffix.lower() == ".csv":
        _check_csv(kept, out)
    if submission:
        _check_ids(kept, data or experiment.store.place)
    trainer = loaded.trainer(engine)
    calibration = None
    if calibrate is not None:
        # Before the samples, which may be many, are scored.
        own = experiment.files
        calibration = calibration_of(
            experiment, trainer, calibrate, weights=imported or own.model, keep=None if imported else own.calibration
        )
    started = time.perf_counter()
    facts: dict[str, Any] = {}
    labels = None
    if engine == "ray" and data is not None:
        found = score_with_ray(run.anywhere(), rows, data, history_column=history_column, address=ray_address)
        scores = raw = found.scores
        facts = {"unknown": dict(found.unknown), "cut_histories": found.cut_histories}
    else:
        predictions = trainer.predict(rows)
        scores = raw = predictions.scores.astype(np.float32)
        labels = predictions.labels
        if isinstance(rows, RawRows):
            facts = {"unknown": dict(rows.unknown), "cut_histories": rows.cut_histories}
    seconds = time.perf_counter() - started
    effect = None
    if calibration is not None:
        scores = calibration.apply(raw).astype(np.float32)
        kept = {**kept, "score_raw": pl.Series(raw)}
        effect = None if labels is None else Effect.of(labels, raw, scores)
    write_scores(out, pl.DataFrame({**kept, "score": scores}))
    archive = out.with_suffix(".zip") if submission else None
    if archive is not None:
        write_submission(archive, ids=kept[ROW_ID].to_numpy(), scores=scores, task=task, rows=rows.num_samples)
    return Scored(out=out, submission=archive, rows=len(scores), seconds=seconds, calibrated=effect, **facts)


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
