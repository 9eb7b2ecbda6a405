"""The models of a comparison: their entries at sizes that fit a dataset, and their own names of the searched keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuxictr_multimodal.comparison.budgeted.shape import Shape
from fuxictr_multimodal.data.proposal.recipe import losses, recommended, trees
from fuxictr_multimodal.data.proposal.sizes import Sizes, new_users
from fuxictr_multimodal.errors import ConfigError, did_you_mean

Entry = dict[str, Any]
Keys = dict[str, list[str]]
# The same everywhere; FuxiCTR's own factor is 0.1.
FACTOR = 0.5
CLONE = "clone/"
# In order: the first names that a constructor has are its own.
CLONE_KEYS = {
    "hidden_units": (
        ("dnn_hidden_units",),
        ("hidden_units",),
        ("parallel_dnn_hidden_units",),
        ("mlp1_hidden_units", "mlp2_hidden_units"),
        ("mlp_hidden_units",),
    ),
    "num_layers": (("num_layers",), ("num_cross_layers",), ("cross_layers",), ("num_crossing_layers",)),
    "net_dropout": (("net_dropout",), ("mlp1_dropout", "mlp2_dropout")),
    "batch_norm": (("batch_norm",), ("mlp1_batch_norm", "mlp2_batch_norm")),
}


@dataclass(frozen=True)
class Model:
    """One model of a comparison.

    Attributes:
        label: what `--models` calls it; its expid is `<label>_<dataset>`.
        entry: makes its settings: the model, and what the sizes do not say.
        keys: its own names of the keys of the space; with an empty list it has no such key.
        needs_history: whether it does nothing of interest without histories.
        own_space: axes of the search that no other model has.
    """

    label: str
    entry: Callable[[Shape, Sizes], Entry]
    keys: Mapping[str, Sequence[str]]
    needs_history: bool = True
    own_space: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The part of its expids before the dataset: a clone's model has no slash there."""
        return self.label.replace("/", "_")


def _quadratic(shape: Shape, sizes: Sizes) -> Entry:
    """The published form of QIN."""
    return {"model": "QIN", "num_layers": 2, "num_row": 4, "net_dropout": 0.1, "batch_norm": True}


def _recommended(shape: Shape, sizes: Sizes) -> Entry:
    """The recommended form of QIN, and first-order terms where the counts speak for them."""
    entry = recommended(sizes, rows=shape.rows, histories=shape.mean_history > 0, vectors=bool(shape.item_vectors))
    if shape.history_columns:
        entry["attention_activation"] = "relu_mean"
    return entry | _first_order(shape)


def _first_order(shape: Shape) -> Entry:
    """First-order terms, where the users of valid are known from train: they did not pay elsewhere."""
    if shape.user is None or new_users(shape) or shape.item_id is None:
        return {}
    user, users = shape.user
    # L2 weights are 1 / (samples of train x variance of the weights): what the variance was on MovieLens.
    variances = {user: 0.5, shape.item_id: 1.0}
    for tags, size in shape.item_tags:
        variances[tags] = 0.3
        if users * size <= 5_000_000:
            variances[f"{user}*{tags}"] = 0.12
    return {
        "first_order": list(variances),
        "first_order_loss": "own",
        "first_order_share": 0.6,
        "first_order_learning_rate": 0.1,
        "first_order_averaging": 0.998,
        "first_order_regularizer": {
            term: float(f"{1 / (shape.rows * variance):.1e}") for term, variance in variances.items()
        },
    }


def _mean(shape: Shape, sizes: Sizes) -> Entry:
    return {
        "model": "QIN",
        "pooling": "mean",
        "interaction": "mlp",
        "mlp_hidden_units": sizes.hidden_units,
        "net_dropout": 0.1,
        "batch_norm": True,
    }


def _mean_losses(shape: Shape, sizes: Sizes) -> Entry:
    """The same network with the losses and the averaging of the recommended form."""
    return {**_mean(shape, sizes), **losses(sizes, rows=shape.rows, histories=shape.mean_history > 0)}


def _zoo(model: str, **own: Any) -> Callable[[Shape, Sizes], Entry]:
    """A model of FuxiCTR; own settings may be functions of the sizes."""

    def entry(shape: Shape, sizes: Sizes) -> Entry:
        values = {key: value(sizes) if callable(value) else value for key, value in own.items()}
        return {"model": model, "net_dropout": 0.1, "batch_norm": True, **values}

    return entry


def _final_mlp(shape: Shape, sizes: Sizes) -> Entry:
    towers = {
        f"mlp{number}_{key}": value
        for number in (1, 2)
        for key, value in (("hidden_units", sizes.hidden_units), ("dropout", 0.1), ("batch_norm", True))
    }
    # FuxiCTR's forward ignores `use_fs`.
    return {"model": "FinalMLP", **towers, "num_heads": 2, "use_fs": False}


def _trees(shape: Shape, sizes: Sizes) -> Entry:
    return {"model": "Trees", **trees()}


def _widths(sizes: Sizes) -> list[int]:
    return sizes.hidden_units


def _attention_dim(sizes: Sizes) -> int:
    return sizes.attention_dim


_DNN: Keys = {"num_layers": [], "hidden_units": ["dnn_hidden_units"]}
_MEAN: Keys = {"num_layers": [], "hidden_units": ["mlp_hidden_units"]}
_SEARCHING = {"dnn_hidden_units": _widths, "attention_dim": _attention_dim, "num_heads": 2}
# By priority: the first ones are compared by default, the others where there is time.
MODELS = (
    Model("QIN_best", _recommended, {"hidden_units": []}, needs_history=False),
    Model("QIN", _quadratic, {"hidden_units": []}, needs_history=False),
    Model("DIN", _zoo("DIN", dnn_hidden_units=_widths, attention_hidden_units=lambda s: [2 * s.attention_dim]), _DNN),
    Model(
        "DCNv2",
        _zoo("DCNv2", model_structure="parallel", num_cross_layers=3, parallel_dnn_hidden_units=_widths),
        {"num_layers": ["num_cross_layers"], "hidden_units": ["parallel_dnn_hidden_units"]},
        needs_history=False,
    ),
    Model(
        "FinalMLP",
        _final_mlp,
        {
            "num_layers": [],
            "hidden_units": ["mlp1_hidden_units", "mlp2_hidden_units"],
            "net_dropout": ["mlp1_dropout", "mlp2_dropout"],
            "batch_norm": ["mlp1_batch_norm", "mlp2_batch_norm"],
        },
        needs_history=False,
    ),
    Model("MeanMLP", _mean, _MEAN, needs_history=False),
    Model(
        "Trees",
        _trees,
        {
            "trees_learning_rate": ["learning_rate"],
            **{
                key: []
                for key in (
                    "learning_rate",
                    "batch_size",
                    "embedding_dim",
                    "embedding_regularizer",
                    "net_regularizer",
                    "net_dropout",
                    "batch_norm",
                    "num_layers",
                    "hidden_units",
                )
            },
        },
        needs_history=False,
        own_space={
            "trees_learning_rate": {"low": 0.03, "high": 0.3, "log": True},
            "max_leaf_nodes": [15, 31, 63],
            "l2_regularization": {"low": 0.1, "high": 30.0, "log": True},
        },
    ),
    Model("SDIM", _zoo("SDIM", num_hashes=2, **_SEARCHING), _DNN),
    Model("TWIN", _zoo("TWIN", **_SEARCHING), _DNN),
    Model("DIEN", _zoo("DIEN", dnn_hidden_units=_widths, gru_type="AUGRU", attention_type="bilinear_attention"), _DNN),
    Model("ETA", _zoo("ETA", **_SEARCHING), _DNN),
    Model("SIM", _zoo("SIM", **_SEARCHING), _DNN),
    Model("MIRRN", _zoo("MIRRN", topk=4, **_SEARCHING), _DNN),
    Model(
        "TransAct",
        _zoo(
            "TransAct",
            dcn_cross_layers=3,
            dcn_hidden_units=_widths,
            num_heads=2,
            dim_feedforward=lambda s: 4 * s.attention_dim,
        ),
        {"num_layers": ["dcn_cross_layers"], "hidden_units": ["dcn_hidden_units"]},
    ),
)
CORE = 7
# Compared when they are asked for: probes and trials of theirs would take the time of those above.
PEERS = (
    Model("MeanMLP_losses", _mean_losses, _MEAN, needs_history=False),
    Model("BST", _zoo("BST", hidden_units=_widths, num_layers=1, num_heads=2), {}),
    Model("HSTU", _zoo("HSTU", hidden_units=_widths, num_layers=1, num_heads=2, head_dim=16), {}),
    Model("MUSE", _zoo("MUSE", hidden_units=_widths, attention_dim=_attention_dim), {"num_layers": []}),
    Model(
        "RankMixer", _zoo("RankMixer", hidden_units=_widths, num_layers=2, token_dim=lambda s: 2 * s.attention_dim), {}
    ),
)
BY_LABEL = {model.label: model for model in (*MODELS, *PEERS)}


def choose(labels: Sequence[str] | None, shape: Shape, *, zoo_root: Path | None) -> tuple[list[Model], int]:
    """The models that are asked for, and how many of them are not to be left out lightly.

    Args:
        labels: of `--models`; None for the default, the core and what fits beside it.
        shape: of the dataset: without histories, models that attend to them are left out of the default.
        zoo_root: a FuxiCTR clone, whose models have the prefix `clone/`.

    Raises:
        ConfigError: a model that is not known; the nearest one is named.
    """
    if labels is None:
        histories = shape.mean_history or shape.history_columns
        fitting = [model for model in MODELS if histories or not model.needs_history]
        return fitting, sum(model in MODELS[:CORE] for model in fitting)
    found = [BY_LABEL.get(label) or _of_clone(label, zoo_root) for label in dict.fromkeys(labels)]
    return found, len(found)


def uses_clone(labels: Sequence[str] | None) -> bool:
    """Whether a model of a FuxiCTR clone is asked for."""
    return any(label not in BY_LABEL for label in labels or ())


def check_labels(labels: Sequence[str], *, zoo_root: Path | None) -> None:
    """Refuse unknown models before anything is built; see `choose`."""
    for label in labels:
        if label not in BY_LABEL:
            _of_clone(label, zoo_root)


def _of_clone(label: str, zoo_root: Path | None) -> Model:
    """A model of a clone, its keys read off its constructor."""
    known = list(BY_LABEL)
    if zoo_root is not None:
        # FuxiCTR takes seconds to import, and only a clone's models need it here.
        from fuxictr_multimodal.zoo import clone
        from fuxictr_multimodal.zoo.models import resolve

        known += [CLONE + name for name in sorted(clone.find_models(zoo_root))]
        if CLONE + label.removeprefix(CLONE) in known:
            label = CLONE + label.removeprefix(CLONE)
            return _read_off(label, resolve(label, zoo_root=zoo_root).model_class)
    if label.startswith(CLONE) and zoo_root is None:
        raise ConfigError(f"--models: {label!r} is of a FuxiCTR clone: give its folder with --zoo-root")
    hint = "" if zoo_root else " (models of a FuxiCTR clone need --zoo-root)"
    raise ConfigError(f"--models: {label!r} is not a model of the comparison. {did_you_mean(label, known)}{hint}")


def _read_off(label: str, model_class: type) -> Model:
    parameters = inspect.signature(model_class).parameters
    keys: Keys = {}
    for key, choices in CLONE_KEYS.items():
        keys[key] = next((list(names) for names in choices if all(name in parameters for name in names)), [])

    def entry(shape: Shape, sizes: Sizes) -> Entry:
        values = {"hidden_units": sizes.hidden_units, "num_layers": 2, "net_dropout": 0.1, "batch_norm": True}
        return {"model": label, **{name: values[key] for key, names in keys.items() for name in names}}

    # A key that keeps its name needs no row.
    return Model(label, entry, {key: names for key, names in keys.items() if names != [key]}, needs_history=False)


def experiment(model: Model, shape: Shape, sizes: Sizes, *, dataset_id: str) -> Entry:
    """The entry of a model in `model_config.yaml`: what it is, and what all models share."""
    shared: Entry = {
        "dataset_id": dataset_id,
        "learning_rate": 1e-3,
        "batch_size": sizes.batch_size,
        "epochs": sizes.epochs,
        "early_stop_patience": sizes.patience,
        "factor": FACTOR,
        "embedding_dim": sizes.embedding_dim,
        "embedding_regularizer": sizes.embedding_regularizer,
        "net_regularizer": 0,
    }
    if sizes.cpu_threads is not None:
        shared["cpu_threads"] = sizes.cpu_threads
    own = model.entry(shape, sizes)
    shared = {key: value for key, value in shared.items() if model.keys.get(key) != []}
    return {"model": own.pop("model"), **shared, **own}
