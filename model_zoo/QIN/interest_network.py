"""The interest network: embeddings, histories pooled for the target, and the interaction of all of it, to a logit.

logit = interaction(x), x = [context features, x_t, out_1 .. out_K]: x_t the target, out_k its history of behaviour k
pooled for it, each by an attention of its own. Mostly K = 1; without histories x has the features alone.

Shape legend: B rows, K behaviours, D width of a target, D_k that of its fields in behaviour k (mostly D), C context
width, F = C + D + sum of D_k width of the interaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN.attention import JaggedHistory, MeanPooling, PaddedHistory, SparseTargetAttention
from model_zoo.QIN.fields import Fields
from model_zoo.QIN.item_vectors import ItemVectors
from model_zoo.QIN.options import AttentionOptions, InteractionOptions, QINOptions
from model_zoo.QIN.precision import Precision
from model_zoo.QIN.quadratic import QuadraticNetwork

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

# The target's vector (B, D_k) and its history of a behaviour.
Interest = tuple[Tensor, PaddedHistory | JaggedHistory]


class InterestNetwork:
    """From features to a logit. Its parts are modules of the model, which names their weights.

    Args:
        feature_map: features.
        options: of QIN.
        fields: what the features are read as.
        similarities: pretrained embeddings in which targets and histories are compared, E; 0 for none.

    Attributes:
        attention_layers: pools the first history; None without histories.
        behaviour_attention: pool the further ones, by the name of the behaviour.
        qnn, mlp: the interaction; one of them is None.
        widths: of each feature's vector.
        item_width, target_width: of an item's vector, and of a target's, with its events.

    Raises:
        ConfigError: a size that a layer refuses.
    """

    def __init__(self, feature_map: FeatureMap, options: QINOptions, fields: Fields, *, similarities: int = 0) -> None:
        specs = feature_map.features
        dim = options.inputs.embedding_dim
        self.widths = widths = {n: s.get("emb_output_dim", s.get("embedding_dim", dim)) for n, s in specs.items()}

        def width_of(names: Sequence[str]) -> int:
            return sum(widths[name] for name in names)

        pooled = [width_of(behaviour.fields) for behaviour in fields.behaviours]
        self.item_width, self.target_width = width_of(fields.items), width_of(fields.target)
        width = width_of(fields.context) + width_of(fields.target) + sum(pooled)
        self.qnn: QuadraticNetwork | None = None
        self.mlp: MLP_Block | None = None
        try:
            self.embedding_layer = FeatureEmbedding(
                feature_map, dim, not_required_feature_columns=list(fields.skipped) or None
            )
            self.attention_layers = _pooling(pooled[0], options.attention, similarities) if pooled else None
            self.behaviour_attention = nn.ModuleDict(
                {
                    behaviour.name: _pooling(width_k, options.attention)
                    for behaviour, width_k in zip(fields.behaviours[1:], pooled[1:], strict=True)
                }
            )
            interaction = _interaction(width, options.interaction)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if isinstance(interaction, MLP_Block):
            self.mlp = interaction
        else:
            self.qnn = interaction
        self.item_vectors = ItemVectors(self.embedding_layer, fields)

    @property
    def attentions(self) -> list[SparseTargetAttention | MeanPooling]:
        """What pools the history of each behaviour."""
        first = [] if self.attention_layers is None else [self.attention_layers]
        return [*first, *self.behaviour_attention.values()]  # type: ignore[list-item]

    def read(
        self,
        context: Mapping[str, Tensor],
        target_BD: Tensor | None,
        interests: Sequence[Interest],
        precision: Precision,
    ) -> Tensor:
        """The input (B, F) of the interaction.

        Args:
            context: context features.
            target_BD: x_t, None where there is none.
            interests: of each behaviour.
            precision: of the attention.
        """
        parts = [] if target_BD is None else [target_BD]
        with precision.layers():
            parts += [pool(*interest) for pool, interest in zip(self.attentions, interests, strict=True)]
        if context:
            parts.insert(0, self.embedding_layer(context, flatten_emb=True))
        return torch.cat(parts, dim=-1)

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


def _pooling(item_width: int, options: AttentionOptions, similarities: int = 0) -> SparseTargetAttention | MeanPooling:
    if options.pooling == "mean":
        return MeanPooling()
    return SparseTargetAttention(
        item_width,
        attention_dim=options.attention_dim or 2 * item_width,
        activation=options.attention_activation,
        dropout=options.attention_dropout,
        similarities=similarities,
    )


def _interaction(width: int, options: InteractionOptions) -> QuadraticNetwork | MLP_Block:
    if options.interaction == "mlp":
        return MLP_Block(
            input_dim=width,
            output_dim=1,
            hidden_units=list(options.mlp_hidden_units),
            dropout_rates=options.net_dropout,
            batch_norm=options.batch_norm,
        )
    return QuadraticNetwork(
        width,
        num_layers=options.num_layers,
        num_row=options.num_row,
        dropout=options.net_dropout,
        batch_norm=options.batch_norm,
        activation=options.activation,
        compiled=options.compile,
    )
