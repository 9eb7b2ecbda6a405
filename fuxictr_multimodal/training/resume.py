"""Settings of a resumed run: its own, but for epochs and patience, which the command line may raise."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fuxictr_multimodal.config.identity import changed_keys, computed
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import RunFiles, unfinished_runs

# How far a run goes, not what it computes.
FREE_ON_RESUME = frozenset({"epochs", "early_stop_patience"})
OTHERWISE = "--overwrite replaces it, --name NAME keeps both"


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
    found = unfinished_runs(files.report.parent, expid, seed)
    fitting = [run for run, report in found if not _contradictions(report, params, named)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.run for run in fitting)
        raise ConfigError(f"--resume: {names} are unfinished: give the --set of one of them, or its name with --name")
    if found:
        run, report = found[0]
        refuse_contradiction(report, params, named, run)
    return files


def refuse_contradiction(before: Report, params: Mapping[str, Any], named: Collection[str], files: RunFiles) -> None:
    """Refuse to resume a run with a setting of the command line that is not the run's own.

    Raises:
        ConfigError: naming the keys and both values.
    """
    if changed := _contradictions(before, params, named):
        left = files.state if files.state.is_file() else files.report
        raise ConfigError(f"{left} is left of a run of another configuration ({', '.join(changed)}): {OTHERWISE}")


def resumed_params(before: Report, params: Mapping[str, Any], named: Collection[str]) -> tuple[dict, list[str]]:
    """Parameters of a resumed run: what the command line does not name is taken from the run itself.

    Args:
        before: the report of the run.
        params: as the command and the YAML say.
        named: keys that the command line names.

    Returns:
        The parameters, and what the YAML says otherwise, each key with both values.
    """
    # Parameters that were read from a report have been through JSON; an equal value is left as the YAML gives it.
    own, now = json.loads(json.dumps([computed(before.config), computed(params)]))
    merged = dict(params)
    for key in (own.keys() | now.keys()) - set(named):
        if key not in own:
            del merged[key]
        elif key not in now or own[key] != now[key]:
            merged[key] = own[key]
    return merged, changed_keys(before.config, params, named)


def refuse_shrinking(before: Report, params: Mapping[str, Any], files: RunFiles) -> None:
    """Refuse fewer epochs, or less patience, than the run has that is resumed.

    Raises:
        ConfigError: naming the key and both values.
    """
    for key in sorted(FREE_ON_RESUME):
        own, now = before.config.get(key), params.get(key)
        if own is not None and now is not None and now < own:
            raise ConfigError(f"--resume: {key} of {files.run} may grow, never shrink: {own} then, {now} now")


def _contradictions(before: Report, params: Mapping[str, Any], named: Collection[str]) -> list[str]:
    unnamed = (before.config.keys() | params.keys()) - set(named)
    return changed_keys(before.config, params, {*unnamed, *FREE_ON_RESUME})
