"""The options of QIN in groups, checked; together they are its flat signature, which FuxiCTR passes from YAML.

The defaults are the published configuration.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, get_type_hints

from fuxictr_multimodal.errors import ConfigError, check_removed, did_you_mean
from model_zoo.QIN.penalty import as_regularizer
from model_zoo.QIN.precision import PRECISIONS

# Options that earlier versions had.
REMOVED = {
    **dict.fromkeys(
        ("quadratic_variant", "heads", "self_ensemble"),
        "it gained nothing on the data sets measured. Leave it out and train again",
    ),
    "networks": "three networks gained too little for three times the time. Leave it out and train again",
    "similarity_tiers": "attention_similarity reads the same cosines. Set it to True and train again",
}


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"known": (default, *others)})


def _number(default: float, *, least: int) -> Any:
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Checks each field by its metadata and its type."""

    def __post_init__(self) -> None:
        for option in fields(self):
            _check(option, getattr(self, option.name))


@dataclass(frozen=True, kw_only=True)
class BaseOptions(_Group):
    """What FuxiCTR's `BaseModel` reads.

    Attributes:
        model_id: name of the checkpoint.
        gpu: index of the GPU, -1 for the CPU.
        task: `binary_classification` or `regression`.
        metrics: names of metrics for `evaluate`.
        monitor: metric, or mapping of metrics to weights, that early stopping watches.
        monitor_mode: `max` or `min`.
        early_stop_patience: evaluations without a gain until training stops.
        eval_steps: steps between evaluations; an epoch by default.
        save_best_only: keep the best checkpoint only.
        reduce_lr_on_plateau: multiply the learning rate with `factor` at an evaluation without a gain.
        model_root: folder of checkpoints.
        verbose: 0 hides progress bars.
    """

    model_id: str = "QIN"
    gpu: int = -1
    task: str = "binary_classification"
    metrics: Sequence[str] = ("AUC", "logloss")
    monitor: str | Mapping[str, float] = "AUC"
    monitor_mode: str = "max"
    early_stop_patience: int = 8
    eval_steps: int | None = None
    save_best_only: bool = True
    reduce_lr_on_plateau: bool = True
    model_root: str = "./checkpoints/"
    verbose: int = 1

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `BaseModel`, which adds to the list of metrics."""
        return {**_values(self), "metrics": list(self.metrics)}


@dataclass(frozen=True, kw_only=True)
class InputOptions(_Group):
    """What the network reads.

    Attributes:
        embedding_dim: width of each embedded feature that does not set its own.
        feature_dropout: names of features, each with the fraction of training in which the network reads it as unknown,
            as for users whom train does not know: of the samples, or of the values of a categorical item feature, such
            as the ids of items (`feature_dropout.py`); first-order terms still read it.
        event_features: `all`, or names of event features (`source: event`) that are read of the target and of each
            history item, such as its age at the time of the sample; none by default.
        din_target_field: in FuxiCTR's flat columns, the fields of the target, a name or a list of names and of tuples,
            one a behaviour; by default those whose embedding a sequence shares. `[]` reads no history.
        din_sequence_field: the sequences that are the histories of these fields, in the same form.
    """

    embedding_dim: int = _number(128, least=1)
    feature_dropout: Mapping[str, float] | None = None
    event_features: str | Sequence[str] | None = None
    din_target_field: str | Sequence[Any] | None = None
    din_sequence_field: str | Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(_Group):
    """How a history is pooled for the target (`attention.py`).

    Attributes:
        pooling: `attention`, or `mean` for the ablation.
        attention_dim: attention width A, 2 D by default.
        attention_activation: from scores to weights: `relu` as published, `softmax`, or `relu_mean`, which starts as
            the mean of the history (`attention_weights.py`).
        attention_dropout: dropout rate of the attention weights.
        attention_similarity: add to each score of the first history the cosines of target and history item in every
            pretrained embedding, each times a learnt number that starts at 1 (`similarity.py`).
    """

    pooling: str = _choice("attention", "mean")
    attention_dim: int | None = None
    attention_activation: str = "relu"
    attention_dropout: float = 0.0
    attention_similarity: bool = False


@dataclass(frozen=True, kw_only=True)
class InteractionOptions(_Group):
    """How context, target and pooled history become a logit (`quadratic.py`).

    Attributes:
        interaction: `quadratic`, or `mlp` for the ablation.
        num_layers: quadratic layers.
        num_row: linear maps in each of them, R; 3 where training with 4 is unstable.
        mlp_hidden_units: widths of the MLP of the ablation.
        net_dropout: dropout rate.
        batch_norm: whether layers normalise over the batch.
        activation: `prelu` or `relu`, in the quadratic layers.
        compile: fuse the quadratic layers of the optimized implementation by `torch.compile` (`quadratic_compiled.py`).
    """

    interaction: str = _choice("quadratic", "mlp")
    num_layers: int = _number(4, least=1)
    num_row: int = _number(4, least=1)
    mlp_hidden_units: Sequence[int] = (1024, 512, 256)
    net_dropout: float = 0.1
    batch_norm: bool = True
    activation: str = "prelu"
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class FirstOrderOptions(_Group):
    """Weights of single values beside the network (`first_order.py`).

    Attributes:
        first_order: names of features whose values get a weight each, in the logit, and of crosses of them, as in
            `user*item_tags`; none by default.
        first_order_loss: `joint` adds their logit; `own` trains it on the label by itself, and the logit is a mean of
            theirs and the network's (see `QIN.add_loss`).
        first_order_share: the weight of their logit in this mean.
        first_order_regularizer: L2 weight of these weights, or one for each feature by name.
        first_order_learning_rate: of these weights at the start.
        first_order_averaging: above 0, scoring takes the weights' average over the last steps; what it keeps of itself
            in a step, such as 0.995.
    """

    first_order: Sequence[str] = ()
    first_order_loss: str = _choice("joint", "own")
    first_order_share: float = 0.5
    first_order_regularizer: float | Mapping[str, float] = 1e-5
    first_order_learning_rate: float = 0.03
    first_order_averaging: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first_order_share <= 1:
            raise ConfigError(f"first_order_share must be from 0 to 1, got {self.first_order_share}")

    @property
    def own_loss(self) -> bool:
        """Whether there are such terms, with their own loss."""
        return bool(self.first_order) and self.first_order_loss == "own"


@dataclass(frozen=True, kw_only=True)
class LossOptions(_Group):
    """What is trained on the label, and how; see `QIN.add_loss`.

    Attributes:
        loss: name of a torch loss on probabilities.
        contrastive_loss: weight of a second loss that ties the mean history of a positive sample to its target
            (`contrastive.py`); 3 to 100 on MovieLens.
    """

    loss: str = "binary_crossentropy"
    contrastive_loss: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive_loss < 0:
            raise ConfigError(f"contrastive_loss must be 0 (none) or a weight above it, got {self.contrastive_loss}")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(_Group):
    """Steps and penalties (`optimizer.py`, `penalty.py`).

    Attributes:
        optimizer: name of a torch optimizer.
        learning_rate: of the optimizer at the start.
        factor: the learning rate is multiplied with it at a plateau, down to 1e-6.
        accumulation_steps: batches whose gradients are averaged for one optimizer step.
        embedding_regularizer: FuxiCTR's; a number is an L2 weight. Covers whole tables and projections, each step.
        net_regularizer: the same for all other parameters.
        embedding_update: `dense` as published, or `rowwise`: a step updates and penalises only the rows of large tables
            that its batch looks up, so that its cost does not grow with the vocabulary (`rowwise.py`); Adam only.
        rowwise_min_rows: the least number of rows of a table that `rowwise` applies to; below, dense costs little.
    """

    optimizer: str = "adam"
    learning_rate: float = 2e-3
    factor: float = 0.5
    accumulation_steps: int = _number(1, least=1)
    embedding_regularizer: float | str | None = 2e-4
    net_regularizer: float | str | None = None
    embedding_update: str = _choice("dense", "rowwise")
    rowwise_min_rows: int = 50_000

    def regularizers(self) -> dict[str, float | str | None]:
        """Keyword arguments of `BaseModel`, as it reads them."""
        return {
            name: as_regularizer(name, getattr(self, name)) for name in ("embedding_regularizer", "net_regularizer")
        }


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(_Group):
    """How the same values are computed.

    Attributes:
        form: `plain`, the reference implementation, computes everything as the paper writes it, over padded histories;
            `fast`, the optimized one, gives the same values and gradients up to rounding; `auto` is `fast`.
        precision: of the matrix products: `float32`, `tf32`, `bf16` or `auto` (`precision.py`).
    """

    form: str = _choice("auto", "plain", "fast")
    precision: str = _choice(*PRECISIONS)


@dataclass(frozen=True)
class QINOptions:
    """All options of QIN, by group.

    >>> QINOptions.of({"num_layers": 2, "dataset_id": "Shop"}).interaction.num_layers
    2
    """

    base: BaseOptions
    inputs: InputOptions
    attention: AttentionOptions
    interaction: InteractionOptions
    first_order: FirstOrderOptions
    loss: LossOptions
    optimizer: OptimizerOptions
    compute: ComputeOptions

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> QINOptions:
        """Read the options among FuxiCTR's parameters of a run; the rest (dataset, loader, seed) is not QIN's.

        Raises:
            ConfigError: a value that an option does not have, options that do not go together, or one that was removed.
        """
        check_removed(params, REMOVED, "QIN")
        groups = {}
        for name, group in GROUPS.items():
            own = {option.name for option in fields(group)}
            groups[name] = group(**{key: value for key, value in params.items() if key in own})
        options = cls(**groups)
        options._check_together()
        return options

    def _check_together(self) -> None:
        interaction = self.interaction
        if self.attention.attention_similarity and self.attention.pooling == "mean":
            raise ConfigError("attention_similarity is part of attention scores: set pooling to attention")
        if interaction.compile and (self.compute.form == "plain" or interaction.interaction != "quadratic"):
            raise ConfigError(
                "compile is for the optimized implementation of quadratic layers: set it to False, or form to fast"
            )


GROUPS: dict[str, type] = get_type_hints(QINOptions)


def flat_signature() -> inspect.Signature:
    """The signature of `QIN.__init__`: every option as a keyword with its default, and the rest of FuxiCTR's."""
    kinds = inspect.Parameter
    options = [
        kinds(option.name, kinds.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for group in GROUPS.values()
        for option in fields(group)
    ]
    first = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("self", "feature_map")]
    return inspect.Signature([*first, *options, kinds("params", kinds.VAR_KEYWORD)])


def _check(option: Field, value: Any) -> None:
    name, known, least = option.name, option.metadata.get("known"), option.metadata.get("least")
    if known and value not in known:
        raise ConfigError(f"{name}={value!r} is not known. {did_you_mean(str(value), known)}")
    if option.type == "bool" and not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    if isinstance(value, str) and isinstance(option.default, float) and "| str" not in option.type:
        raise ConfigError(f"{name} is the text {value!r}, but must be a number: YAML reads 1.e-3 as one, 1e-3 as text")
    if least is not None and (not isinstance(value, numbers.Real) or value < least):
        raise ConfigError(f"{name} must be at least {least}, got {value!r}")


def _values(group: _Group) -> dict[str, Any]:
    return {option.name: getattr(group, option.name) for option in fields(group)}
