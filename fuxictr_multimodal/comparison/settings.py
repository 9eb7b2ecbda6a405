"""A comparison file: which experiments are compared on which dataset, tuned how, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fuxictr_multimodal.config.binder import Count, PlainName, Settings, UserPath, bind
from fuxictr_multimodal.config.expids import base_entry, load_model_config
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.plans import expand, parse_seeds
from fuxictr_multimodal.launch.tuning.folder import SweepFolder

# `seeds: 3` is read as a number.
Seeds = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class TuningSettings(Settings):
    """The same search for every model."""

    config: UserPath = Field(description="The tuner file. Each expid takes the place of its `base_expid`.")
    expids: str = Field(description="Names and globs of the experiments that are tuned, with commas between them.")
    slow_expids: str | None = Field(
        None,
        description="The same of experiments that take long. They are tuned last, with half as many trials.",
        examples=['"DIEN_*"'],
    )
    search: Literal["random", "tpe"] = Field(
        "random",
        description="How settings are drawn. With `random` and a space that fits all, every model tries the same ones.",
    )
    trials: Count = Field(description="Number of trials of each model.", examples=[20])
    seed: int = Field(0, description="Seed of the search.")


class ComparisonSettings(Settings):
    """A comparison file. Paths are relative to the working folder, as in a tuner file."""

    base_config: UserPath = Field("./config/", description="The config folder.")
    dataset_id: PlainName = Field(description="The dataset. Globs of expids take the experiments of this one only.")
    expids: str | None = Field(
        None,
        description="Names and globs of the experiments that run as they are. It may be left out beside `tuning`.",
        examples=['"*_demo"'],
    )
    tuning: TuningSettings | None = Field(
        None, description="Experiments that run with the best of their trials, as `<expid>_tuned`."
    )
    seeds: Seeds = Field("1-3", description="Seeds of every experiment, as in `run_expid.py --seeds`.")
    baseline: str | None = Field(None, description="Experiment that differences refer to.")
    resample: Literal["rows", "groups"] = Field(
        "rows", description="What the bootstrap draws: samples, or users with all their samples, where these are few."
    )
    out: UserPath = Field(description="Files of the leaderboard, without their endings.", examples=["./results/board"])


@dataclass(frozen=True)
class Tuning:
    """The search of a comparison, its globs resolved; see `TuningSettings`. Trials of the first expid run first.

    Attributes:
        trials: of each expid, in the order in which they are tuned.
    """

    config: Path
    trials: Mapping[str, int]
    search: str
    seed: int

    @property
    def expids(self) -> tuple[str, ...]:
        """What is tuned, in this order."""
        return tuple(self.trials)

    def folder(self, expid: str) -> SweepFolder:
        """The folder of one model's sweep."""
        return SweepFolder.of(self.config, search=self.search, seed=self.seed, expid=expid)


@dataclass(frozen=True)
class Comparison:
    """A comparison, its globs resolved; see `ComparisonSettings`."""

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

        Raises:
            ConfigError: naming the file, the key and what to write.
        """
        file = bind(ComparisonSettings, read_yaml(path), str(path))
        parse_seeds(file.seeds)
        if file.expids is None and file.tuning is None:
            raise ConfigError(f"{path} sets neither `expids` nor `tuning`; write for example expids: '*_demo'")
        config_dir = user_path(file.base_config)
        tuning = None
        if file.tuning is not None:
            tuning = Tuning(
                config=user_path(file.tuning.config),
                trials=_trials_of(file.tuning, config_dir, file.dataset_id),
                search=file.tuning.search,
                seed=file.tuning.seed,
            )
        return cls(
            config_dir=config_dir,
            dataset_id=file.dataset_id,
            expids=() if file.expids is None else _expids_of(config_dir, file.expids, file.dataset_id),
            tuning=tuning,
            seeds=file.seeds,
            baseline=file.baseline,
            resample=file.resample,
            out=user_path(file.out),
        )

    @property
    def model_root(self) -> Path:
        """Where the runs write, as the config folder has it for all."""
        return user_path(base_entry(self.config_dir).get("model_root", "checkpoints"))

    @property
    def names(self) -> list[str]:
        """Expids of the leaderboard."""
        tuned = self.tuning.expids if self.tuning else ()
        return [*(f"{name}_tuned" for name in tuned), *self.expids]


def _trials_of(tuning: TuningSettings, config_dir: Path, dataset_id: str) -> dict[str, int]:
    """Number of trials of each expid; one that both keys name is slow."""
    slow = () if tuning.slow_expids is None else _expids_of(config_dir, tuning.slow_expids, dataset_id)
    fast = [expid for expid in _expids_of(config_dir, tuning.expids, dataset_id) if expid not in slow]
    half = max(tuning.trials // 2, 1)
    return dict.fromkeys(fast, tuning.trials) | dict.fromkeys(slow, half)


def _expids_of(config_dir: Path, patterns: str, dataset_id: str) -> tuple[str, ...]:
    names = [plan.expid for plan in expand(config_dir, patterns)]
    of_dataset = [name for name in names if load_model_config(config_dir, name).get("dataset_id") == dataset_id]
    if not of_dataset:
        raise ConfigError(f"{patterns!r}: none of these expids is of dataset {dataset_id}")
    return tuple(of_dataset)
