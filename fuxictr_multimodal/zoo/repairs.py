"""Repairs of models where FuxiCTR's code has a fault; `faults.py` maps each fault to its repair."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuxictr.pytorch.models import BaseModel

# DIEN packs its histories, which reads them from the left.
FILLED_AFTER = frozenset({"DIEN"})


def padding_side(model_class: type) -> str:
    """FuxiCTR's `padding` for a model: `pre` fills a history before its items, `post` after them."""
    return "post" if model_class.__name__ in FILLED_AFTER else "pre"


def least_slots(model: BaseModel, max_len: int) -> int | None:
    """History slots of every batch for a model that cuts out the newest `short_seq_len`; None where any number will do.

    Such a model fails on a batch whose longest history is shorter than that.
    """
    short = getattr(model, "short_seq_len", None)
    return None if short is None else max(max_len, short)


def name_one_regularizer(model_class: type, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters under the names that a model has: one of embeddings only calls its regulariser `regularizer`.

    It takes `**kwargs` too and hands them to a base class that has the usual two names: given these it fails.
    """
    parameters = inspect.signature(model_class).parameters
    if "regularizer" not in parameters or "embedding_regularizer" in parameters:
        return dict(params)
    kept = {k: v for k, v in params.items() if k not in ("embedding_regularizer", "net_regularizer")}
    return {"regularizer": params.get("embedding_regularizer"), **kept}


def accept_old_keyword(model: BaseModel) -> None:
    """Let a model call FuxiCTR's embedding layer with `dynamic_emb_dim`, the former name of `flatten_emb`."""
    from fuxictr.pytorch.layers import FeatureEmbedding

    def rename(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if "dynamic_emb_dim" not in kwargs:
            return None
        flatten_emb = kwargs["dynamic_emb_dim"]
        return args, {**{k: v for k, v in kwargs.items() if k != "dynamic_emb_dim"}, "flatten_emb": flatten_emb}

    for layer in model.modules():
        if isinstance(layer, FeatureEmbedding):
            layer.register_forward_pre_hook(rename, with_kwargs=True)


def initialise_forgotten_tables(model: BaseModel) -> None:
    """Initialise tables of shared features in layers that do not share, as layers of width 1 are.

    FuxiCTR's `init_weights` skips what shares an embedding, whether or not the layer lets it: such a table keeps
    torch's N(0, 1), 10,000 times the rest, and the summed history drowns everything else.
    """
    from fuxictr.pytorch.layers import FeatureEmbeddingDict

    for layer in model.modules():
        if type(layer) is FeatureEmbeddingDict:
            for name, table in layer.embedding_layers.items():
                shared = layer._feature_map.features[name].get("share_embedding")
                shares = shared in layer.embedding_layers and layer.embedding_layers[shared] is table
                if shared is not None and not shares:
                    layer.embedding_initializer(table.weight[1:])
                    logging.warning(
                        "%s: a table of %s is initialised here, because FuxiCTR does not initialise it",
                        type(model).__name__,
                        name,
                    )


def without_projection(model: BaseModel) -> list[str]:
    """Pretrained embeddings that some layer of the model would hand over in their full width."""
    from fuxictr.pytorch.layers import FeatureEmbeddingDict

    unread: set[str] = set()
    for layer in model.modules():
        if type(layer) is FeatureEmbeddingDict:
            specs = layer._feature_map.features
            pretrained = [name for name in layer.embedding_layers if specs[name]["type"] == "embedding"]
            unread.update(name for name in pretrained if name not in layer.feature_encoders)
    return sorted(unread)
