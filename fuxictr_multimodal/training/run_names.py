"""Names of runs and of their files: one place for the command that trains and for those that read what it trained."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from fuxictr_multimodal.config.identity import changed_keys, computed
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.report import REPORT_SUFFIX, Report

# A name with more than this after the expid is shortened; what is left out is in the report.
LONGEST_SUFFIX = 60
_PLAIN_TEXT = re.compile(r"[\w.-]{1,24}", re.ASCII)
# Settings that a command which reads a trained run may choose anew: they change no weight and no score.
READING_KEYS = frozenset({"batch_size"})


class RunFiles:
    """The files of one run, `<model_root>/<dataset_id>/<run>.*`."""

    def __init__(self, directory: Path, run: str) -> None:
        self.run = run
        self.log = directory / f"{run}.log"
        self.report = directory / f"{run}{REPORT_SUFFIX}"
        self.curve = directory / f"{run}.curve.png"
        self.predictions = directory / f"{run}.predictions.npz"
        self.model = directory / f"{run}.model"
        self.state = directory / f"{run}.state"
        self.tracker = directory / f"{run}.tensorboard"
        self.lock = directory / f".{run}.lock"

    @property
    def replaced(self) -> tuple[Path, ...]:
        """Those that are replaced atomically, each through a temporary file beside it."""
        return (self.report, self.curve, self.predictions, self.model, self.state)


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
        name: a name of one's own.
        reading: whether a trained run is looked for, which may be read with other `READING_KEYS`.

    Raises:
        ConfigError: a name that is no plain file name.
    """
    given = dict(given or {})
    # `--set seed=3` is `--seed 3` in other words.
    other_seed = given.pop("seed", None)
    own_seed = other_seed if seed is None else seed
    if name is not None:
        return check_plain_name(name, "--name") + seed_suffix(own_seed)
    found = expid + settings_suffix(given) + seed_suffix(own_seed)
    if (directory / f"{found}{REPORT_SUFFIX}").is_file():
        return found
    # Older versions named only the seed of `--seed`.
    for older in dict.fromkeys((expid + seed_suffix(own_seed), expid + seed_suffix(seed))):
        report = _report(directory / f"{older}{REPORT_SUFFIX}")
        if report is not None and not changed_keys(report.config, params):
            return older
    if reading:
        for files, report in _runs_of(directory, expid, own_seed):
            if not changed_keys(report.config, params, READING_KEYS):
                return files.run
        needed = {key: value for key, value in given.items() if key not in READING_KEYS}
        found = expid + settings_suffix(needed) + seed_suffix(own_seed)
    return check_plain_name(found, "run name")


def seed_suffix(seed: int | None) -> str:
    """What a seed of the command line adds to a run's name.

    >>> seed_suffix(None), seed_suffix(3)
    ('', '_s3')
    """
    return "" if seed is None else f"_s{seed}"


def settings_given(params: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that make another run of an experiment: those by which its parameters differ from its YAML.

    Where and how a run is executed makes no other run, and the dataset has a folder of its own.

    Args:
        params: as they run.
        plain: of the same experiment and dataset, nothing given on the command line.

    >>> settings_given({"epochs": 3, "gpu": 0, "synthetic": {"rows": 9, "seed": 1}},
    ...                {"epochs": 2, "synthetic": {"rows": 8, "seed": 1}})
    {'epochs': 3, 'synthetic.rows': 9}
    """
    different = {key: value for key, value in computed(params).items() if key != "dataset_id"}
    return dict(sorted(_differences(different, plain)))


def _differences(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            yield from _differences(value, old[key], f"{prefix}{key}.")
        elif key not in old or old[key] != value:
            yield f"{prefix}{key}", value


def settings_suffix(given: Mapping[str, Any]) -> str:
    """Settings as a part of a file name, sorted by key; a long rest and long values are a hash.

    >>> settings_suffix({"learning_rate": 0.001, "batch_norm": True})
    '@batch_norm=true+learning_rate=1e-3'
    >>> settings_suffix({"mlp_hidden_units": [64, 32], "net_dropout": 0.25, "group_id": None})
    '@group_id=null+mlp_hidden_units=64-32+net_dropout=0.25'
    >>> settings_suffix({f"key_{number}": number for number in range(9)})
    '@key_0=0+key_1=1+key_2=2+key_3=3+key_4=4+key_5=5+3more-4d1bf7'
    >>> settings_suffix({})
    ''
    """
    parts = [f"{key}={_value(given[key])}" for key in sorted(given)]
    text, kept = "+".join(parts), len(parts)
    while len(text) > LONGEST_SUFFIX:
        kept -= 1
        text = "+".join([*parts[:kept], f"{len(parts) - kept}more-{_digest(dict(given))}"])
    return f"@{text}" if parts else ""


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value):
        return value
    if isinstance(value, (list, tuple)) and value and not any(isinstance(item, (list, tuple, dict)) for item in value):
        text = "-".join(_value(item) for item in value)
        if _PLAIN_TEXT.fullmatch(text):
            return text
    return _digest(value)


def number_text(value: float) -> str:
    """The shortest text of a number, the same however it was written.

    >>> [number_text(value) for value in (0.001, 0.0015, 0.25, 2e-05, 100000.0, 3, 1e300)]
    ['1e-3', '0.0015', '0.25', '2e-5', '1e5', '3', '1e300']
    """
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    shortest = next(text for text in (f"{value:.{digits}e}" for digits in range(17)) if float(text) == value)
    digits, _, exponent = shortest.partition("e")
    scientific = f"{digits}e{int(exponent)}"
    plain = repr(value).removesuffix(".0")
    return plain if "e" not in plain and len(plain) <= len(scientific) else scientific


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:6]


def unfinished_runs(directory: Path, expid: str, seed: int | None) -> list[tuple[RunFiles, Report]]:
    """Runs of an experiment that `--resume` may mean: unfinished, with this seed of the command line, not at work now.

    Runs with a name of their own are left out.
    """
    runs = _runs_of(directory, expid, seed)
    return [(files, report) for files, report in runs if is_unfinished(files, report) and not _is_at_work(files)]


def _runs_of(directory: Path, expid: str, seed: int | None) -> Iterator[tuple[RunFiles, Report]]:
    """Runs of an experiment, with this seed of the command line, that have no name of their own; sorted by name."""
    form = re.compile(rf"{re.escape(expid)}(@.+?)?(?P<seed>_s\d+)?")
    for path in sorted(directory.glob(f"*{REPORT_SUFFIX}")):
        files = RunFiles(directory, path.name.removesuffix(REPORT_SUFFIX))
        match = form.fullmatch(files.run)
        if match and (match["seed"] or "") == seed_suffix(seed) and (report := _report(path)):
            yield files, report


def is_unfinished(files: RunFiles, report: Report | None) -> bool:
    """Whether a run has something to resume: its state, or what it was about to do when it was stopped before that."""
    return files.state.is_file() or (report is not None and report.status in ("running", "interrupted"))


def _is_at_work(files: RunFiles) -> bool:
    try:
        with filelock.FileLock(files.lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


def named_keys(overrides: Iterable[str], seed: int | None) -> frozenset[str]:
    """Keys of an experiment's parameters that the command line names; of `synthetic.rows`, `synthetic`.

    >>> sorted(named_keys(["epochs=3", "synthetic.rows=9"], 5))
    ['epochs', 'seed', 'synthetic']
    """
    keys = {text.partition("=")[0].partition(".")[0] for text in overrides}
    return frozenset(keys | ({"seed"} if seed is not None else set()))


def _report(path: Path) -> Report | None:
    try:
        return Report.read(path) if path.is_file() else None
    except DataError:
        return None
