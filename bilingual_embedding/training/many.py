"""Several encoders and seeds in turn, each in a process of its own: one that fails does not stop the others."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilingual_embedding.training.settings import list_experiments
from fuxictr_multimodal.launch.run_many import Outcome, Plan, launch_in_process, plans_of, run_many, select
from fuxictr_multimodal.text.escape import visible

if TYPE_CHECKING:
    from bilingual_embedding.training.run_report import EmbeddingReport


def expand(config_dir: Path, expids: str, seeds: str | None) -> list[Plan]:
    """All runs that `--expid` (a name, a glob, or a list of both) and `--seeds` name, an expid's seeds together.

    Raises:
        ConfigError: an expid or glob that names nothing, or a malformed list of seeds.
    """
    return plans_of(select(expids, list_experiments(config_dir), where=config_dir), seeds, config_dir)


def train_in_turn(plans: Sequence[Plan], arguments: Mapping[str, Any], *, gpu: int) -> list[Outcome]:
    """Train the plans one after another; `arguments` are the other ones of `door.train`, the same for all."""
    return run_many(plans, arguments, gpus=[gpu], launch=functools.partial(launch_in_process, run=_train))


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print one line a run, with the reason where it did not complete."""
    for outcome in outcomes:
        reason = "" if outcome.error is None else f": {outcome.error}"
        print(visible(f"{outcome.plan.name}: {outcome.status} in {outcome.seconds / 60:.1f} min{reason}"))


def _train(
    *,
    config_dir: Path,
    expid: str,
    seed: int | None,
    gpu: int,
    overrides: Sequence[str],
    stage: str,
    resume: bool,
    overwrite: bool,
) -> tuple[EmbeddingReport, Path]:
    # In the process of a run: only here is torch imported.
    from bilingual_embedding.commands import train
    from fuxictr_multimodal.system.progress import show_lines_only

    show_lines_only()
    return train(
        config_dir=config_dir,
        expid=expid,
        gpu=gpu,
        seed=seed,
        overrides=overrides,
        stage=stage,
        resume=resume,
        overwrite=overwrite,
    )
