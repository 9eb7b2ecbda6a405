"""Which settings a resumed run has: its own, but for what the command line may change."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import STAGES, Experiment, experiment_of
from fuxictr_multimodal.errors import ConfigError

# Where and how a run is computed, not what.
FREE = frozenset("data_root model_root save_steps memory_tokens backend gradient_checkpointing obtain".split())


def plain_settings(experiment: Experiment) -> dict[str, Any]:
    """All settings as they stand in the report, in the types of JSON."""
    return experiment.model_dump(mode="json")


def resumed_experiment(
    report: EmbeddingReport, configured: Experiment, *, overrides: Sequence[str], seed: int | None
) -> Experiment:
    """The settings of the run itself, with the overrides of the command line over them.

    Where the configuration says something else by now, a logged line names it.

    Args:
        report: of the run.
        configured: what the configuration and the overrides say; the run was found below its `model_root`.
        overrides: `key=value` texts of the command line.
        seed: of the command line.
    """
    own = experiment_of(report.config, report.expid, overrides=overrides, seed=seed)
    own = own.model_copy(update={"model_root": configured.model_root})
    others = _differences(plain_settings(configured), plain_settings(own))
    told = [f"{key}: {new} (the configuration says {old})" for key, (old, new) in others.items() if key not in FREE]
    if told:
        logging.warning("%s keeps its own settings: %s", report.expid, ", ".join(told))
    return own


def changed_settings(report: EmbeddingReport, experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """By key what a run was started with and what is asked for now, where they differ and it matters."""
    before = plain_settings(experiment_of(report.config, report.expid))
    found = _differences(before, plain_settings(experiment))
    return {key: values for key, values in found.items() if key not in FREE}


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
    refused = []
    for key, (old, new) in changed_settings(report, experiment).items():
        stage, _, name = key.partition(".")
        open_stage = stage in STAGES and stage not in trained
        if name == "steps" and open_stage and new > old:
            continue
        # A stage may also be added after the last one.
        if not name and open_stage and old is None and not set(STAGES[STAGES.index(stage) :]) & set(trained):
            continue
        hint = ""
        if name == "steps":
            hint = " (steps may grow, never shrink)" if open_stage else f" ({stage} is trained already)"
        refused.append(f"{key}: {old} then, {new} now{hint}")
    if refused:
        raise ConfigError(
            f"{where} is left of a run with other settings ({', '.join(refused)}): "
            "--resume without them resumes it, --overwrite trains anew"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> dict[str, tuple[Any, Any]]:
    """Values that differ, by dotted key."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.update(_differences(old, new, f"{path}{key}."))
        elif old != new:
            found[path + key] = old, new
    return found
