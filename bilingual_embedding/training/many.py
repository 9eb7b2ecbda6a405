"""Several encoders and seeds in turn, each in its own process: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilingual_embedding.training.settings import list_experiments
from fuxictr_multimodal.launch import plans
from fuxictr_multimodal.launch.job import Outcome
from fuxictr_multimodal.launch.plans import Plan
from fuxictr_multimodal.launch.run_many import run_many
from fuxictr_multimodal.text.escape import visible

if TYPE_CHECKING:
    from bilingual_embedding.training.run_report import EmbeddingReport


def expand(config_dir: Path, expids: str, seeds: str | None) -> list[Plan]:
    """All runs of text encoders that `--expid` and `--seeds` name; see `plans.expand`."""
    return plans.expand(config_dir, expids, seeds, known=list_experiments(config_dir))


def train_in_turn(asked: Sequence[Plan], arguments: Mapping[str, Any], *, gpu: int) -> list[Outcome]:
    """Train the plans one after another; `arguments` are the other ones of `commands.train`, the same for all."""
    return run_many(asked, arguments, gpus=[gpu], run=_train)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print one line per run, with the reason where it did not complete."""
    for outcome in outcomes:
        reason = "" if outcome.error is None else f": {outcome.error}"
        print(visible(f"{outcome.name}: {outcome.status} in {outcome.seconds / 60:.1f} min{reason}"))


def _train(**arguments: Any) -> tuple[EmbeddingReport, Path]:
    # Called in the process of the run, the only one that imports torch.
    from bilingual_embedding.commands import train
    from fuxictr_multimodal.system.progress import show_lines_only

    show_lines_only()
    return train(**arguments)
