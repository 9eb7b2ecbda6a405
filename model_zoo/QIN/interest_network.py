"""One interest network: embeddings, history pooled for the target, and the interaction of all of it, to a logit.

logit = interaction(x), x = [context features, x_t, out]: x_t the target item, out its history pooled for it. Where
similarities are counted (`similarity.py`), W log(1 + c) stands between the context features and x_t.

Shape legend: B rows, D item width, C context width, F = C + 2 D width of the interaction, H numbers of a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN.attention import JaggedHistory, MeanPooling, PaddedHistory, SparseTargetAttention
from model_zoo.QIN.item_vectors import ItemVectors
from model_zoo.QIN.options import AttentionOptions, InteractionOptions, QINOptions
from model_zoo.QIN.precision import Precision
from model_zoo.QIN.quadratic import QuadraticNetwork
from model_zoo.QIN.quadratic_heads import HeadsNetwork

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

# The target's vector (B, D) and its history.
Interest = tuple[Tensor, PaddedHistory | JaggedHistory]
ReadItems = Callable[[ItemVectors], Interest]


class InterestNetwork(nn.Module):
    """From features to a logit.

    Args:
        feature_map: features; `source: item` marks what an item has.
        options: of QIN.
        histogram_width: numbers per row of `SimilarityTiers`; 0 for none.

    Attributes:
        context_features, item_features: names, in the order of the feature map.
        qnn, mlp: the interaction; one of them is None.

    Raises:
        ConfigError: a size that a layer refuses, or a feature map without items.
    """

    def __init__(self, feature_map: FeatureMap, options: QINOptions, *, histogram_width: int = 0) -> None:
        super().__init__()
        specs = {name: spec for name, spec in feature_map.features.items() if spec["type"] != "meta"}
        self.item_features = [name for name, spec in specs.items() if spec.get("source") == "item"]
        if not self.item_features:
            raise ConfigError(
                f"QIN pools histories of items: no feature of {feature_map.dataset_id} has `source: item`"
            )
        self.context_features = [name for name in specs if name not in self.item_features]
        dim = options.inputs.embedding_dim
        widths = {n: s.get("emb_output_dim", s.get("embedding_dim", dim)) for n, s in specs.items()}
        item_width = sum(widths[name] for name in self.item_features)
        width = sum(widths[name] for name in self.context_features) + 2 * item_width
        self.similarity_map: nn.Linear | None = None
        if histogram_width:
            self.similarity_map = nn.Linear(histogram_width, dim, bias=False)
            width += dim
        self.qnn: QuadraticNetwork | HeadsNetwork | None = None
        self.mlp: MLP_Block | None = None
        try:
            self.embedding_layer = FeatureEmbedding(feature_map, dim)
            self.attention_layers = _pooling(item_width, options.attention)
            interaction = _interaction(width, options.interaction)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if isinstance(interaction, MLP_Block):
            self.mlp = interaction
        else:
            self.qnn = interaction
        self.item_vectors = ItemVectors(self.embedding_layer, self.item_features)

    def read(
        self,
        context: Mapping[str, Tensor],
        items: ReadItems,
        precision: Precision,
        *,
        histogram_BH: Tensor | None = None,
    ) -> tuple[Tensor, Interest]:
        """The input (B, F) of the interaction, and what it was read from.

        `items` turns item vectors into the target's and a history.
        """
        target_BD, history = items(self.item_vectors)
        with precision.layers():
            parts = [target_BD, self.attention_layers(target_BD, history)]
        if self.similarity_map is not None:
            assert histogram_BH is not None
            parts.insert(0, self.similarity_map(histogram_BH.to(target_BD.dtype)))
        if context:
            parts.insert(0, self.embedding_layer(context, flatten_emb=True))
        return torch.cat(parts, dim=-1), (target_BD, history)

    def interact(self, x_BF: Tensor, *, form: str, precision: Precision) -> Tensor:
        """Logits (B, 1) of the interaction's input; dropout is drawn anew in each call."""
        if self.mlp is not None:
            return self.mlp(x_BF)
        assert self.qnn is not None
        with precision.layers():
            return self.qnn(x_BF, form=form)

    def forget(self) -> None:
        """Drop what was prepared for scoring."""
        self.item_vectors.forget()
        if self.qnn is not None:
            self.qnn.forget()


def _pooling(item_width: int, options: AttentionOptions) -> SparseTargetAttention | MeanPooling:
    if options.pooling == "mean":
        return MeanPooling()
    return SparseTargetAttention(
        item_width,
        attention_dim=options.attention_dim or 2 * item_width,
        activation=options.attention_activation,
        dropout=options.attention_dropout,
    )


def _interaction(width: int, options: InteractionOptions) -> QuadraticNetwork | HeadsNetwork | MLP_Block:
    common: dict[str, Any] = {
        "num_layers": options.num_layers,
        "dropout": options.net_dropout,
        "batch_norm": options.batch_norm,
        "activation": options.activation,
    }
    if options.interaction == "mlp":
        return MLP_Block(
            input_dim=width,
            output_dim=1,
            hidden_units=list(options.mlp_hidden_units),
            dropout_rates=options.net_dropout,
            batch_norm=options.batch_norm,
        )
    if options.quadratic_variant == "heads":
        return HeadsNetwork(width, heads=options.heads, **common)
    return QuadraticNetwork(width, num_row=options.num_row, compiled=options.compile, **common)
