"""A whole comparison from one file: tune every model with equally many trials, run the seeds, rank on one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.config.binder import check_keys
from fuxictr_multimodal.config.expids import load_model_config
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch import run_many
from fuxictr_multimodal.launch.run_many import Outcome, Plan
from fuxictr_multimodal.launch.tuning.folder import SweepFolder, write_yaml
from fuxictr_multimodal.launch.tuning.run import tune

if TYPE_CHECKING:
    from fuxictr_multimodal.training.report import Report

FILE_KEYS = ("base_config", "expids", "tuning", "dataset_id", "seeds", "baseline", "resample", "out")
TUNING_KEYS = ("config", "expids", "search", "trials", "seed")
DEFAULT_SEEDS = "1-3"


@dataclass(frozen=True)
class Tuning:
    """The same search for every model.

    Attributes:
        config: the tuner file; each expid takes the place of its `base_expid`.
        expids: names; their trials share the slots, those of the first one first.
        search: `random` or `tpe`. With `random` and a space that fits all, every model tries the same settings.
        trials: of each model.
        seed: of the search.
    """

    config: Path
    expids: tuple[str, ...]
    search: str
    trials: int
    seed: int

    def folder(self, expid: str) -> SweepFolder:
        """The folder of one model's sweep."""
        return SweepFolder.of(self.config, search=self.search, seed=self.seed, expid=expid)


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        config_dir: the config folder.
        dataset_id: the one dataset.
        expids: run as they are.
        tuning: run as the best of their trials, `<expid>_tuned`; None for no tuning.
        seeds: of every expid, as in `run_expid.py --seeds`.
        baseline: what differences refer to.
        resample: what the bootstrap draws, `rows`, or `groups`: users with all their rows, where these are few.
        out: the leaderboard's files without their endings.
    """

    config_dir: Path
    dataset_id: str
    expids: tuple[str, ...]
    tuning: Tuning | None
    seeds: str
    baseline: str | None
    resample: str
    out: Path

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Read a comparison file.

        Paths are relative to the working folder, as in a tuner file. Globs of expids take those of the dataset only.

        Raises:
            ConfigError: naming the file, the key and what to write.
        """
        if not path.is_file():
            raise ConfigError(f"comparison file {path} does not exist; give it with --config")
        content = read_yaml(path)
        check_keys(content, FILE_KEYS, str(path))
        for key in ("dataset_id", "expids", "out"):
            if not isinstance(content.get(key), str):
                raise ConfigError(f"{path}: `{key}` is missing or no text")
        check_plain_name(content["dataset_id"], f"{path}: dataset_id")
        config_dir = user_path(content.get("base_config", "./config/"))
        dataset_id, seeds = content["dataset_id"], str(content.get("seeds", DEFAULT_SEEDS))
        run_many.parse_seeds(seeds)
        resample = content.get("resample", "rows")
        if resample not in ("rows", "groups"):
            raise ConfigError(f"{path}: `resample` is rows or groups, got {resample!r}")
        tuning = content.get("tuning")
        return cls(
            config_dir=config_dir,
            dataset_id=dataset_id,
            expids=_expids_of(config_dir, content["expids"], dataset_id),
            tuning=None if tuning is None else _read_tuning(path, tuning, config_dir, dataset_id),
            seeds=seeds,
            baseline=content.get("baseline"),
            resample=resample,
            out=user_path(content["out"]),
        )

    @property
    def names(self) -> list[str]:
        """Expids of the leaderboard."""
        tuned = self.tuning.expids if self.tuning else ()
        return [*(_tuned(name) for name in tuned), *self.expids]


def compare(comparison: Comparison, *, gpus: Sequence[int]) -> list[Outcome]:
    """Run what a comparison still lacks: trials, then the seeds of the winners and of the other expids.

    What is complete is kept, killed runs go on, so that the same command goes on where it stopped.

    Args:
        comparison: what to run.
        gpus: one GPU index a slot, -1 for the CPU.

    Returns:
        The runs of all seeds and what became of them, winners first.

    Raises:
        InputError: whatever is wrong with the files, the experiments or the data; a model none of whose trials was
            completed.
        Interrupted: while trials run.
    """
    plans: list[Plan] = []
    if comparison.tuning is not None:
        _tune(comparison.tuning, gpus)
        winners = _write_winners(comparison.tuning)
        plans += run_many.expand(winners, "*", comparison.seeds)
    plans += run_many.expand(comparison.config_dir, ",".join(comparison.expids), comparison.seeds)
    return run_many.run_many(plans, {"resume": True}, gpus=gpus, run=_run_by_name)


def _run_by_name(*, expid: str, **arguments: Any) -> tuple[Report, Path]:
    """The run of exactly this name: `--resume` alone could mean an unfinished one of other settings."""
    # In the process of a run: only there is torch imported.
    from fuxictr_multimodal.training.runner import run_experiment

    return run_experiment(expid=expid, name=expid, **arguments)


def _tune(tuning: Tuning, gpus: Sequence[int]) -> None:
    """Bring every model's sweep to its end: trials that are complete are kept, the rest run."""
    sweeps = tune(
        tuning.config,
        tuning.expids,
        gpus=gpus,
        search=tuning.search,
        trials=tuning.trials,
        seed=tuning.seed,
        prune=False,
    )
    for expid, records in zip(tuning.expids, sweeps, strict=True):
        if not any(record.status == "completed" for record in records):
            raise ConfigError(f"{expid}: no trial was completed; see {tuning.folder(expid).path / 'summary.md'}")


def _write_winners(tuning: Tuning) -> Path:
    """One config folder with the winners of all sweeps, so that their runs share the slots."""
    models: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    for expid in tuning.expids:
        best = tuning.folder(expid).path / "best"
        models |= read_yaml(best / "model_config.yaml")
        datasets |= read_yaml(best / "dataset_config.yaml")
    directory = tuning.config.with_name(f"{tuning.config.stem}_{tuning.search}_s{tuning.seed}_winners")
    directory.mkdir(exist_ok=True)
    write_yaml(directory / "model_config.yaml", models)
    write_yaml(directory / "dataset_config.yaml", datasets)
    return directory


def _read_tuning(path: Path, content: Any, config_dir: Path, dataset_id: str) -> Tuning:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: `tuning` has the keys {', '.join(TUNING_KEYS)}")
    check_keys(content, TUNING_KEYS, f"{path}: tuning")
    for key, kind in (("config", str), ("expids", str), ("trials", int)):
        if not isinstance(content.get(key), kind):
            raise ConfigError(f"{path}: tuning: `{key}` is missing or no {'number' if kind is int else 'text'}")
    search = content.get("search", "random")
    if search not in ("random", "tpe") or content["trials"] < 1:
        raise ConfigError(f"{path}: tuning: `search` is random or tpe, `trials` 1 or more")
    return Tuning(
        config=user_path(content["config"]),
        expids=_expids_of(config_dir, content["expids"], dataset_id),
        search=search,
        trials=content["trials"],
        seed=content.get("seed", 0),
    )


def _expids_of(config_dir: Path, patterns: str, dataset_id: str) -> tuple[str, ...]:
    names = [plan.expid for plan in run_many.expand(config_dir, patterns)]
    of_dataset = [name for name in names if load_model_config(config_dir, name).get("dataset_id") == dataset_id]
    if not of_dataset:
        raise ConfigError(f"{patterns!r}: none of these expids is of dataset {dataset_id}")
    return tuple(of_dataset)


def _tuned(expid: str) -> str:
    return f"{expid}_tuned"
