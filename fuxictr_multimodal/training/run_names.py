"""Names of runs and of their files, for everyone who writes or reads them; imports neither torch nor reports."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.changes import NOT_SET, changes
from fuxictr_multimodal.config.identity import computed
from fuxictr_multimodal.errors import DataError

REPORT_SUFFIX = ".report.json"
STATE_BEFORE_SUFFIX = ".before"
# A name with more than this after the expid is shortened; what is left out is in the report.
LONGEST_SUFFIX = 60
_PLAIN_TEXT = re.compile(r"[\w.-]{1,24}", re.ASCII)


class RunFiles:
    """The files of one run, `<model_root>/<dataset_id>/<run>.*`."""

    def __init__(self, directory: Path, run: str) -> None:
        self.directory, self.run = directory, run
        self.log = directory / f"{run}.log"
        self.report = directory / f"{run}{REPORT_SUFFIX}"
        self.curve = directory / f"{run}.curve.png"
        self.predictions = directory / f"{run}.predictions.npz"
        self.model = directory / f"{run}.model"
        self.calibration = directory / f"{run}.calibration.json"
        self.state = directory / f"{run}.state"
        self.lock = directory / f".{run}.lock"

    @classmethod
    def of_report(cls, path: Path) -> RunFiles:
        """The files of the run whose report this is."""
        return cls(path.parent, path.name.removesuffix(REPORT_SUFFIX))

    def tracker(self, name: str) -> Path:
        """The folder of a tracker of the run, `<run>.tensorboard`."""
        return self.directory / f"{self.run}.{name}"

    @property
    def replaced(self) -> tuple[Path, ...]:
        """Those that are replaced atomically, each through a temporary file beside it."""
        return (self.report, self.curve, self.predictions, self.model, self.state)

    @property
    def left(self) -> Path | None:
        """The state that an unfinished run resumes from: its last one, or that before it where the last one is gone."""
        return next(iter(existing_states(self.state)), None)


def states_of(path: Path) -> tuple[Path, Path]:
    """The file of the last state of a training, and of the one before it.

    >>> [file.name for file in states_of(Path("run.state"))]
    ['run.state', 'run.state.before']
    """
    return path, path.with_name(path.name + STATE_BEFORE_SUFFIX)


def existing_states(path: Path) -> list[Path]:
    """Those of both that are there, the last one first."""
    return [file for file in states_of(path) if file.is_file()]


def refuse_folders(path: Path) -> None:
    """Say before a training what would end it after its last step: no state can take the place of a folder.

    Raises:
        DataError: one of both is a folder.
    """
    for file in states_of(path):
        if file.is_dir():
            raise DataError(f"{file} is a folder, but the training keeps its state there: move it away")


def tables_of_states(path: Path) -> Path:
    """The folder with the rows of sharded tables that belong to both."""
    return path.with_name(f"{path.name}.tables")


def remove_states(path: Path) -> None:
    """Remove both, then the rows of sharded tables that they need."""
    for file in states_of(path):
        file.unlink(missing_ok=True)
    shutil.rmtree(tables_of_states(path), ignore_errors=True)


def seed_suffix(seed: int | None) -> str:
    """What a seed of the command line adds to a run's name.

    >>> seed_suffix(None), seed_suffix(3)
    ('', '_s3')
    """
    return "" if seed is None else f"_s{seed}"


def without_seed(run: str, seed: int | None = None) -> str:
    """A run's name without what its seed, or any seed, adds.

    >>> without_seed("QIN_test_s3", 3), without_seed("QIN_test_s3", 4), without_seed("QIN_test_s3")
    ('QIN_test', 'QIN_test_s3', 'QIN_test')
    """
    return re.sub(r"_s\d+$", "", run) if seed is None else run.removesuffix(seed_suffix(seed))


def settings_given(params: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that make another run of an experiment: those by which its parameters differ from its YAML.

    Where and how a run is executed makes no other run, and the dataset has its own folder.

    Args:
        params: as they run.
        plain: of the same experiment and dataset, nothing given on the command line.

    >>> settings_given({"epochs": 3, "gpu": 0, "synthetic": {"rows": 9, "seed": 1}},
    ...                {"epochs": 2, "synthetic": {"rows": 8, "seed": 1}})
    {'epochs': 3, 'synthetic.rows': 9}
    """
    found = {change.key: change.now for change in changes(plain, computed(params)) if change.now is not NOT_SET}
    return {key: found[key] for key in sorted(found) if key != "dataset_id"}


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
