"""Rules for resuming an encoder's run: which settings may change, and which stages may get more steps."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import STAGES, Experiment, experiment_of
from fuxictr_multimodal.config.changes import Change, changes
from fuxictr_multimodal.training.resume import growth, kept_note, named_keys, own_settings, refuse
from fuxictr_multimodal.training.state_owner import Owner

# Where and how a run is computed, not what.
FREE = frozenset(
    "data_root model_root save_steps save_minutes memory_tokens backend gradient_checkpointing obtain".split()
)

# A run that was copied elsewhere has its files where the configuration says, not where they were.
PLACES = frozenset({"data_root", "model_root"})


def plain_settings(experiment: Experiment) -> dict[str, Any]:
    """All settings as they stand in the report, in the types of JSON."""
    return experiment.model_dump(mode="json")


def resumed_experiment(
    report: EmbeddingReport, configured: Experiment, *, overrides: Sequence[str], seed: int | None
) -> Experiment:
    """The settings of the run itself, with what the command line names from the configuration.

    Where the configuration says something else, a logged line names it.

    Args:
        report: of the run.
        configured: what the configuration and the overrides say; the run was found below its `model_root`.
        overrides: `key=value` texts of the command line.
        seed: of the command line.
    """
    asked = plain_settings(configured)
    before = plain_settings(experiment_of(report.config, report.expid))
    own = own_settings(before, asked, {*named_keys(overrides, seed), *PLACES})
    note = kept_note(report.expid, [change for change in changes(own, asked) if change.key not in FREE])
    if note is not None:
        logging.warning("%s", note)
    return experiment_of(own, report.expid)


def changed_settings(report: EmbeddingReport, experiment: Experiment) -> list[Change]:
    """What a run was started with and what is asked for now, where they differ and it matters."""
    before = plain_settings(experiment_of(report.config, report.expid))
    return [change for change in changes(before, plain_settings(experiment)) if change.key not in FREE]


def check_resumable(report: EmbeddingReport, experiment: Experiment, *, trained: Collection[str], where: str) -> None:
    """Refuse to resume a run with other settings; the steps of a stage that is not trained yet may grow.

    Args:
        report: of the run.
        experiment: what is asked for.
        trained: stages that are trained.
        where: what is left of the run, for the error.

    Raises:
        ConfigError: naming each changed key with both values.
    """

    def objection(change: Change) -> str | None:
        stage, _, name = change.key.partition(".")
        if stage not in STAGES:
            return ""
        if name == "steps":
            return f" ({stage} is trained already)" if stage in trained else growth(change)
        # A stage may be added after the last one that is trained.
        added = not name and change.then is None and not set(STAGES[STAGES.index(stage) :]) & set(trained)
        return None if added else ""

    refuse(
        changed_settings(report, experiment),
        objection,
        where=f"{where} is left of a run",
        remedy="--resume without them continues it, --overwrite trains from scratch",
    )


def owner_of(experiment: Experiment, stage: str, expid: str) -> Owner:
    """The run that a state of a stage belongs to.

    Args:
        experiment: its settings.
        stage: that is trained: later ones have no part in its state, and its steps may grow.
        expid: name of the experiment.
    """
    later = STAGES[STAGES.index(stage) + 1 :]
    trained_on = set(experiment.trained_on())

    def may_differ(key: str) -> bool:
        group, _, rest = key.partition(".")
        if group == "data":
            return rest.partition(".")[0] not in trained_on
        return key in FREE or group in later or group == "evaluation" or key == f"{stage}.steps"

    def up_to_date(settings: Mapping[str, Any]) -> dict[str, Any]:
        return plain_settings(experiment_of(settings, expid))

    return Owner(plain_settings(experiment), may_differ, up_to_date=up_to_date)
