"""A whole comparison from one file: tune the models, then run the seeds on one dataset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.comparison.settings import Comparison, Tuning
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.plans import Plan, expand
from fuxictr_multimodal.launch.run_many import run_many, train
from fuxictr_multimodal.launch.tuning.folder import write_yaml
from fuxictr_multimodal.launch.tuning.run import tune

if TYPE_CHECKING:
    from fuxictr_multimodal.training.report import Report


def compare(comparison: Comparison, *, gpus: Sequence[int]) -> list[Outcome]:
    """Run what a comparison still lacks: trials, then the seeds of the winners and of the other expids.

    Finished trials and runs are skipped and unfinished ones resume, so that a stopped command can be repeated.

    Args:
        comparison: what to run.
        gpus: one GPU index a slot, -1 for the CPU.

    Returns:
        The outcomes of the runs of all seeds, winners first.

    Raises:
        InputError: a file, an experiment or the data is wrong, or a model has no completed trial.
        Interrupted: while trials run.
    """
    plans: list[Plan] = []
    if comparison.tuning is not None:
        _tune(comparison.tuning, gpus)
        winners = _write_winners(comparison.tuning)
        plans += expand(winners, "*", comparison.seeds)
    if comparison.expids:
        plans += expand(comparison.config_dir, ",".join(comparison.expids), comparison.seeds)
    return run_many(plans, {"resume": True}, gpus=gpus, run=_run_by_name)


def _run_by_name(*, expid: str, **arguments: Any) -> tuple[Report, Path]:
    """Run exactly what has this name: `--resume` alone could mean an unfinished run of other settings."""
    return train(expid=expid, name=expid, **arguments)


def _tune(tuning: Tuning, gpus: Sequence[int]) -> None:
    """Run the trials that the sweeps of the models still lack."""
    for trials, group in itertools.groupby(tuning.expids, key=tuning.trials.__getitem__):
        expids = list(group)
        sweeps = tune(
            tuning.config,
            expids,
            gpus=gpus,
            search=tuning.search,
            trials=trials,
            seed=tuning.seed,
            prune=False,
        )
        for expid, records in zip(expids, sweeps, strict=True):
            if not any(record.status == "completed" for record in records):
                raise ConfigError(f"{expid}: no trial was completed; see {tuning.folder(expid).path / 'summary.md'}")


def _write_winners(tuning: Tuning) -> Path:
    """One config folder with the winners of all sweeps, so that their runs share the slots."""
    models: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    for expid in tuning.expids:
        best = tuning.folder(expid).path / "best"
        models |= read_yaml(best / "model_config.yaml")
        datasets |= read_yaml(best / "dataset_config.yaml")
    directory = tuning.config.with_name(f"{tuning.config.stem}_{tuning.search}_s{tuning.seed}_winners")
    directory.mkdir(exist_ok=True)
    write_yaml(directory / "model_config.yaml", models)
    write_yaml(directory / "dataset_config.yaml", datasets)
    return directory
