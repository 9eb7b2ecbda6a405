"""One experiment of `config/embedding/*.yaml`: every key known, typed and checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bilingual_embedding.data.readers import SourceSettings
from bilingual_embedding.training.losses import TEMPERATURE
from bilingual_embedding.training.optimisation import OptimiserSettings
from fuxictr_multimodal.config.binder import Count, ListOf, Settings, UserPath, bind, override
from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.yaml_files import check_expid, experiment_names, read_entries
from fuxictr_multimodal.errors import ConfigError, did_you_mean

STAGES = ("mlm", "pairs", "multitask")
Steps = Annotated[int, Field(ge=0)]


class TokenizerSettings(Settings):
    """How the vocabulary is learnt."""

    sources: ListOf[str] = Field(
        description="Sources whose texts the vocabulary is learnt from. Those with pairs also steer `parity`."
    )
    vocabulary_size: int | None = Field(
        None, le=2**24, description="Number of tokens. By default the one of the preset."
    )
    method: str = Field(
        "bpe",
        description="`bpe` merges the most frequent pair of all texts. `parity` takes each merge from the language "
        "that needs most tokens for its texts.",
    )
    lower: bool = Field(False, description="Whether texts are lowercased.")


class MaskedSettings(Settings):
    """Stage 1, masked language modelling. Defaults are the published sizes: 4096 rows of 512 tokens per step."""

    sources: ListOf[str] = Field(description="Sources whose texts are read.")
    steps: Steps = Field(100_000, description="Training steps.")
    batch_tokens: int = Field(4096 * 512, description="Tokens of a step.")
    max_length: int = Field(512, description="Tokens of the longest text; longer ones are read in windows.")
    mask_rate: float = Field(0.3, description="Fraction of the tokens that are to be guessed.")
    optimiser: OptimiserSettings = Field(
        OptimiserSettings(learning_rate=1e-3, warmup_steps=10_000), description="Optimizer of the stage."
    )


class PairsSettings(Settings):
    """Stage 2, symmetric InfoNCE on pairs of texts."""

    rates: dict[str, float] = Field(description="How often a batch comes from each source, by its name.")
    steps: Steps = Field(description="Training steps.")
    batch_size: int = Field(description="Pairs of a batch.")
    max_length: int = Field(512, description="Tokens at which texts are cut.")
    temperature: float = Field(TEMPERATURE, description="Temperature of the loss.")
    widths: ListOf[int] = Field((), description="Shorter vectors that are trained along (Matryoshka).")
    optimiser: OptimiserSettings = Field(description="Optimizer of the stage.")


class TaskSettings(Settings):
    """A task of stage 3."""

    kind: Literal["retrieval", "sts", "distil"] = Field(
        description="`retrieval` on pairs or triplets, `sts` (semantic textual similarity) on scored pairs, `distil` "
        "on pairs or single texts: cosines within a batch become those of the `teacher` between the English texts."
    )
    source: str = Field(description="Name of its source.")
    rate: float = Field(description="How often a batch is of this task.")
    batch_size: int = Field(description="Pairs of a batch.")


class MultitaskSettings(Settings):
    """Stage 3, several tasks in turn."""

    tasks: dict[str, TaskSettings] = Field(description="The tasks by name.")
    steps: Steps = Field(description="Training steps.")
    max_length: int = Field(512, description="Tokens at which texts are cut.")
    temperature: float = Field(TEMPERATURE, description="Temperature of the retrieval loss.")
    negatives: int = Field(
        3, description="Hard negatives of a query, mined where a retrieval source has none of its own."
    )
    sts_objective: Literal["pearson", "squared_error"] = Field(
        "pearson", description="Loss of scored pairs: correlation or squared error of the cosine."
    )
    teacher: UserPath | None = Field(
        None,
        description="Encoder that tasks of kind `distil` learn from: a model of sentence-transformers, by its name or "
        "folder. It reads training texts only, once a run.",
    )
    widths: ListOf[int] = Field((), description="Shorter vectors that are trained along (Matryoshka).")
    optimiser: OptimiserSettings = Field(description="Optimizer of the stage.")

    @model_validator(mode="after")
    def _teacher_is_named(self) -> MultitaskSettings:
        distilled = [name for name, task in self.tasks.items() if task.kind == "distil"]
        if distilled and self.teacher is None:
            raise ConfigError(
                f"task {distilled[0]!r} is of kind distil: name its teacher, for example "
                "teacher: sentence-transformers/all-MiniLM-L6-v2"
            )
        return self


class EvaluationSettings(Settings):
    """What is scored after each stage. None of it is trained on."""

    sources: ListOf[str] = Field((), description="Scored pairs and translations.")
    max_length: int = Field(512, description="Tokens at which their texts are cut.")
    masked_source: str | None = Field(None, description="Texts on which masked words are guessed after stage 1.")
    masked_lengths: ListOf[int] = Field(
        (512, 1024, 2048, 4096, 8192),
        description="Tokens of the windows in which `masked_source` is read, for the accuracy by length.",
    )

    mteb: dict[str, dict[str, dict[str, str]]] = Field(
        {},
        description="Tasks of the benchmark MTEB for `--stage mteb`: which of `sources` are their data, by task, "
        "subset and split, as in `Tatoeba: {deu-eng: {test: <source>}}`.",
    )

    @model_validator(mode="after")
    def _tasks_are_evaluated(self) -> EvaluationSettings:
        for task, subsets in self.mteb.items():
            for source in (source for by_split in subsets.values() for source in by_split.values()):
                if source not in self.sources:
                    raise ConfigError(
                        f"task {task!r} of mteb reads {source!r}, which is not in `sources`: add it there"
                    )
        return self

    @model_validator(mode="after")
    def _windows_hold_a_word(self) -> EvaluationSettings:
        if self.masked_source and (not self.masked_lengths or min(self.masked_lengths) < 3):
            raise ConfigError(f"masked_lengths must be numbers from 3, found {list(self.masked_lengths)}")
        return self

    @property
    def held_out(self) -> tuple[str, ...]:
        """All sources that training must not read."""
        return self.sources + ((self.masked_source,) if self.masked_source else ())


class Experiment(Settings):
    """All of one experiment with the text encoder. A stage that is left out, or null, is skipped."""

    preset: str = Field(description="Size of the encoder: one of `bilingual_embedding.model.presets.PRESETS`.")
    data_root: UserPath = Field(description="Folder below which the sources are.")
    data: dict[str, SourceSettings] = Field(description="The sources by name.")
    tokenizer: TokenizerSettings = Field(description="The vocabulary.")
    evaluation: EvaluationSettings | None = Field(None, description="What is scored after each stage.")
    mlm: MaskedSettings | None = Field(None, description="Stage 1.")
    pairs: PairsSettings | None = Field(None, description="Stage 2.")
    multitask: MultitaskSettings | None = Field(None, description="Stage 3.")
    model_root: UserPath = Field(
        "./checkpoints/embedding", description="Folder of the results. A run is written to `<model_root>/<expid>/`."
    )
    start_from: str | None = Field(
        None,
        description="`<expid>/<stage>`: another run below `model_root` with the same seed, whose encoder and tokenizer "
        "are the start, instead of new ones.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(2024, description="Seed of everything that is drawn.")
    dropout: float | None = Field(None, description="Dropout of the encoder. By default the one of the preset.")
    positions: str | None = Field(None, description="`alibi` or `learned`. By default the one of the preset.")
    backend: str = Field("auto", description="How attention is computed, one of `attention.BACKENDS`.")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="Number format of the matrix products. `auto` is bfloat16 where it is faster."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice to save memory.")
    memory_tokens: Count = Field(
        32_768, description="Tokens that are encoded with gradients at a time. Larger contrastive batches are cached."
    )
    save_steps: Count = Field(200, description="Steps between two resumable states. The last two are kept.")
    save_minutes: Annotated[float, Field(gt=0)] | None = Field(
        10, description="Minutes between two resumable states, where they come before `save_steps`. `null` for none."
    )
    obtain: str = Field("", description="How to get the files. The text is part of the error when they are missing.")

    @model_validator(mode="after")
    def _fit_together(self) -> Experiment:
        self._check_start()
        trained = list(self.trained_on())
        held_out = self.evaluation.held_out if self.evaluation else ()
        for name in [*trained, *held_out]:
            if name not in self.data:
                raise ConfigError(f"source {name!r} is not under `data`. {did_you_mean(name, self.data)}")
        for name in held_out:
            if name in trained:
                raise ConfigError(f"source {name!r} is evaluated on and trained on: take it out of one")
        return self

    def _check_start(self) -> None:
        if self.start_from is None:
            return
        expid, _, stage = self.start_from.rpartition("/")
        if not expid or "/" in expid or stage not in STAGES:
            raise ConfigError(
                f"start_from {self.start_from!r}: write <expid>/<stage> with a stage of {', '.join(STAGES)}"
            )
        check_plain_name(expid, "the expid of start_from")

    def trained_on(self) -> Iterator[str]:
        """Names of the sources that tokenizer and stages are trained on, as often as they are."""
        yield from self.tokenizer.sources
        yield from self.mlm.sources if self.mlm else ()
        yield from self.pairs.rates if self.pairs else ()
        yield from (task.source for task in self.multitask.tasks.values()) if self.multitask else ()


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
    check_expid(expid, entries, config_dir)
    return experiment_of(_merged(entries.get("Base", {}), entries[expid]), expid, overrides=overrides, seed=seed)


def experiment_of(
    values: Mapping[str, Any], expid: str, *, overrides: Sequence[str] = (), seed: int | None = None
) -> Experiment:
    """The experiment of an entry's values, with `~` in its paths expanded; see `load_experiment`.

    Raises:
        ConfigError: an unknown key or a value of another type.
    """
    entry = copy.deepcopy(dict(values))
    override(entry, overrides, Experiment)
    if seed is not None:
        entry["seed"] = seed
    return bind(Experiment, entry, f"expid {expid!r}")


def list_experiments(config_dir: Path) -> list[str]:
    """Names of all experiments of a folder, or of a file."""
    return experiment_names(_read_entries(config_dir))


def _read_entries(config_dir: Path) -> dict[str, dict[str, Any]]:
    """All entries of a folder, or of a file; each name is in one file only, and can be the name of a folder."""
    files = [config_dir] if config_dir.is_file() else sorted(config_dir.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{config_dir} holds no *.yaml; name the folder of experiments with --config")
    return read_entries(files, "expid")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, level by level."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
