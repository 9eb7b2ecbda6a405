"""Find the run that a command refers to: by its settings, or under an older or another name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from fuxictr_multimodal.config.changes import Change, changes
from fuxictr_multimodal.config.identity import RAW_FILES, computed
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import locked
from fuxictr_multimodal.training.report import Report
from fuxictr_multimodal.training.run_names import REPORT_SUFFIX, RunFiles, seed_suffix, settings_suffix

# Settings that a command which reads a trained run may choose anew: they change no weight and no score.
READING_KEYS = frozenset({"batch_size"})


def run_name(
    directory: Path,
    params: Mapping[str, Any],
    *,
    expid: str,
    seed: int | None = None,
    given: Mapping[str, Any] | None = None,
    name: str | None = None,
    reading: bool = False,
) -> str:
    """Name of the run that a command means.

    It is `<expid>`, then `@<settings>` for settings that differ from the YAML's, then `_s<seed>` for a seed of the
    command line; or `<name>` and the seed. A run of exactly these settings that is there without `@<settings>`, as
    older versions named it, is meant too.

    Args:
        directory: where the runs of the dataset are.
        params: all settings of the run.
        expid: the experiment.
        seed: given on the command line, or None.
        given: settings that differ from the experiment's own; see `settings_given`.
        name: replaces expid and settings.
        reading: whether a trained run is looked for, which may be read with other `READING_KEYS`.

    Raises:
        ConfigError: a name that is not a plain file name.
    """
    given = dict(given or {})
    # `--set seed=3` is `--seed 3` in other words.
    other_seed = given.pop("seed", None)
    own_seed = other_seed if seed is None else seed
    if name is not None:
        return check_plain_name(name, "--name") + seed_suffix(own_seed)
    found = expid + settings_suffix(given) + seed_suffix(own_seed)
    if RunFiles(directory, found).report.is_file():
        return found
    # Older versions named only the seed of `--seed`.
    for older in dict.fromkeys((expid + seed_suffix(own_seed), expid + seed_suffix(seed))):
        report = _report(RunFiles(directory, older))
        if report is not None and not changed_settings(report, params):
            return older
    if reading:
        for files, report in _runs_of(directory, expid, own_seed):
            if {change.key for change in changed_settings(report, params)} <= READING_KEYS:
                return files.run
        needed = {key: value for key, value in given.items() if key not in READING_KEYS}
        found = expid + settings_suffix(needed) + seed_suffix(own_seed)
    return check_plain_name(found, "run name")


def changed_settings(report: Report, params: Mapping[str, Any]) -> list[Change]:
    """How parameters differ from those of a run, in what they compute.

    Where raw files lie is no such difference: the dataset says of which it was built, and the report of which dataset.
    """
    found = changes(computed(report.config), computed(params))
    return [change for change in found if change.key not in RAW_FILES]


def unfinished_runs(directory: Path, expid: str, seed: int | None) -> list[tuple[RunFiles, Report]]:
    """Runs of an experiment that `--resume` may mean: unfinished, with this seed of the command line, not running now.

    Runs that were named with `--name` are left out.
    """
    runs = _runs_of(directory, expid, seed)
    return [(files, report) for files, report in runs if is_unfinished(files, report) and not _is_running(files)]


def is_unfinished(files: RunFiles, report: Report | None) -> bool:
    """Whether a run has something to resume: a state, or what it was about to do when it was stopped before that."""
    return files.left is not None or (report is not None and report.status in ("running", "interrupted"))


def _runs_of(directory: Path, expid: str, seed: int | None) -> Iterator[tuple[RunFiles, Report]]:
    """Runs of an experiment, with this seed of the command line, that `--name` did not name; sorted by name."""
    form = re.compile(rf"{re.escape(expid)}(@.+?)?(?P<seed>_s\d+)?")
    for path in sorted(directory.glob(f"*{REPORT_SUFFIX}")):
        files = RunFiles.of_report(path)
        match = form.fullmatch(files.run)
        if match and (match["seed"] or "") == seed_suffix(seed) and (report := _report(files)):
            yield files, report


def _is_running(files: RunFiles) -> bool:
    try:
        with locked(files.lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


def _report(files: RunFiles) -> Report | None:
    try:
        return Report.read(files.report) if files.report.is_file() else None
    except DataError:
        return None
