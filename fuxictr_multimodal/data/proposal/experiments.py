"""Experiments whose sizes fit the data: QIN as recommended, models to compare with, and a search for QIN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fuxictr_multimodal.config.of_settings import BASE
from fuxictr_multimodal.data.proposal.facts import overlap
from fuxictr_multimodal.data.proposal.lines import Noted
from fuxictr_multimodal.data.proposal.recipe import recommended, trees
from fuxictr_multimodal.data.proposal.roles import Roles
from fuxictr_multimodal.data.proposal.sizes import MIDDLE_ROWS, Counts, Sizes, new_users

# Of a dataset that is not built yet.
MIDDLE = 200_000
LEARNING_RATE = 1e-3
FACTOR = 0.5


def sizes_for(samples: int) -> dict[str, Any]:
    """Settings of any model that depend on the number of training samples."""
    sizes = Sizes.of(Counts(samples))
    return {
        "epochs": sizes.epochs,
        "batch_size": sizes.batch_size,
        "learning_rate": LEARNING_RATE,
        "factor": FACTOR,
        "embedding_dim": sizes.embedding_dim,
        "embedding_regularizer": sizes.embedding_regularizer,
    }


def training_samples(roles: Roles) -> int:
    """About how many training samples the dataset will have."""
    rows = roles.main.rows
    if roles.splits:
        return rows
    drawn = 3 if roles.form == "log" and roles.label is None else 0
    return int(rows * (1 + drawn) * 0.8)


def counts_of(roles: Roles, split_by: str | None) -> Counts:
    """What is known of the dataset before it is built.

    Args:
        roles: of the files.
        split_by: how the proposed entry splits them; None where there is a file for each split.
    """
    items = roles.items.rows if roles.items is not None else 0
    return Counts(training_samples(roles), items, _known_users(roles, split_by))


def _known_users(roles: Roles, split_by: str | None) -> float | None:
    """Fraction of the samples of valid whose user occurs in train; None where nobody knows."""
    if roles.user is None or split_by == "order":
        return None
    if split_by in ("user", "last_item"):
        return float(split_by == "last_item")
    users = roles.main.columns[roles.user]
    if split_by is None:
        valid = roles.splits.get("valid")
        if valid is None or roles.user not in valid.columns or not (valid.whole and roles.main.whole):
            return None
        return overlap(valid.columns[roles.user].values, users.values)
    assert roles.time is not None
    times = roles.main.columns[roles.time]
    if not roles.main.whole or users.missing or times.missing:
        return None
    cuts = [times.values.quantile(fraction, "nearest") for fraction in (0.8, 0.9)]
    train = users.values.filter(times.values < cuts[0])
    return overlap(users.values.filter((times.values >= cuts[0]) & (times.values < cuts[1])), train)


def propose_experiments(
    roles: Roles, dataset_id: str, *, counts: Counts, events: Sequence[str], vectors: bool, with_base: bool
) -> dict[str, Any]:
    """The experiments of a dataset; values may be `Noted`.

    Args:
        roles: of the files.
        dataset_id: name of the dataset.
        counts: what is known of it.
        events: names of its event features.
        vectors: whether items have pretrained embeddings.
        with_base: write `Base` too, which a config folder has once.
    """
    sizes, histories = Sizes.of(counts), has_histories(roles)
    grouped = roles.user is not None

    def shared() -> dict[str, Any]:
        return _shared(dataset_id, counts, sizes, grouped=grouped)

    found: dict[str, Any] = {"Base": dict(BASE)} if with_base else {}
    recipe = recommended(sizes, rows=counts.rows, histories=histories, vectors=vectors)
    found[f"QIN_{dataset_id}"] = {"model": recipe["model"], **shared(), **_explained(recipe, events)}
    if roles.form == "flat":
        return found
    hidden = sizes.hidden_units
    found[f"DIN_{dataset_id}"] = {
        "model": Noted("DIN", "of FuxiCTR's LongCTR"),
        **shared(),
        "dnn_hidden_units": hidden,
        "attention_hidden_units": [2 * sizes.attention_dim],
    }
    found[f"DCNv2_{dataset_id}"] = {
        "model": Noted("DCNv2", "of FuxiCTR's LongCTR"),
        **shared(),
        "model_structure": "parallel",
        "num_cross_layers": 3,
        "parallel_dnn_hidden_units": hidden,
    }
    found[f"Trees_{dataset_id}"] = {
        "model": Noted("Trees", "gradient-boosted trees on counts and similarities: what needs no network"),
        "dataset_id": dataset_id,
        "metrics": _metrics(grouped),
        "monitor": "AUC",
        **_noted(trees(), {"epochs": "trees at most", "batch_size": "samples whose features are computed together"}),
    }
    return found


def has_histories(roles: Roles) -> bool:
    """Whether samples have histories: those of a log get them."""
    return roles.form == "log" or bool(roles.histories)


def propose_search(expid: str, *, config_dir: Path, counts: Counts, histories: bool) -> dict[str, Any]:
    """A tuner file that searches what depends on the data.

    Args:
        expid: of QIN.
        config_dir: with the experiment.
        counts: of the dataset.
        histories: whether it has histories.
    """
    sizes = Sizes.of(counts)
    space = sizes.space()
    axes = ("learning_rate", "embedding_regularizer", "net_dropout", "num_layers", "embedding_dim")
    chosen = {axis: space[axis] for axis in axes}
    if histories:
        chosen["contrastive_loss"] = [0, 0.3, 1, 3]
    space = {key: Noted(axis) for key, axis in chosen.items()}
    return {"base_config": str(config_dir), "base_expid": expid, "tuner_space": Noted(space)}


def _metrics(grouped: bool) -> list[str]:
    return ["AUC", "gAUC", "logloss"] if grouped else ["AUC", "logloss"]


def _shared(dataset_id: str, counts: Counts, sizes: Sizes, *, grouped: bool) -> dict[str, Any]:
    penalty = (
        "users of valid are new, so it is strong: ids of items overfit"
        if new_users(counts)
        else "try ten times more and less: it matters most on small data"
    )
    settings: dict[str, Any] = {
        "dataset_id": dataset_id,
        "metrics": Noted(_metrics(grouped), "" if grouped else "gAUC and NDCG need group_id"),
        "monitor": Noted("AUC", "what selects the best evaluation"),
        "epochs": Noted(sizes.epochs, "at most; early_stop_patience ends earlier"),
        "early_stop_patience": sizes.patience,
        "batch_size": sizes.batch_size,
        "learning_rate": LEARNING_RATE,
        "factor": Noted(FACTOR, "of the learning rate after an evaluation without a gain"),
        "embedding_dim": Noted(sizes.embedding_dim, f"for about {counts.rows:,} training samples; more data bear more"),
        "embedding_regularizer": Noted(sizes.embedding_regularizer, penalty),
        "net_regularizer": 0,
        "net_dropout": 0.2 if counts.rows < MIDDLE_ROWS else 0.1,
        "batch_norm": True,
    }
    if sizes.cpu_threads is not None:
        settings["cpu_threads"] = Noted(sizes.cpu_threads, "on a CPU, small models are faster on one thread")
    return settings


def _explained(recipe: Mapping[str, Any], events: Sequence[str]) -> dict[str, Any]:
    """The options of the recommended form with what they are; the published form has none of them."""
    comments = {
        "num_row": "the published form: 4, more where data are plenty",
        "attention_activation": "starts as the mean of the history; the published form: relu",
        "attention_similarity": "scores read cosines of pretrained embeddings too; the published form: False",
        "contrastive_loss": "weight of telling what a user likes next; the published form: 0",
        "weight_averaging": "over training steps; the published form: 0",
    }
    settings = _noted({key: value for key, value in recipe.items() if key != "model"}, comments)
    if events:
        note = f"{', '.join(events)} of the target and of each history event: try it, it helps on some data"
        settings["event_features"] = Noted("all", note, off=True)
    return settings


def _noted(settings: Mapping[str, Any], comments: Mapping[str, str]) -> dict[str, Any]:
    """The settings, those with a comment as `Noted`."""
    return {key: Noted(value, comments[key]) if key in comments else value for key, value in settings.items()}
