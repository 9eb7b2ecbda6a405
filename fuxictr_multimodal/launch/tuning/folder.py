"""The folder of a sweep: generated configuration, logs, and what the summary writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from fuxictr_multimodal.launch.tuning.space import Trial
from fuxictr_multimodal.system.files import held_alone, locked, replace_atomically


class _Dumper(yaml.SafeDumper):
    """Writes a value again instead of an alias, as FuxiCTR's tuner does."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class SweepFolder:
    """`<tuner file without .yaml>/`, where FuxiCTR puts its `model_config.yaml` and `dataset_config.yaml`.

    Plain `run_expid.py --config <folder> --expid <trial>` runs a trial from it. A search appends its name to the
    folder's, and so does an expid that takes the place of `base_expid`, so that the grid, the random and the TPE search
    of one tuner file, and its sweeps of several models, do not overwrite each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.study = path / "study.db"

    @classmethod
    def of(cls, tuner_file: Path, *, search: str = "grid", seed: int = 0, expid: str | None = None) -> SweepFolder:
        """The folder of a tuner file, a kind of search, and the expid given instead of the file's.

        >>> SweepFolder.of(Path("config/tuner/a.yaml")).path.name
        'a'
        >>> SweepFolder.of(Path("config/tuner/a.yaml"), search="tpe", seed=1).path.name
        'a_tpe_s1'
        >>> SweepFolder.of(Path("config/tuner/a.yaml"), search="tpe", seed=1, expid="DIN_demo").path.name
        'a_DIN_demo_tpe_s1'
        """
        suffix = f"_{expid}" if expid else ""
        suffix += "" if search == "grid" else f"_{search}_s{seed}"
        return cls(tuner_file.with_name(tuner_file.stem + suffix))

    def log(self, expid: str) -> Path:
        """The file for what the process of a trial prints."""
        return self.logs / f"{expid}.log"

    def write_config(self, trials: Iterable[Trial]) -> None:
        """Write the two configuration files of these trials."""
        write_config(self.path, {trial.expid: trial for trial in trials})

    @contextlib.contextmanager
    def only_tuner(self) -> Iterator[None]:
        """Refuse a second tuner; the system frees the lock of a killed one."""
        self.path.mkdir(parents=True, exist_ok=True)
        taken = f"another tuner is running in {self.path}: wait for it, or give one tuner more slots with --gpu"
        with held_alone(self.path / ".tuner.lock", taken):
            yield

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Short lock between the workers of one search."""
        with locked(self.path / ".folder.lock"):
            yield


def write_config(directory: Path, trials: dict[str, Trial]) -> None:
    """Write `model_config.yaml` and `dataset_config.yaml` of trials under the given names."""
    directory.mkdir(parents=True, exist_ok=True)
    datasets: dict[str, dict[str, Any]] = {}
    for trial in trials.values():
        known = datasets.setdefault(trial.dataset_id, trial.dataset)
        assert known == trial.dataset, f"one entry per dataset: {trial.dataset_id}"
    write_yaml(directory / "dataset_config.yaml", datasets)
    write_yaml(directory / "model_config.yaml", {name: trial.entry for name, trial in trials.items()})


def write_yaml(path: Path, content: Any, *, header: str = "") -> None:
    """Write YAML atomically, lists and mappings of scalars in one line each, after `header` lines."""
    with replace_atomically(path) as temporary:
        text = yaml.dump(content, Dumper=_Dumper, default_flow_style=None, indent=4, sort_keys=False, width=110)
        temporary.write_text(header + text, encoding="utf-8")
