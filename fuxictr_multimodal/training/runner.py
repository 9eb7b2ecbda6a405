"""One experiment: from an expid to a trained model, its report and FuxiCTR's result line."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json

from fuxictr_multimodal.config.identity import PLACE_KEYS, config_hash
from fuxictr_multimodal.config.run_settings import RunSettings
from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.errors import ConfigError, DataError, RankLost
from fuxictr_multimodal.system.files import held_alone, kept_if_possible, remove_stale_temporaries, replace_atomically
from fuxictr_multimodal.system.machine import cpu_threads, keep_freed_memory
from fuxictr_multimodal.system.rank_board import losses_named
from fuxictr_multimodal.system.ranks import (
    TIMEOUT_SECONDS,
    all_started,
    current,
    decided_by_first,
    joined,
    own_board,
    sent_by_first,
)
from fuxictr_multimodal.system.reduced_precision import Choice
from fuxictr_multimodal.training.at_once import fit_at_once, fits_at_once, refuse_steps
from fuxictr_multimodal.training.curves import draw_curves_beside
from fuxictr_multimodal.training.data_parallel import seed_rank
from fuxictr_multimodal.training.earlier_run import (
    complete_run,
    files_to_resume,
    owner_of,
    resumed_experiment,
)
from fuxictr_multimodal.training.environment import count_parameters
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.find_runs import is_unfinished
from fuxictr_multimodal.training.recorder import Recorder
from fuxictr_multimodal.training.report import Report, append_csv_line
from fuxictr_multimodal.training.resume import named_keys
from fuxictr_multimodal.training.run_log import log_nowhere, log_to
from fuxictr_multimodal.training.run_names import RunFiles, refuse_folders, remove_states
from fuxictr_multimodal.training.same_command import refuse_differences
from fuxictr_multimodal.training.sharded.of_run import (
    group_for_tables,
    refuse_warm_start,
    shard_tables,
    tables_to_shard,
)
from fuxictr_multimodal.training.state_file import SaveTimes
from fuxictr_multimodal.training.tracking import Tracking, make_tracker
from fuxictr_multimodal.training.trainer import Progress, Trainer
from fuxictr_multimodal.training.vocabularies import keep_build
from fuxictr_multimodal.training.warm_start import Source, find_source, start_from


def run_experiment(
    *,
    config_dir: Path,
    expid: str,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tracker: str | None = None,
) -> tuple[Report, Path]:
    """Train one expid with one seed, evaluate it once on test, and write its report.

    A run that is complete is not run again unless `overwrite`; its report is returned. With `resume` a killed run
    resumes from its last saved step, with the same loss trace as if it had not been killed, by its own settings: what
    `overrides` name must be the run's own, but for epochs and patience, which may be more.

    Processes that torchrun started train the run together: each calls this with the same arguments but `gpu`. Rank 0
    alone reads and writes the files of the run.

    Args:
        config_dir: folder of the configs.
        expid: the experiment.
        gpu: index of the GPU, -1 for the CPU.
        seed: instead of the configuration's.
        overrides: `key=value`, the last word on a key.
        name: of the run; by default that of the experiment and of the settings that `overrides` change.
        resume: whether an unfinished run is resumed.
        overwrite: whether a run that is there is replaced.
        tracker: name of a tracker that receives settings, evaluations and final metrics; see `tracking.TRACKERS`.

    Returns:
        The report and its file.

    Raises:
        InputError: whatever is wrong with the configuration or the data; a run that is there, and neither `resume` nor
            `overwrite`; a result that cannot be written.
        Interrupted: the report says so, and what was trained up to the last saved step can be resumed.
    """
    keep_freed_memory()
    all_started()
    experiment = Experiment.load(
        config_dir, expid=expid, seed=seed, gpu=gpu, overrides=overrides, name=name, reading=False
    )
    with joined(gpu=gpu, timeout_seconds=experiment.params.get("rank_timeout", TIMEOUT_SECONDS)) as here:
        refuse_differences(experiment)
        if not here.first:
            return _follow(experiment)
        found = _lead(
            experiment,
            config_dir=config_dir,
            expid=expid,
            seed=seed,
            overrides=overrides,
            name=name,
            resume=resume,
            overwrite=overwrite,
            tracker=tracker,
        )
        return sent_by_first(found)


def _lead(
    experiment: Experiment,
    *,
    config_dir: Path,
    expid: str,
    seed: int | None,
    overrides: Sequence[str],
    name: str | None,
    resume: bool,
    overwrite: bool,
    tracker: str | None,
) -> tuple[Report, Path]:
    """What rank 0 does, and one process alone: see `run_experiment`."""
    named, files, note = named_keys(overrides, seed), experiment.files, None
    # FuxiCTR names its result csv after the config folder and writes it into the working folder.
    csv = Path(config_dir.resolve().name + ".csv")
    resume = resume and not overwrite
    if resume and name is None:
        files = files_to_resume(files, experiment.params, named, expid=expid, seed=seed)
    with _only_process(files):
        refuse_folders(files.state)
        remove_stale_temporaries(files.replaced)
        before = Report.read(files.report) if files.report.is_file() and not overwrite else None
        if before is not None and before.status == "completed":
            complete_run(before, experiment, files, named, resume=resume)
            if files.left is not None:
                draw_curves_beside(before, files.report)
                _leave(before, files, csv, once=True)
            logging.warning("%s is complete; --overwrite runs it again", files.report)
            sent_by_first(None)
            return before, files.report
        if files.left is not None and not (resume or overwrite):
            raise ConfigError(
                f"{files.left} belongs to an unfinished run: --resume continues it, --overwrite starts over"
            )
        if resume and is_unfinished(files, before):
            experiment, note = resumed_experiment(before, experiment, files, named)
        if resume and files.left is None:
            logging.warning("%s is not there: nothing to resume, the run starts from the beginning", files.state)
        if overwrite:
            remove_states(files.state)
        with (
            cpu_threads(experiment.params.get("cpu_threads")),
            group_for_tables(experiment.params),
            contextlib.closing(make_tracker(tracker, files, resumed=files.left is not None)) as tracking,
        ):
            report = _run(experiment, files, tracking, before=before, note=note)
        _leave(report, files, csv)
    return report, files.report


def _follow(experiment: Experiment) -> tuple[Report, Path]:
    """What the other ranks do: train and score with rank 0, and write nothing; returns what rank 0 does."""
    sent: tuple[dict[str, Any], Report | None] | None = sent_by_first()
    if sent is not None:
        params, resumed = sent
        params = {**params, **{key: value for key, value in experiment.params.items() if key in PLACE_KEYS}}
        if params != experiment.params:
            experiment = Experiment.of(params, experiment.expid)
        report = _report_of(experiment, resumed)
        files = experiment.files
        with cpu_threads(params.get("cpu_threads")), log_nowhere(), _left_named(files), losses_named(own_board):
            _train_and_score(experiment, files, report, lambda progress: None, resumed=resumed, source=None)
    return sent_by_first()


def _leave(report: Report, files: RunFiles, csv: Path, *, once: bool = False) -> None:
    """What comes after the report says `completed`: only then a run that is killed is not trained again.

    The states go last: as long as one is there, the run that finds the report does the rest.
    """
    append_csv_line(csv, report, sys.argv, once=once)
    remove_states(files.state)


def _run(
    experiment: Experiment, files: RunFiles, tracking: Tracking, *, before: Report | None, note: str | None
) -> Report:
    """Train and test, from the state if there is one, under the run's log; whatever happens, the report says so."""
    resumed = before if files.left is not None else None
    params = experiment.params
    # Before the report of an earlier run may be replaced. What is resumed has begun.
    source = None if resumed else find_source(params, experiment.store, files)
    report = _report_of(experiment, resumed)
    sent_by_first((params, resumed))
    recorder = Recorder(report, files.report)

    def publish(progress: Progress) -> None:
        report.curve = [asdict(row) for row in progress.curve]
        report.best_epoch = progress.best_epoch
        report.rows_per_s["train"] = round(progress.train_rows / max(progress.train_seconds, 1e-9), 1)
        recorder.write()
        tracking.evaluated(report.curve)

    with log_to(files.log, append=files.left is not None):
        if note is not None:
            logging.warning("%s", note)
        try:
            with recorder.recording(lambda: _left(files)):
                tracking.started(report.config)
                with _left_named(files), losses_named(own_board):
                    scores = _train_and_score(experiment, files, report, publish, resumed=resumed, source=source)
                with kept_if_possible(files.predictions):
                    _write_predictions(files.predictions, scores)
                tracking.finished(report.metrics)
        finally:
            draw_curves_beside(report, files.report)
    return report


def _report_of(experiment: Experiment, resumed: Report | None) -> Report:
    """The report of a run that begins, or continues that of an earlier process."""
    params, manifest = experiment.params, experiment.store.manifest
    return Report(
        expid=experiment.run,
        experiment=experiment.expid,
        model=params["model"],
        dataset_id=params["dataset_id"],
        seed=params["seed"],
        seconds=resumed.seconds if resumed else 0.0,
        warm_start=resumed.warm_start if resumed else {},
        dataset_facts=manifest.facts,
        config=params,
        config_hash=config_hash(params),
        manifest_hash=manifest.hash,
        world_size=current().world_size,
    )


@contextlib.contextmanager
def _left_named(files: RunFiles) -> Iterator[None]:
    """Say with the loss of another process what is left to resume."""
    try:
        yield
    except RankLost as error:
        # It is there already if the other process ended as this one does.
        left = _left(files)
        raise RankLost(str(error) if left in str(error) else f"{error}; {left}") from None


def _write_predictions(path: Path, scores: Mapping[str, Any]) -> None:
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **scores)


def _left(files: RunFiles) -> str:
    if files.left is not None:
        return f"{files.left} holds its last saved step, the same command with --resume continues it"
    return "nothing was saved yet, so the same command with --resume starts over"


def _train_and_score(
    experiment: Experiment,
    files: RunFiles,
    report: Report,
    publish: Callable[[Progress], None],
    *,
    resumed: Report | None,
    source: Source | None,
) -> dict[str, np.ndarray]:
    """Train, then score valid and test once each; their metrics go into the report."""
    params = experiment.params
    model, to_inputs, feature_map = _build(experiment, report, resumed)
    if fits_at_once(model):
        refuse_steps(params)
    if source is not None:
        refuse_warm_start(model)
        report.warm_start = start_from(source, model, experiment.store, params)
    shard_tables(model, params, files.state)
    trainer = Trainer(
        model,
        to_inputs=to_inputs,
        epochs=params["epochs"],
        max_gradient_norm=params.get("max_gradient_norm", 10.0),
        save_best_only=params.get("save_best_only", True),
        plateau_factor=params.get("factor"),
        weight_averaging=params.get("weight_averaging") or 0.0,
        state_file=files.state,
        owner=owner_of(params, experiment.store.manifest.hash),
        saving=SaveTimes(
            params.get("save_minutes", RunSettings.model_fields["save_minutes"].default), params.get("save_steps")
        ),
        on_evaluation=publish,
        sync_batch_norm=params.get("sync_batch_norm", True),
    )
    if resumed is not None:
        trainer.resume()
        publish(trainer.progress)
    train, valid = experiment.loaders("train", feature_map, model.device)
    if fits_at_once(model):
        publish(fit_at_once(trainer, train, valid))
        report.parameters = {"total": model.size, "embedding": 0}
    else:
        publish(trainer.fit(train, valid))
    del train
    if current().first:
        keep_build(experiment.store, files.directory)
    scores = {}
    logging.info("****** Validation evaluation ******")
    scores["valid_scores"] = _score("valid", trainer, valid, report)
    del valid
    if experiment.store.split_path("test") is not None:
        logging.info("******** Test evaluation ********")
        test = experiment.loaders("test", feature_map, model.device)
        scores["test_scores"] = _score("test", trainer, test, report)
    return scores


def _build(
    experiment: Experiment, report: Report, resumed: Report | None
) -> tuple[BaseModel, Callable[[Batch], Any], FeatureMap]:
    """Seed everything, then construct feature map, model and input layout; logs what FuxiCTR logs."""
    logging.info("Params: %s", print_to_json(experiment.params))
    seed_everything(seed=experiment.params["seed"])
    feature_map = experiment.feature_map()
    logging.info("Feature specs: %s", print_to_json(feature_map.features))
    with tables_to_shard(experiment.params):
        model, to_inputs = experiment.build_model(feature_map)
    precision = getattr(model, "precision", None)
    if precision is not None and isinstance(getattr(precision, "choice", None), Choice):
        own = resumed.precision if resumed is not None else {}
        # Why it was chosen too, as the run's own report says.
        report.precision = decided_by_first(lambda: own or precision.choice.as_dict())
        if own or current().several:
            precision.keep(report.precision["used"])
    report.parameters = count_parameters(model)
    logging.info("Total number of parameters: %d.", report.parameters["total"])
    seed_rank(experiment.params["seed"])
    return model, to_inputs, feature_map


def _score(split: str, trainer: Trainer, loader: MultimodalDataLoader, report: Report) -> np.ndarray:
    """Score a split once; put its metrics, where it has labels, and the speed into the report.

    A metric that is not defined on the split, such as gAUC where no user has both labels, is None.
    """
    predictions = trainer.predict(loader)
    if not trainer.ranks.first:
        return predictions.scores
    report.rows_per_s["score"] = round(predictions.rows_per_s, 1)
    if predictions.labels is None:
        logging.info("The %s split has no labels: its scores are kept, it has no metrics", split)
    else:
        names = trainer.model.validation_metrics
        undefined = predictions.undefined(names)
        values = predictions.evaluate([name for name in names if name not in undefined])
        report.metrics[split] = {name: values.get(name) for name in names}
        logging.info("[Metrics] " + " - ".join(f"{k}: {v:.6f}" for k, v in values.items()))
        if undefined:
            logging.warning("Left out of the metrics of the %s split: %s", split, "; ".join(undefined.values()))
    return predictions.scores.astype(np.float32)


@contextlib.contextmanager
def _only_process(files: RunFiles) -> Iterator[None]:
    """Two processes must not write the files of one run; the system frees the lock of a killed one."""
    taken = f"another process is running {files.run!r}; wait for it, or use another --seed or --name"
    with contextlib.ExitStack() as held:
        try:
            files.lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(held_alone(files.lock, taken))
        except OSError as error:
            raise DataError(
                f"{files.lock.parent} cannot be written: {error.strerror or error}; see model_root"
            ) from None
        yield
