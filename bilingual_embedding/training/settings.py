"""One experiment of `config/embedding/*.yaml`: every key known, typed and checked before anything runs."""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bilingual_embedding.data.readers import SourceSettings
from bilingual_embedding.training.losses import TEMPERATURE
from bilingual_embedding.training.optimisation import OptimiserSettings
from fuxictr_multimodal.config.expids import check_keys, read_entries
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.errors import ConfigError, did_you_mean

TASK_KINDS = ("retrieval", "sts")
STS_OBJECTIVES = ("pearson", "squared_error")
STAGES = ("mlm", "pairs", "multitask")
PRECISIONS = ("float32", "bfloat16", "auto")


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Training of the vocabulary; see `BilingualTokenizer.train`. `sources` with pairs also steer `parity`."""

    sources: tuple[str, ...]
    vocabulary_size: int | None = None
    method: str = "bpe"
    lower: bool = False


@dataclass(frozen=True, kw_only=True)
class MaskedSettings:
    """Stage 1, masked language modelling; sizes as published by default: 4096 rows of 512 tokens a step."""

    sources: tuple[str, ...]
    steps: int = 100_000
    batch_tokens: int = 4096 * 512
    max_length: int = 512
    mask_rate: float = 0.3
    optimiser: OptimiserSettings = field(
        default_factory=lambda: OptimiserSettings(learning_rate=1e-3, warmup_steps=10_000)
    )


@dataclass(frozen=True, kw_only=True)
class PairsSettings:
    """Stage 2, symmetric InfoNCE; `rates` says how often a batch comes from each source."""

    rates: dict[str, float]
    steps: int
    batch_size: int
    max_length: int = 512
    temperature: float = TEMPERATURE
    widths: tuple[int, ...] = ()
    optimiser: OptimiserSettings


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """A task of stage 3: `retrieval` on pairs or triplets, or `sts` on scored pairs, drawn at `rate`."""

    kind: str
    source: str
    rate: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class MultitaskSettings:
    """Stage 3; `negatives` hard ones a query are mined where a retrieval source has none."""

    tasks: dict[str, TaskSettings]
    steps: int
    max_length: int = 512
    temperature: float = TEMPERATURE
    negatives: int = 3
    sts_objective: str = "pearson"
    widths: tuple[int, ...] = ()
    optimiser: OptimiserSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is scored after each stage; nothing of it is trained on.

    Attributes:
        sources: scored pairs and translations.
        max_length: tokens at which their texts are cut.
        masked_source: texts on which masked words are guessed after stage 1.
        masked_lengths: tokens of the windows in which they are read, for the accuracy by length.
    """

    sources: tuple[str, ...] = ()
    max_length: int = 512
    masked_source: str | None = None
    masked_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)

    def __post_init__(self) -> None:
        if self.masked_source and (not self.masked_lengths or min(self.masked_lengths) < 3):
            raise ConfigError(f"masked_lengths must be numbers from 3, found {list(self.masked_lengths)}")

    @property
    def held_out(self) -> tuple[str, ...]:
        """All sources that training must not read."""
        return self.sources + ((self.masked_source,) if self.masked_source else ())


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All of one experiment.

    Attributes:
        preset: size of the encoder, see `presets.PRESETS`.
        data_root: folder below which the sources lie.
        model_root: runs are written to `<model_root>/<expid>/`.
        data: sources by name.
        tokenizer, mlm, pairs, multitask, evaluation: the stages; None leaves one out.
        start_from: `<expid>/<stage>`, another run below `model_root` with the same seed: its encoder and tokenizer
            are the start, instead of fresh ones.
        backend, gradient_checkpointing: see `Encoder`.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where it is faster (`reduced_precision.choose`).
        memory_tokens: tokens that are encoded with gradients at a time; contrastive batches above it are cached.
        save_steps: steps between two resumable states.
        obtain: where the files come from, for the error when they are missing.
    """

    preset: str
    data_root: str
    data: dict[str, SourceSettings]
    tokenizer: TokenizerSettings
    evaluation: EvaluationSettings | None = None
    mlm: MaskedSettings | None = None
    pairs: PairsSettings | None = None
    multitask: MultitaskSettings | None = None
    model_root: str = "./checkpoints/embedding"
    start_from: str | None = None
    seed: int = 2024
    dropout: float | None = None
    positions: str | None = None
    backend: str = "auto"
    precision: str = "float32"
    gradient_checkpointing: bool = False
    memory_tokens: int = 32_768
    save_steps: int = 200
    obtain: str = ""

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISIONS)
        _check_least("seed", self.seed, 0)
        for name in ("memory_tokens", "save_steps"):
            _check_least(name, getattr(self, name), 1)
        for name in STAGES:
            if (stage := getattr(self, name)) is not None:
                _check_least(f"{name}.steps", stage.steps, 0)
        if self.start_from is not None:
            expid, _, stage = self.start_from.rpartition("/")
            if not expid or "/" in expid or stage not in STAGES:
                raise ConfigError(
                    f"start_from {self.start_from!r}: write <expid>/<stage> with a stage of {', '.join(STAGES)}"
                )
            check_plain_name(expid, "the expid of start_from")
        named = [*self.tokenizer.sources]
        named += self.mlm.sources if self.mlm else ()
        named += self.pairs.rates if self.pairs else ()
        if self.multitask:
            _check_choice("sts_objective", self.multitask.sts_objective, STS_OBJECTIVES)
            for task in self.multitask.tasks.values():
                _check_choice("kind", task.kind, TASK_KINDS)
                named.append(task.source)
        held_out = self.evaluation.held_out if self.evaluation else ()
        for name in [*named, *held_out]:
            if name not in self.data:
                raise ConfigError(f"source {name!r} is not under `data`. {did_you_mean(name, self.data)}")
        for name in held_out:
            if name in named:
                raise ConfigError(f"source {name!r} is evaluated on and trained on: take it out of one")


def load_experiment(
    config_dir: Path, expid: str, *, overrides: Sequence[str] = (), seed: int | None = None
) -> Experiment:
    """Read one experiment; `Base` lies under every other entry, and `--set` has the last word.

    Args:
        config_dir: folder of YAML files, or the file.
        expid: key of an experiment.
        overrides: `key=value` texts, a dot between levels (`pairs.steps=10`), values in YAML.
        seed: replaces `seed` when given.

    Raises:
        ConfigError: naming the file or key, with the nearest known one.
    """
    entries = _read_entries(config_dir)
    if expid not in entries or expid == "Base":
        known = [name for name in entries if name != "Base"]
        raise ConfigError(f"expid {expid!r} is not in {config_dir}. {did_you_mean(expid, known)}")
    return experiment_of(_merged(entries.get("Base", {}), entries[expid]), expid, overrides=overrides, seed=seed)


def experiment_of(
    values: Mapping[str, Any], expid: str, *, overrides: Sequence[str] = (), seed: int | None = None
) -> Experiment:
    """The experiment of an entry's values, with `~` in its paths expanded; see `load_experiment`.

    Raises:
        ConfigError: an unknown key or a value of another type.
    """
    values = dict(values)
    for text in overrides:
        _override(values, text)
    if seed is not None:
        values["seed"] = seed
    experiment = bind(Experiment, values, f"expid {expid!r}")
    data = {
        name: dataclasses.replace(source, paths=tuple(map(_expanded, source.paths)))
        for name, source in experiment.data.items()
    }
    roots = {name: _expanded(getattr(experiment, name)) for name in ("data_root", "model_root")}
    return dataclasses.replace(experiment, data=data, **roots)


def _expanded(path: str) -> str:
    # Others stay as they are written: reports of finished runs have them so.
    return str(user_path(path)) if path.startswith("~") else path


def list_experiments(config_dir: Path) -> list[str]:
    """Names of all experiments of a folder, or of a file."""
    return sorted(_read_entries(config_dir).keys() - {"Base"})


def _read_entries(config_dir: Path) -> dict[str, Mapping[str, Any]]:
    """All entries of a folder, or of a file; each name is in one file only, and can be the name of a folder."""
    files = [config_dir] if config_dir.is_file() else sorted(config_dir.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{config_dir} holds no *.yaml; name the folder of experiments with --config")
    return copy.deepcopy(read_entries(files, "expid"))


def bind(cls: type, values: Any, where: str) -> Any:
    """Make the dataclass `cls` of a mapping, all the way down.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected settings, found {values!r}")
    hints = typing.get_type_hints(cls)
    check_keys(values, hints, where)
    for item in dataclasses.fields(cls):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in values:
            raise ConfigError(f"{where} does not set `{item.name}`")
    return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None
        return None if value is None else _value(arguments[0], value, where)
    if dataclasses.is_dataclass(hint):
        return bind(hint, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint)
    raise ConfigError(f"{where} must be {expected or ('a list' if origin is tuple else 'a mapping')}, found {value!r}")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, level by level."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _override(values: dict[str, Any], text: str) -> None:
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {text!r}: write key=value, for example --set pairs.steps=100")
    *parents, last = path.split(".")
    cls: Any = Experiment
    for parent in parents:
        groups = _groups(cls, values)
        if parent not in groups:
            raise ConfigError(
                f"--set {text!r}: {parent!r} is no group of settings here. {did_you_mean(parent, groups)}"
            )
        cls, default = groups[parent]
        # A group that the experiment leaves to its defaults begins with them.
        inside = values.get(parent) if isinstance(values.get(parent), Mapping) else default
        values[parent] = values = dict(inside)
    if dataclasses.is_dataclass(cls):
        check_keys([last], typing.get_type_hints(cls), f"--set {text!r}")
    try:
        values[last] = float(value) if _is_float(value) else yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML") from None


def _groups(cls: Any, values: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The groups of settings inside another group: the type of each, and its values where no file writes it down."""
    if typing.get_origin(cls) is dict:
        inner = typing.get_args(cls)[1]
        return {name: (inner, {}) for name in values} if dataclasses.is_dataclass(inner) else {}
    found = {}
    for item in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        hint = typing.get_type_hints(cls)[item.name]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):  # X | None
            hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
            made = {} if item.default_factory is dataclasses.MISSING else dataclasses.asdict(item.default_factory())
            found[item.name] = hint, made
    return found


def _is_float(value: str) -> bool:
    """`1e-3`, which YAML 1.1 takes for text, cannot be meant as text here."""
    try:
        float(value)
    except ValueError:
        return False
    return not value.lstrip("+-").isdigit()


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} {value!r} is unknown; choose from {', '.join(choices)}")


def _check_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key} must be a whole number from {least}, found {value}")
