"""One experiment: from an expid to a trained model, its report and FuxiCTR's result line."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json
from tqdm.contrib.logging import logging_redirect_tqdm

from fuxictr_multimodal.config.identity import changed_keys, config_hash
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.errors import ConfigError, DataError, InputError
from fuxictr_multimodal.system.files import kept_if_possible, remove_stale_temporaries, replace_atomically
from fuxictr_multimodal.system.interruption import Interrupted, interruption_kept
from fuxictr_multimodal.system.machine import keep_freed_memory
from fuxictr_multimodal.system.reduced_precision import Choice
from fuxictr_multimodal.training import report as reports
from fuxictr_multimodal.training.curves import draw_curves_beside
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.resume import (
    OTHERWISE,
    files_to_resume,
    refuse_contradiction,
    refuse_shrinking,
    resumed_params,
)
from fuxictr_multimodal.training.run_names import RunFiles, is_unfinished, named_keys
from fuxictr_multimodal.training.tracking import Tracker, make_tracker
from fuxictr_multimodal.training.trainer import Progress, Trainer


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
    resumes from its last evaluation, with the same loss trace as if it had not been killed, by its own settings: what
    `overrides` name must be the run's own, but for epochs and patience, which may be more.

    Args:
        config_dir: folder of the configs.
        expid: the experiment.
        gpu: index of the GPU, -1 for the CPU.
        seed: instead of the configuration's.
        overrides: `key=value`, the last word on a key.
        name: of the run; by default that of the experiment and of the settings that `overrides` change.
        resume: whether an unfinished run is resumed.
        overwrite: whether a run that is there is replaced.
        tracker: told of every evaluation, by name.

    Returns:
        The report and its file.

    Raises:
        InputError: whatever is wrong with the configuration or the data; a run that is there, and neither `resume` nor
            `overwrite`; a result that cannot be written.
        Interrupted: the report says so, and what was trained up to the last evaluation can be resumed.
    """
    keep_freed_memory()
    given = {"expid": expid, "seed": seed}
    experiment = Experiment.load(config_dir, **given, gpu=gpu, overrides=overrides, name=name, reading=False)
    named, files, notes = named_keys(overrides, seed), experiment.files, []
    if resume and not overwrite and name is None:
        files = files_to_resume(files, experiment.params, named, **given)
    with _only_process(files):
        remove_stale_temporaries(files.replaced)
        before = Report.read(files.report) if files.report.is_file() and not overwrite else None
        if before is not None and before.status == "completed":
            found, params = f"{files.report} holds a complete run", experiment.params
            if resume:
                _refuse_another_experiment(before, experiment, found)
                params, _ = resumed_params(before, params, named)
            _refuse_another(before, params, experiment, found)
            files.state.unlink(missing_ok=True)  # of a run that was killed between its report and its end
            logging.warning("%s is complete; --overwrite runs it again", files.report)
            return before, files.report
        if files.state.is_file() and not (resume or overwrite):
            raise ConfigError(
                f"{files.state} is left of an unfinished run: --resume continues it, --overwrite starts anew"
            )
        if resume and not overwrite and is_unfinished(files, before):
            experiment, notes = _resumed(experiment, before, files, named)
        if overwrite:
            files.state.unlink(missing_ok=True)
        with contextlib.closing(make_tracker(tracker, files.tracker)) as scalars:
            report = _run(experiment, files, scalars, before=before, notes=notes)
    # FuxiCTR names its result csv after the config folder and writes it into the working folder.
    reports.append_csv_line(Path(config_dir.resolve().name + ".csv"), report, sys.argv)
    return report, files.report


def _resumed(
    experiment: Experiment, before: Report | None, files: RunFiles, named: frozenset[str]
) -> tuple[Experiment, list[str]]:
    """An experiment with the settings of the run that it resumes, and a note where the YAML says otherwise."""
    if before is None:
        raise ConfigError(f"{files.state} has no report, so its settings are not known: --overwrite starts anew")
    found = f"{files.state} is left of a run"
    _refuse_another_experiment(before, experiment, found)
    refuse_contradiction(before, experiment.params, named, files)
    _refuse_another_build(before, experiment, found)
    params, differing = resumed_params(before, experiment.params, named)
    params["model_id"] = files.run
    refuse_shrinking(before, params, files)
    notes = []
    if differing:
        notes.append(f"Resumed with settings of its own, which the configuration does not have: {', '.join(differing)}")
    return Experiment.of(params, experiment.expid), notes


def _run(
    experiment: Experiment,
    files: RunFiles,
    tracker: Tracker,
    *,
    before: Report | None,
    notes: Sequence[str],
) -> Report:
    """Train and test, from the state where there is one, under the run's log; whatever happens, the report says so."""
    resume = files.state.is_file()
    started = time.perf_counter() - (before.seconds if resume and before else 0.0)
    params, manifest = experiment.params, experiment.store.manifest
    report = Report(
        expid=experiment.run,
        experiment=experiment.expid,
        model=params["model"],
        dataset_id=params["dataset_id"],
        seed=params["seed"],
        dataset_facts=manifest.facts,
        versions=reports.versions(),
        commit=reports.git_commit(),
        config=params,
        config_hash=config_hash(params),
        manifest_hash=manifest.hash,
    )

    def write_report() -> None:
        report.seconds = round(time.perf_counter() - started, 3)
        report.peak_memory_mib = reports.peak_memory_mib()
        report.write(files.report)

    def publish(progress: Progress) -> None:
        report.curve = [asdict(row) for row in progress.curve]
        report.best_epoch = progress.best_epoch
        report.rows_per_s["train"] = round(progress.train_rows / max(progress.train_seconds, 1e-9), 1)
        write_report()
        tracker.evaluated(report.curve)

    with _log_to(files.log, append=resume), logging_redirect_tqdm():
        for note in notes:
            logging.warning("%s", note)
        write_report()
        try:
            with interruption_kept():
                scores = _train_and_score(experiment, files, report, publish, resumed=before if resume else None)
            with kept_if_possible(files.predictions):
                _write_predictions(files.predictions, scores)
            tracker.finished(report.metrics)
        except KeyboardInterrupt as error:
            interrupted = Interrupted.of(error, _left(files))
            logging.warning("Interrupted by %s", interrupted.number.name)
            _end(report, "interrupted", f"interrupted by {interrupted.number.name}", write_report)
            raise interrupted from None
        except BaseException as error:
            if isinstance(error, InputError):
                logging.error("%s", error)
            _end(report, "failed", f"{type(error).__name__}: {error}", write_report)
            raise
        finally:
            draw_curves_beside(report, files.report)
        report.status = "completed"
        write_report()
        # Only now: a run that is killed before its report says so is resumed, not trained again.
        files.state.unlink(missing_ok=True)
    return report


def _write_predictions(path: Path, scores: Mapping[str, np.ndarray]) -> None:
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **scores)


def _end(report: Report, status: str, error: str, write_report: Callable[[], None]) -> None:
    """Say in the report why a run ended; the reason itself matters more than that it cannot be written."""
    report.status, report.error = status, error
    with contextlib.suppress(InputError):
        write_report()


def _left(files: RunFiles) -> str:
    if files.state.is_file():
        return f"{files.state} holds its last evaluation, the same command with --resume resumes it"
    return "there was no evaluation yet, so the same command with --resume starts anew"


def _train_and_score(
    experiment: Experiment,
    files: RunFiles,
    report: Report,
    publish: Callable[[Progress], None],
    *,
    resumed: Report | None,
) -> dict[str, np.ndarray]:
    """Train, then score valid and test once each; their metrics go into the report."""
    params = experiment.params
    model, to_inputs, feature_map = _build(experiment, report, resumed)
    trainer = Trainer(
        model,
        to_inputs=to_inputs,
        epochs=params["epochs"],
        max_gradient_norm=params.get("max_gradient_norm", 10.0),
        save_best_only=params.get("save_best_only", True),
        plateau_factor=params.get("factor"),
        weight_averaging=params.get("weight_averaging") or 0.0,
        state_file=files.state,
        on_evaluation=publish,
    )
    if resumed is not None:
        trainer.resume()
        publish(trainer.progress)
    train, valid = experiment.loaders("train", feature_map, model.device)
    publish(trainer.fit(train, valid))
    del train
    scores = {}
    logging.info("****** Validation evaluation ******")
    scores["valid_scores"] = _score("valid", trainer, valid, report)
    del valid
    if experiment.store.split_path("test") is not None:
        logging.info("******** Test evaluation ********")
        test = experiment.loaders("test", feature_map, model.device)
        scores["test_scores"] = _score("test", trainer, test, report)
    return scores


def _build(experiment: Experiment, report: Report, resumed: Report | None):
    """Seed everything, then construct feature map, model and input layout; logs what FuxiCTR logs."""
    logging.info("Params: %s", print_to_json(experiment.params))
    seed_everything(seed=experiment.params["seed"])
    feature_map = experiment.feature_map()
    logging.info("Feature specs: %s", print_to_json(feature_map.features))
    model, to_inputs = experiment.build_model(feature_map)
    precision = getattr(model, "precision", None)
    if isinstance(getattr(precision, "choice", None), Choice):
        if resumed is not None and resumed.precision:
            precision.keep(resumed.precision["used"])
        report.precision = precision.choice.as_dict()
    report.parameters = reports.count_parameters(model)
    logging.info("Total number of parameters: %d.", report.parameters["total"])
    return model, to_inputs, feature_map


def _score(split: str, trainer: Trainer, loader: MultimodalDataLoader, report: Report) -> np.ndarray:
    """Score a split once; put its metrics, where it has labels, and the speed into the report.

    A metric that is not defined on the split, such as gAUC where no user has both labels, is None.
    """
    predictions = trainer.predict(loader)
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


def _refuse_another(before: Report, params: Mapping[str, Any], experiment: Experiment, found: str) -> None:
    """A run of other settings or another dataset build is not returned as this one or overwritten.

    Args:
        before: the report that is there.
        params: what is asked for.
        experiment: reads the dataset build that is asked for.
        found: what is there, for the error.
    """
    if changed := changed_keys(before.config, params):
        raise ConfigError(f"{found} of another configuration ({', '.join(changed)}): {OTHERWISE}")
    _refuse_another_build(before, experiment, found)


def _refuse_another_experiment(before: Report, experiment: Experiment, found: str) -> None:
    """A run that is resumed keeps its settings, so `--name` must not give it to an experiment that has others."""
    # An older report does not say whether `_s5` ends the name of the experiment or of its seed.
    if experiment.expid not in (before.experiment, before.run):
        raise ConfigError(f"{found} of {before.experiment!r}, not of {experiment.expid!r}: {OTHERWISE}")


def _refuse_another_build(before: Report, experiment: Experiment, found: str) -> None:
    if before.manifest_hash != experiment.store.manifest.hash:
        raise ConfigError(f"{found} of another build of the dataset: {OTHERWISE}")


@contextlib.contextmanager
def _only_process(files: RunFiles) -> Iterator[None]:
    """Two processes must not write the files of one run; the system frees the lock of a killed one."""
    lock = filelock.FileLock(files.lock, timeout=0)
    try:
        files.lock.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(
            f"another process is running {files.run!r}; wait for it, or give another --seed or --name"
        ) from None
    except OSError as error:
        raise DataError(f"{files.lock.parent} cannot be written: {error.strerror or error}; see model_root") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _log_to(path: Path, *, append: bool) -> Iterator[None]:
    """Log to `path` and stderr in FuxiCTR's format, and leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler()]
    with kept_if_possible(path):
        root.handlers.append(_LogFile(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace"))
    for handler in root.handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log_file in root.handlers[1:]:
            with contextlib.suppress(OSError):
                log_file.close()
        root.handlers[:] = handlers
        root.setLevel(level)


class _LogFile(logging.FileHandler):
    """A log file that is given up, with one warning, where it cannot be written any more."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called in place of an error of the write."""
        logging.getLogger().removeHandler(self)
        with contextlib.suppress(OSError):
            self.close()
        with kept_if_possible(Path(self.baseFilename)):
            raise
