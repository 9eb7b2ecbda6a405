"""One interest network: embeddings, history pooled for the target, and the interaction of all of it, to a logit.

logit = interaction(x), x = [context features, x_t, out]: x_t the target item, out its history pooled for it. Where
similarities are counted (`similarity.py`), W log(1 + c) stands between the context features and x_t.

Shape legend: B rows, D item width, C context width, F = C + 2 D width of the interaction, H numbers of a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN.attention import JaggedHistory, MeanPooling, PaddedHistory, SparseTargetAttention
from model_zoo.QIN.item_vectors import ItemVectors
from model_zoo.QIN.precision import Precision
from model_zoo.QIN.quadratic import QuadraticNetwork
from model_zoo.QIN.quadratic_heads import HeadsNetwork

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

# The target's vector (B, D) and its history.
Interest = tuple[Tensor, PaddedHistory | JaggedHistory]
ReadItems = Callable[[ItemVectors], Interest]


class InterestNetwork(nn.Module):
    """From features to a logit; the arguments are those of `QIN` with the same names.

    Args:
        histogram_width: numbers a row of `SimilarityTiers`; 0 for none.

    Attributes:
        context_features, item_features: names, in the order of the feature map.
        qnn, mlp: the interaction; one of them is None.

    Raises:
        ConfigError: a size that a layer refuses, or a feature map without items.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        *,
        embedding_dim: int,
        pooling: str,
        attention_dim: int | None,
        attention_activation: str,
        attention_dropout: float,
        interaction: str,
        quadratic_variant: str,
        num_layers: int,
        num_row: int,
        heads: int,
        mlp_hidden_units: Sequence[int],
        net_dropout: float,
        batch_norm: bool,
        activation: str,
        compile: bool,
        histogram_width: int,
    ) -> None:
        super().__init__()
        specs = {name: spec for name, spec in feature_map.features.items() if spec["type"] != "meta"}
        self.item_features = [name for name, spec in specs.items() if spec.get("source") == "item"]
        if not self.item_features:
            raise ConfigError(
                f"QIN pools histories of items: no feature of {feature_map.dataset_id} has `source: item`"
            )
        self.context_features = [name for name in specs if name not in self.item_features]
        widths = {n: s.get("emb_output_dim", s.get("embedding_dim", embedding_dim)) for n, s in specs.items()}
        item_width = sum(widths[name] for name in self.item_features)
        width = sum(widths[name] for name in self.context_features) + 2 * item_width
        self.similarity_map: nn.Linear | None = None
        if histogram_width:
            self.similarity_map = nn.Linear(histogram_width, embedding_dim, bias=False)
            width += embedding_dim
        common = {"dropout": net_dropout, "batch_norm": batch_norm, "activation": activation}
        self.qnn: QuadraticNetwork | HeadsNetwork | None = None
        self.mlp: MLP_Block | None = None
        try:
            self.embedding_layer = FeatureEmbedding(feature_map, embedding_dim)
            if pooling == "attention":
                self.attention_layers = SparseTargetAttention(
                    item_width,
                    attention_dim=attention_dim or 2 * item_width,
                    activation=attention_activation,
                    dropout=attention_dropout,
                )
            else:
                self.attention_layers = MeanPooling()
            if interaction == "quadratic" and quadratic_variant == "rows":
                self.qnn = QuadraticNetwork(width, num_layers=num_layers, num_row=num_row, compiled=compile, **common)
            elif interaction == "quadratic":
                self.qnn = HeadsNetwork(width, num_layers=num_layers, heads=heads, **common)
            else:
                self.mlp = MLP_Block(
                    input_dim=width,
                    output_dim=1,
                    hidden_units=list(mlp_hidden_units),
                    dropout_rates=net_dropout,
                    batch_norm=batch_norm,
                )
        except ValueError as error:
            raise ConfigError(str(error)) from None
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
            parts.insert(0, self.similarity_map(histogram_BH.to(target_BD.dtype)))
        if context:
            parts.insert(0, self.embedding_layer(context, flatten_emb=True))
        return torch.cat(parts, dim=-1), (target_BD, history)

    def interact(self, x_BF: Tensor, *, form: str, precision: Precision) -> Tensor:
        """Logits (B, 1) of the interaction's input; dropout is drawn anew in each call."""
        if self.qnn is None:
            return self.mlp(x_BF)
        with precision.layers():
            return self.qnn(x_BF, form=form)

    def forget(self) -> None:
        """Drop what was prepared for scoring."""
        self.item_vectors.forget()
        if self.qnn is not None:
            self.qnn.forget()
