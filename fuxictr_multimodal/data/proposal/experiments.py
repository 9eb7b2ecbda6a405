"""Experiments whose sizes fit the data: QIN, and models of FuxiCTR to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fuxictr_multimodal.config.of_settings import BASE
from fuxictr_multimodal.data.proposal.lines import Noted
from fuxictr_multimodal.data.proposal.roles import Roles

# Training samples up to which a row holds: embedding_dim, batch_size, learning_rate, embedding_regularizer, layers.
SIZES = (
    (20_000, 8, 128, 3e-3, 1e-4, 2),
    (200_000, 16, 1024, 1e-3, 1e-2, 2),
    (2_000_000, 16, 4096, 1e-3, 1e-4, 3),
    (20_000_000, 32, 8192, 1e-3, 1e-5, 3),
    (None, 64, 8192, 2e-3, 1e-6, 4),
)
SMALL = 200_000
HIDDEN = {8: [64, 32], 16: [128, 64], 32: [256, 128], 64: [512, 256]}


@dataclass(frozen=True)
class Size:
    """Sizes of a model for a number of training samples."""

    samples: int
    embedding_dim: int
    batch_size: int
    learning_rate: float
    embedding_regularizer: float
    num_layers: int

    @classmethod
    def of(cls, samples: int) -> Size:
        """The sizes for a number of training samples."""
        row = next(row for row in SIZES if row[0] is None or samples <= row[0])
        return cls(samples, *row[1:])


def sizes_for(samples: int) -> dict[str, Any]:
    """Settings of any model that depend on the number of training samples."""
    size = Size.of(samples)
    return {
        "epochs": 20 if samples <= SMALL else 10,
        "batch_size": size.batch_size,
        "learning_rate": size.learning_rate,
        "factor": 0.5,
        "embedding_dim": size.embedding_dim,
        "embedding_regularizer": size.embedding_regularizer,
    }


def training_samples(roles: Roles) -> int:
    """About how many training samples the dataset will have."""
    rows = roles.main.rows
    if roles.splits:
        return rows
    drawn = 3 if roles.form == "log" and roles.label is None else 0
    return int(rows * (1 + drawn) * 0.8)


def propose_experiments(roles: Roles, dataset_id: str, *, events: Sequence[str], with_base: bool) -> dict[str, Any]:
    """The experiments of a dataset; values may be `Noted`.

    Args:
        roles: of the files.
        dataset_id: name of the dataset.
        events: names of its event features.
        with_base: write `Base` too, which a config folder has once.
    """
    size = Size.of(training_samples(roles))
    grouped = roles.user is not None
    found: dict[str, Any] = {"Base": dict(BASE)} if with_base else {}
    found[f"QIN_{dataset_id}"] = _qin(dataset_id, size, events, grouped=grouped)
    if roles.form == "flat":
        return found
    found[f"DIN_{dataset_id}"] = _din(dataset_id, size, grouped=grouped)
    found[f"DCNv2_{dataset_id}"] = _dcnv2(dataset_id, size, grouped=grouped)
    return found


def _shared(dataset_id: str, size: Size, *, grouped: bool) -> dict[str, Any]:
    small = size.samples <= SMALL
    metrics = ["AUC", "gAUC", "logloss"] if grouped else ["AUC", "logloss"]
    settings: dict[str, Any] = {
        "dataset_id": dataset_id,
        "metrics": Noted(metrics, "" if grouped else "gAUC and NDCG need group_id"),
        "monitor": Noted("AUC", "what selects the best evaluation"),
        "epochs": Noted(20 if small else 10, "at most; early_stop_patience ends earlier"),
        "early_stop_patience": 2,
        "batch_size": size.batch_size,
        "learning_rate": size.learning_rate,
        "factor": Noted(0.5, "of the learning rate after an evaluation without a gain"),
        "embedding_dim": Noted(size.embedding_dim, f"for about {size.samples:,} training samples; more data bear more"),
        "embedding_regularizer": Noted(
            size.embedding_regularizer, "try ten times more and less: it matters most on small data"
        ),
        "net_regularizer": 0,
        "net_dropout": 0.1,
        "batch_norm": True,
    }
    if small:
        settings["cpu_threads"] = Noted(1, "on a CPU, small models are faster on one thread")
    return settings


def _qin(dataset_id: str, size: Size, events: Sequence[str], *, grouped: bool) -> dict[str, Any]:
    own: dict[str, Any] = {"num_layers": size.num_layers, "num_row": 4 if size.samples > SMALL else 2}
    if events:
        own["event_features"] = Noted(
            "all", f"{', '.join(events)} of the target and of each history event; null for none"
        )
    return {"model": "QIN", **_shared(dataset_id, size, grouped=grouped), **own}


def _din(dataset_id: str, size: Size, *, grouped: bool) -> dict[str, Any]:
    hidden = HIDDEN[size.embedding_dim]
    own = {"dnn_hidden_units": hidden, "attention_hidden_units": hidden[-1:]}
    return {"model": Noted("DIN", "of FuxiCTR's LongCTR"), **_shared(dataset_id, size, grouped=grouped), **own}


def _dcnv2(dataset_id: str, size: Size, *, grouped: bool) -> dict[str, Any]:
    own = {
        "model_structure": "parallel",
        "num_cross_layers": size.num_layers,
        "parallel_dnn_hidden_units": HIDDEN[size.embedding_dim],
    }
    return {"model": Noted("DCNv2", "of FuxiCTR's LongCTR"), **_shared(dataset_id, size, grouped=grouped), **own}
