"""One experiment: from an expid to a trained model, its report and the toolkit's result line."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import print_to_json
from tqdm.contrib.logging import logging_redirect_tqdm

from fuxictr_multimodal import report as reports
from fuxictr_multimodal.config import changed_keys, config_hash
from fuxictr_multimodal.curves import draw_curves_beside
from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.experiment import Experiment
from fuxictr_multimodal.files import replace_atomically
from fuxictr_multimodal.loader import MultimodalDataLoader
from fuxictr_multimodal.machine import keep_freed_memory
from fuxictr_multimodal.report import Report
from fuxictr_multimodal.tracking import Tracker, make_tracker
from fuxictr_multimodal.trainer import Progress, Trainer

# What a killed run may be given more of when it goes on.
FREE_ON_RESUME = frozenset({"epochs", "early_stop_patience"})


class RunFiles:
    """The files of one run, `<model_root>/<dataset_id>/<run>.*`; the checkpoint `.model` is the toolkit's own."""

    def __init__(self, directory: Path, run: str) -> None:
        self.run = run
        self.log = directory / f"{run}.log"
        self.report = directory / f"{run}.report.json"
        self.predictions = directory / f"{run}.predictions.npz"
        self.state = directory / f"{run}.state"
        self.tracker = directory / f"{run}.tensorboard"
        self.lock = directory / f".{run}.lock"


def run_experiment(
    *,
    config_dir: Path,
    expid: str,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    tracker: str | None = None,
) -> tuple[Report, Path]:
    """Train one expid with one seed, evaluate it once on test, and write its report.

    A run that is complete is not run again unless `overwrite`; its report is returned. With `resume` a killed run goes
    on from its last evaluation, with the same loss trace as if it had not been killed; it may be given more epochs or
    patience then, and nothing else. A `tracker` by name is told of every evaluation.

    Returns:
        The report and its file.

    Raises:
        InputError: whatever is wrong with the configuration or the data.
    """
    keep_freed_memory()
    experiment = Experiment.load(config_dir, expid, gpu=gpu, seed=seed, overrides=overrides)
    experiment.directory.mkdir(parents=True, exist_ok=True)
    files = RunFiles(experiment.directory, experiment.run)
    with _only_process(files):
        before = Report.read(files.report) if files.report.is_file() and not overwrite else None
        if before is not None and before.status == "completed":
            _refuse_another(before, experiment, f"{files.report} holds a complete run")
            logging.warning("%s is complete; --overwrite runs it again", files.report)
            return before, files.report
        resume = resume and not overwrite and files.state.is_file()
        if resume and before is not None:
            _refuse_another(before, experiment, f"{files.state} is left of a run", free=FREE_ON_RESUME)
        with contextlib.closing(make_tracker(tracker, files.tracker)) as scalars:
            report = _run(experiment, files, scalars, resume=resume)
    # The toolkit names its result csv after the config folder and writes it into the working folder.
    reports.append_csv_line(Path(config_dir.resolve().name + ".csv"), report, sys.argv)
    return report, files.report


def _run(experiment: Experiment, files: RunFiles, tracker: Tracker, *, resume: bool) -> Report:
    """Train and test under the run's log; whatever happens, the report on disk says so."""
    started = time.perf_counter()
    params, manifest = experiment.params, experiment.store.manifest
    report = Report(
        expid=experiment.run,
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
        write_report()
        try:
            model, to_inputs, feature_map = _build(experiment, report)
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
            if resume:
                trainer.resume()
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
            with replace_atomically(files.predictions) as temporary, temporary.open("wb") as file:
                np.savez(file, **scores)
            tracker.finished(report.metrics)
            trainer.discard_state()
            report.status = "completed"
        except BaseException as error:
            report.status, report.error = "failed", f"{type(error).__name__}: {error}"
            if isinstance(error, InputError):
                logging.error("%s", error)
            raise
        finally:
            write_report()
            draw_curves_beside(report, files.report)
    return report


def _build(experiment: Experiment, report: Report):
    """Seed everything, then construct feature map, model and input layout; logs what the toolkit logs."""
    logging.info("Params: %s", print_to_json(experiment.params))
    seed_everything(seed=experiment.params["seed"])
    feature_map = experiment.feature_map()
    logging.info("Feature specs: %s", print_to_json(feature_map.features))
    model, to_inputs = experiment.build_model(feature_map)
    report.parameters = reports.count_parameters(model)
    logging.info("Total number of parameters: %d.", report.parameters["total"])
    return model, to_inputs, feature_map


def _score(split: str, trainer: Trainer, loader: MultimodalDataLoader, report: Report) -> np.ndarray:
    """Score a split once; put its metrics, where it has labels, and the speed into the report."""
    predictions = trainer.predict(loader)
    report.rows_per_s["score"] = round(predictions.rows_per_s, 1)
    if predictions.labels is None:
        logging.info("The %s split has no labels: its scores are kept, it has no metrics", split)
    else:
        report.metrics[split] = predictions.evaluate(trainer.model.validation_metrics)
        logging.info("[Metrics] " + " - ".join(f"{k}: {v:.6f}" for k, v in report.metrics[split].items()))
    return predictions.scores.astype(np.float32)


def _refuse_another(before: Report, experiment: Experiment, found: str, *, free: frozenset[str] = frozenset()) -> None:
    """A run of other settings or another dataset build is not returned as this one, gone on with or overwritten.

    Args:
        before: the report that is there.
        experiment: what is asked for.
        found: what is there, for the error.
        free: keys that may differ.
    """
    mend = "--overwrite replaces it; another expid keeps it"
    if changed := changed_keys(before.config, experiment.params, free):
        raise ConfigError(f"{found} of another configuration ({', '.join(changed)}): {mend}")
    if before.manifest_hash != experiment.store.manifest.hash:
        raise ConfigError(f"{found} of another build of the dataset: {mend}")


@contextlib.contextmanager
def _only_process(files: RunFiles) -> Iterator[None]:
    """Two processes must not write the files of one run; the system frees the lock of a killed one."""
    try:
        with filelock.FileLock(files.lock, timeout=0):
            yield
    except filelock.Timeout:
        raise ConfigError(f"another process is running {files.run!r}; wait for it, or give another --seed") from None


@contextlib.contextmanager
def _log_to(path: Path, *, append: bool) -> Iterator[None]:
    """Log to `path` and stderr in the toolkit's format, and leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log_file = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
    root.handlers[:] = [log_file, logging.StreamHandler()]
    for handler in root.handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s P%(process)d %(levelname)s %(message)s"))
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        log_file.close()
