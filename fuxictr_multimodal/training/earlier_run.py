"""The state of a run before it starts: none, complete, to resume, or not to be replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fuxictr_multimodal.config.changes import Change
from fuxictr_multimodal.config.identity import RAW_FILES, UNHASHED_KEYS, UNREAD_KEYS, computed
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.experiment import Experiment, resumed_params
from fuxictr_multimodal.training.find_runs import changed_settings, unfinished_runs
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.resume import growth, is_named, kept_note, refuse
from fuxictr_multimodal.training.run_names import RunFiles
from fuxictr_multimodal.training.state_owner import Owner

# How far a run goes, not what it computes.
MAY_GROW = frozenset({"epochs", "early_stop_patience"})
# What else may differ between a run and its state, by any version's sorting of keys.
MAY_DIFFER = MAY_GROW | RAW_FILES | UNHASHED_KEYS | UNREAD_KEYS
REMEDY = "--overwrite replaces it, --name NAME keeps both"


def files_to_resume(
    files: RunFiles, params: Mapping[str, Any], named: Collection[str], *, expid: str, seed: int | None
) -> RunFiles:
    """The run that `--resume` means: the one that the command names, else the only unfinished one that it fits.

    A run that was started with `--set epochs=12` so resumes by `--resume` alone.

    Args:
        files: of the run that the command names.
        params: as the command and the YAML say.
        named: keys that the command line names.
        expid: the experiment.
        seed: given on the command line, or None.

    Raises:
        ConfigError: unfinished runs are there, but none or several fit the named settings.
    """
    if files.report.is_file():
        return files
    found = unfinished_runs(files.directory, expid, seed)
    fitting = [
        run for run, report in found if all(change.key in MAY_GROW for change in _contradictions(report, params, named))
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.run for run in fitting)
        raise ConfigError(f"--resume: {names} are unfinished: give the --set of one of them, or its name with --name")
    if found:
        run, report = found[0]
        _refuse_contradiction(report, params, named, run)
    return files


def complete_run(
    before: Report, experiment: Experiment, files: RunFiles, named: Collection[str], *, resume: bool
) -> None:
    """Check that a complete run is the one that is asked for.

    Args:
        before: its report.
        experiment: what is asked for.
        files: of the run.
        named: keys that the command line names.
        resume: whether what the command line does not name is the run's own.

    Raises:
        ConfigError: it is of another experiment, of other settings, or of another build of the dataset.
    """
    found, params = f"{files.report} holds a complete run", experiment.params
    if resume:
        _refuse_another_experiment(before, experiment, found)
        params = resumed_params(before, params, named)
    refuse(changed_settings(before, params), lambda change: "", where=found, remedy=REMEDY)
    _refuse_another_build(before, experiment, found)


def resumed_experiment(
    before: Report | None, experiment: Experiment, files: RunFiles, named: Collection[str]
) -> tuple[Experiment, str | None]:
    """The experiment with the settings of the run that it resumes, and a note where the YAML says otherwise.

    Args:
        before: the run's report.
        experiment: what is asked for.
        files: of the run.
        named: keys that the command line names.

    Raises:
        ConfigError: the run is of another experiment or another build of the dataset; the command line contradicts
            its settings; its report is gone.
    """
    if before is None:
        raise ConfigError(f"{files.left} has no report, so its settings are unknown: --overwrite starts over")
    found = f"{files.left or files.report} is left of a run"
    _refuse_another_experiment(before, experiment, found)
    _refuse_contradiction(before, experiment.params, named, files)
    _refuse_another_build(before, experiment, found)
    params = {**resumed_params(before, experiment.params, named), "model_id": files.run}
    differing = changed_settings(before, experiment.params)
    note = kept_note(files.run, [change for change in differing if not is_named(change.key, named)])
    return Experiment.of(params, experiment.expid), note


def owner_of(params: Mapping[str, Any], manifest_hash: str) -> Owner:
    """The run that a state belongs to.

    Args:
        params: of the run.
        manifest_hash: of its dataset.
    """
    return Owner(computed(params), may_differ=MAY_DIFFER.__contains__, data=manifest_hash)


def _contradictions(before: Report, params: Mapping[str, Any], named: Collection[str]) -> list[Change]:
    return [change for change in changed_settings(before, params) if is_named(change.key, named)]


def _refuse_contradiction(before: Report, params: Mapping[str, Any], named: Collection[str], files: RunFiles) -> None:
    left = files.left or files.report
    refuse(
        _contradictions(before, params, named),
        lambda change: growth(change) if change.key in MAY_GROW else "",
        where=f"{left} is left of a run",
        remedy=REMEDY,
    )


def _refuse_another_experiment(before: Report, experiment: Experiment, found: str) -> None:
    """A run that is resumed keeps its settings, so `--name` must not give it to an experiment that has others."""
    # An older report does not say whether `_s5` ends the name of the experiment or of its seed.
    if experiment.expid not in (before.experiment, before.run):
        raise ConfigError(f"{found} of {before.experiment!r}, not of {experiment.expid!r}: {REMEDY}")


def _refuse_another_build(before: Report, experiment: Experiment, found: str) -> None:
    if before.manifest_hash != experiment.store.manifest.hash:
        raise ConfigError(
            f"{found} of another build of the dataset: name its folder with --set data_root=DIR; {REMEDY}"
        )
