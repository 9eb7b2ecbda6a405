"""What `run_embedding.py` does once its arguments are parsed: open the run, train or encode, print the result."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from bilingual_embedding.data.sources import read_evaluation
from bilingual_embedding.evaluation.mteb_tasks import LocalTasks, Model, import_mteb
from bilingual_embedding.evaluation.published import load_published
from bilingual_embedding.evaluation.scores import Embed, evaluate, lexical_baselines
from bilingual_embedding.model.checkpoint import WEIGHTS
from bilingual_embedding.training.resuming import resumed_experiment
from bilingual_embedding.training.run_folder import run_name
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.runner import EmbeddingRun
from bilingual_embedding.training.settings import load_experiment
from bilingual_embedding.training.start import Start
from bilingual_embedding.vectors.encoding import embedding_of
from bilingual_embedding.vectors.text_vectors import TextFile, embed_by, embed_by_published, write_vectors
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import sha256
from fuxictr_multimodal.system.gpus import check_gpus
from fuxictr_multimodal.system.reduced_precision import choose
from fuxictr_multimodal.training.recorder import print_summary


def train(
    *,
    config_dir: Path,
    expid: str,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    stage: str = "all",
    resume: bool = False,
    overwrite: bool = False,
) -> tuple[EmbeddingReport, Path]:
    """Train or evaluate, print the summary, return the report and its file.

    With `resume` a stopped run is resumed by its own settings and what `overrides` add to them, and so it is evaluated;
    a finished run is left alone.
    """
    with logged(run_name(expid, seed)):
        run = _run(config_dir, expid, gpu, seed, overrides)
        own = (resume and not overwrite) or stage == "evaluate"
        if own and run.files.begun() and run.report.config and run.report.status != "completed":
            experiment = resumed_experiment(run.report, run.experiment, overrides=overrides, seed=seed)
            run = EmbeddingRun(
                expid, experiment, run_name=run.files.path.name, device=run.device, start=Start.of(experiment, seed)
            )
        report = run.execute(stage, resume=resume, overwrite=overwrite)
    print_summary(report, run.files.report)
    return report, run.files.report


def encode(
    *,
    config_dir: Path,
    expid: str,
    file: TextFile,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    published: str | None = None,
) -> dict:
    """Encode a file by the last trained stage, or by a published encoder; print the result as JSON and return it."""
    with logged(published or run_name(expid, seed)):
        if published is not None:
            embed = load_published(_published(published), device=str(_device(gpu)), progress=True)
            result = write_vectors(file, embed_by_published(embed))
        else:
            run = _run(config_dir, expid, gpu, seed, overrides)
            encoder, tokenizer = run.load()
            precision = choose(run.experiment.precision, run.device, bfloat16="bfloat16").used
            result = write_vectors(file, embed_by(encoder, tokenizer, precision=precision, progress=True))
            result["precision"] = precision
    result = {"output": str(file.target), **result}
    print(json.dumps(result))
    return result


def evaluate_published(
    *,
    config_dir: Path,
    expid: str,
    name: str,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> dict:
    """Score a published encoder on the evaluation sets; print and return its scores and the lexical baselines."""
    with logged(name):
        run = _run(config_dir, expid, gpu, seed, overrides)
        embed = load_published(_published(name), device=str(run.device))
        scored_ones = len(run.experiment.evaluation.sources) if run.experiment.evaluation else 0
        sources = read_evaluation(run.experiment)[:scored_ones]
        scores = evaluate(sources, embed, progress=True)
        result = {"published": name, "scores": scores, "floors": lexical_baselines(sources, progress=True)}
    print(json.dumps(result, allow_nan=False))
    return result


def evaluate_mteb(
    *,
    config_dir: Path,
    expid: str,
    folder: Path,
    gpu: int = -1,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    published: str | None = None,
) -> dict:
    """Run the experiment's tasks of MTEB by the last trained stage, or by a published encoder.

    Files in mteb's format are written below `folder`. Their paths and the main scores are printed and returned.

    Raises:
        ConfigError: see `LocalTasks`; or the experiment names no task.
    """
    with logged(published or run_name(expid, seed)):
        run = _run(config_dir, expid, gpu, seed, overrides)
        settings = run.experiment.evaluation
        if settings is None or not settings.mteb:
            raise ConfigError(
                f"expid {expid!r} names no task: write one under `evaluation: mteb`, see docs/settings.md"
            )
        import_mteb()
        if published is None:
            embed, model = _trained(run, max_length=settings.max_length)
        else:
            embed = load_published(_published(published), device=str(run.device), progress=True)
            model = Model(_organisation_and_name(published), revision="unknown")
        sources = {source.name: source for source in read_evaluation(run.experiment)}
        result = {"model": model.name, **LocalTasks(settings.mteb, sources).evaluate(embed, model, folder)}
    print(json.dumps(result, allow_nan=False))
    return result


def _trained(run: EmbeddingRun, *, max_length: int) -> tuple[Embed, Model]:
    """The last trained stage, in the precision in which the run is evaluated."""
    encoder, tokenizer = run.load()
    stage = run.files.last_trained()
    assert stage is not None  # it is loaded
    precision = run.report.used_precision or choose(run.experiment.precision, run.device, bfloat16="bfloat16").used
    embed = embedding_of(encoder, tokenizer, max_length=max_length, precision=precision, progress=True)
    revision = f"{stage}-{sha256(run.files.stage(stage) / WEIGHTS)[:12]}"
    parameters = sum(p.numel() for p in encoder.parameters())
    return embed, Model(f"bilingual_embedding/{run.files.path.name}", revision, parameters)


def _organisation_and_name(published: str) -> str:
    """A published encoder's name in the form that mteb wants."""
    folder = user_path(published)
    if folder.exists():
        return f"local/{folder.resolve().name}"
    return published if "/" in published else f"sentence-transformers/{published}"


@contextlib.contextmanager
def logged(run: str) -> Iterator[None]:
    """Log to stderr under the name of a run, and leave logging as it was."""
    root = logging.getLogger()
    level = root.level
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s {run.replace('%', '%%')} %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm():
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _run(config_dir: Path, expid: str, gpu: int, seed: int | None, overrides: Sequence[str]) -> EmbeddingRun:
    experiment = load_experiment(config_dir, expid, overrides=overrides, seed=seed)
    device = _device(gpu)
    start = Start.of(experiment, seed)
    return EmbeddingRun(expid, experiment, run_name=run_name(expid, seed), device=device, start=start)


def _published(name: str) -> str:
    return str(user_path(name)) if name.startswith("~") else name


def _device(gpu: int) -> torch.device:
    check_gpus([gpu])
    return torch.device("cuda", gpu) if gpu >= 0 else torch.device("cpu")
