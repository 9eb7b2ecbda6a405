"""The same settings for all data: the recommended form of QIN, whose sizes come from the counts, and of trees."""

from __future__ import annotations

from typing import Any

from fuxictr_multimodal.data.proposal.sizes import Sizes


def recommended(sizes: Sizes, *, rows: int, histories: bool, vectors: bool) -> dict[str, Any]:
    """Settings of an experiment with QIN; results/LOG.md has what each option is worth on which data.

    Args:
        sizes: that fit the data.
        rows: samples of train.
        histories: whether samples have histories.
        vectors: whether items have pretrained embeddings.
    """
    settings: dict[str, Any] = {
        "model": "QIN",
        "num_layers": sizes.num_layers,
        "num_row": 1,
        "net_dropout": sizes.net_dropout,
        "batch_norm": True,
    }
    if histories:
        settings["attention_activation"] = "relu_mean"
        if vectors:
            settings["attention_similarity"] = True
    return settings | losses(sizes, rows=rows, histories=histories)


def trees() -> dict[str, Any]:
    """Settings of gradient-boosted trees: an epoch is one tree, a batch what features are computed of together."""
    return {
        "epochs": 300,
        "early_stop_patience": 20,
        "batch_size": 4096,
        "learning_rate": 0.1,
        "max_leaf_nodes": 31,
        "l2_regularization": 1.0,
    }


def losses(sizes: Sizes, *, rows: int, histories: bool) -> dict[str, Any]:
    """What of the recommended form any network of `model: QIN` can have: a second loss, and averaged weights.

    Args:
        sizes: that fit the data.
        rows: samples of train.
        histories: whether samples have histories.
    """
    settings: dict[str, Any] = {"contrastive_loss": 1.0} if histories else {}
    steps = rows / sizes.batch_size
    if steps >= 20:
        # The average spans about a quarter of an epoch of 800 steps, and less of a longer one.
        settings["weight_averaging"] = 0.995 if steps >= 80 else 0.98
    return settings
