"""A tuner file, in FuxiCTR's own form: the base experiment, and lists or ranges of values to try."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fuxictr_multimodal.config.binder import AS_WRITTEN, ListOf, PlainName, Settings, bind, check_keys
from fuxictr_multimodal.config.identity import UNHASHED_KEYS
from fuxictr_multimodal.config.known_values import check_known_values
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.config.yaml_files import read_yaml
from fuxictr_multimodal.errors import ConfigError

MODEL_KEYS_FORM = "{FinalMLP: {net_dropout: [mlp1_dropout, mlp2_dropout]}}"
Number = Annotated[float, AS_WRITTEN]


class Range(Settings):
    """Numbers from `low` to `high`, both included. They are whole numbers when both ends are."""

    low: Number = Field(description="The lowest number.", examples=["1.e-4"])
    high: Number = Field(description="The highest number.", examples=["1.e-2"])
    log: bool = Field(False, description="Whether equal ratios are equally likely, instead of equal differences.")
    step: Annotated[float, Field(gt=0), AS_WRITTEN] | None = Field(
        None, description="Distance of neighbouring numbers. Without it all numbers of the range are tried."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            above = " and above 0 for log" if self.log else ""
            raise ConfigError(f"low {self.low} must be below high {self.high}{above}")
        if self.log and self.step is not None:
            raise ConfigError(f"step must be a positive number, without log, found {self.step!r}")
        return self

    @property
    def integer(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = list[Any] | Range


class SearchSettings(Settings):
    """A tuner file. `base_config` is relative to the working folder, as in FuxiCTR."""

    base_config: str | None = Field(None, description="The config folder. By default the folder of the tuner file.")
    base_expid: PlainName = Field(description="Experiment whose settings are varied.", examples=["QIN_demo"])
    dataset_id: PlainName | None = Field(None, description="Dataset to train on. By default that of `base_expid`.")
    tuner_space: dict[str, Any] = Field(
        description="By key of the experiment or its dataset: one value, a list of values, or a range "
        "`{low: 1.e-4, high: 1.e-2, log: true}` for `--search random` and `--search tpe`.",
        min_length=1,
        examples=["{learning_rate: [1.e-3, 2.e-3]}"],
    )
    model_keys: dict[str, dict[str, ListOf[str]]] | None = Field(
        None,
        description="By model or expid: keys of the space and the model's own names for them, such as "
        f"`{MODEL_KEYS_FORM}`. With an empty list the model has no such key.",
        examples=[MODEL_KEYS_FORM],
    )
    models: dict[str, dict[str, Any]] | None = Field(
        None, alias="model_config", description="Experiments in the tuner file itself, instead of `base_config`."
    )
    datasets: dict[str, dict[str, Any]] | None = Field(
        None, alias="dataset_config", description="Datasets in the tuner file itself, instead of `base_config`."
    )

    @classmethod
    def read(cls, path: Path) -> SearchSettings:
        """Read a tuner file.

        Raises:
            ConfigError: naming the file, the key and what to write.
        """
        if not path.is_file():
            raise ConfigError(f"tuner file {path} does not exist; give it with --config")
        return bind(cls, read_yaml(path), str(path))

    def config_dir(self, path: Path) -> Path:
        """The config folder of the tuner file `path`."""
        return user_path(self.base_config or path.parent)

    def axes(self, where: str) -> dict[str, Axis]:
        """The space by key, each value checked.

        Raises:
            ConfigError: an empty list, a wrong range, a value that FuxiCTR would evaluate, several values of a key that
                changes nothing.
        """
        axes = {key: _axis(value, f"{where}: {key}") for key, value in self.tuner_space.items()}
        for key, axis in axes.items():
            for value in [] if isinstance(axis, Range) else axis:
                check_known_values({key: value}, where)
        for key, axis in axes.items():
            if key in UNHASHED_KEYS and (isinstance(axis, Range) or len(axis) > 1):
                raise ConfigError(f"{where}: {key} does not change the result of a trial; set a single value")
        return axes

    def keys_by_model(self, axes: Mapping[str, Axis], where: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """What models name the keys of the space.

        Raises:
            ConfigError: a key that is not in the space, or a name that is.
        """
        for model, keys in (self.model_keys or {}).items():
            inside = f"{where}: model_keys: {model}"
            check_keys(keys, axes, inside)
            # A key that the model lacks leaves its name to another one.
            there = axes.keys() - {key for key, names in keys.items() if not names}
            for key, names in keys.items():
                for name in there & set(names):
                    raise ConfigError(f"{inside}: {key}: {name} is in tuner_space itself; write it in one place")
        return self.model_keys or {}


def dataset_ids(axes: Mapping[str, Axis], default: str, where: str) -> list[str]:
    """The datasets of a space, each a plain name.

    Raises:
        ConfigError: a range, or a name that cannot be a folder.
    """
    ids = axes.get("dataset_id", [default])
    if isinstance(ids, Range):
        raise ConfigError(f"{where}: dataset_id must be a list of ids, not a range")
    return [check_plain_name(name, f"{where}: dataset_id") for name in ids]


def _axis(value: Any, where: str) -> Axis:
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"{where} is an empty list: write at least one value")
        return value
    # A mapping is also a value itself, such as `monitor: {AUC: 1}`.
    if not isinstance(value, dict) or not {"low", "high"} & set(value):
        return [value]
    return bind(Range, value, where)
