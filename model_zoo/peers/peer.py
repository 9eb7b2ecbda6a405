"""The base of the peers: the LongCTR triple to embeddings, an interest of each row, and an MLP to the logit.

    y = sigmoid(MLP([context, x_t, interest(x_t, history)]))

A peer says what `interest` is. It is a function of one row that no padded slot changes, so rows may be taken in any
groups: they are sorted by the length of their histories, and each group is cut to its longest. Few histories of a batch
are long, and 9 of 10 of its slots may be padding.

Shape legend: B rows, T history slots filled before the items, D width of an item, C of the context, I of the interest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import Tensor

from model_zoo.peers.settings import check_rates, checked_widths

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap

Triple = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
GROUPS = 8


class Peer(BaseModel):
    """A model of the LongCTR triple `(batch_dict, item_dict, mask)`, whose histories are filled before their items.

    Args:
        feature_map: of the dataset; `source: item` marks what an item has, everything else is context.
        embedding_dim: width of each embedded feature that does not set its own.
        **params: of FuxiCTR's `BaseModel`.

    Attributes:
        item_widths: width of each embedded item feature, in the order of the feature map.
        context_widths: of each other feature.
    """

    # How `fuxictr_multimodal.zoo.models` hands over a batch.
    layout = "longctr"

    def __init__(self, feature_map: FeatureMap, *, embedding_dim: int, **params: Any) -> None:
        super().__init__(feature_map, **params)
        self.item_widths: dict[str, int] = {}
        self.context_widths: dict[str, int] = {}
        for name, spec in feature_map.features.items():
            if spec["type"] != "meta":
                widths = self.item_widths if spec.get("source") == "item" else self.context_widths
                widths[name] = spec.get("emb_output_dim", spec.get("embedding_dim", embedding_dim))
        self.item_dim, self.context_dim = sum(self.item_widths.values()), sum(self.context_widths.values())
        self.embedding_layer = self.make_embedding(feature_map, embedding_dim)

    def make_embedding(self, feature_map: FeatureMap, embedding_dim: int) -> FeatureEmbedding:
        """The layer that embeds context and items, each row by itself."""
        return FeatureEmbedding(feature_map, embedding_dim)

    def make_mlp(
        self, input_dim: int, *, hidden_units: Sequence[int], net_dropout: float, batch_norm: bool
    ) -> MLP_Block:
        """The MLP from (B, input_dim) to `y_pred` (B, 1).

        Raises:
            ConfigError: a setting that it does not take.
        """
        check_rates(net_dropout=net_dropout)
        return MLP_Block(
            input_dim=input_dim,
            output_dim=1,
            hidden_units=checked_widths("hidden_units", hidden_units),
            hidden_activations="ReLU",
            output_activation=self.output_activation,
            dropout_rates=net_dropout,
            batch_norm=batch_norm,
        )

    def finish(self, *, optimizer: str, loss: str, learning_rate: float) -> None:
        """Initialise as FuxiCTR does, make the optimizer, and move to the device: the end of a constructor."""
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Triple) -> dict[str, Tensor]:
        """Return `y_pred`, (B, 1)."""
        context_BC, target_BD, history_BTD, mask_BT = self.read(inputs)
        interest_BI = self.interests(target_BD, history_BTD, mask_BT)
        return {"y_pred": self.predict(context_BC, target_BD, interest_BI)}

    def read(self, inputs: Triple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embedded context (B, C), target (B, D), history (B, T, D) with zeros on padding, and mask (B, T) bool."""
        columns, items, mask_BT = self.get_inputs(inputs)
        items_BSD = self.embedding_layer(items, flatten_emb=True).unflatten(0, (mask_BT.shape[0], -1))
        context_BC = (
            self.embedding_layer(columns, flatten_emb=True) if columns else items_BSD.new_zeros(len(mask_BT), 0)
        )
        return context_BC, items_BSD[:, -1], items_BSD[:, :-1] * mask_BT.unsqueeze(-1), mask_BT > 0

    def interests(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """`interest` of all rows, (B, I), in groups of like length; at once where a graph is traced."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or len(mask_BT) < 2 * GROUPS:
            return self.interest(target_BD, history_BTD, mask_BT)
        length_B = mask_BT.sum(dim=1)
        order_B = length_B.argsort(stable=True)
        parts = []
        for rows in order_B.chunk(GROUPS):
            longest = max(int(length_B[rows[-1]]), 1)
            parts.append(self.interest(target_BD[rows], history_BTD[rows, -longest:], mask_BT[rows, -longest:]))
        return torch.cat(parts)[order_B.argsort()]

    def interest(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """What a row's history says for its target, (B, I): a function of the row, whatever the padding."""
        raise NotImplementedError

    def predict(self, context_BC: Tensor, target_BD: Tensor, interest_BI: Tensor) -> Tensor:
        """`y_pred`, (B, 1)."""
        return self.mlp(torch.cat([context_BC, target_BD, interest_BI], dim=-1))

    def get_inputs(self, inputs: Triple, feature_source: Any = None) -> Triple:
        """The triple on the model's device, without labels and meta columns."""
        columns, items, mask_BT = inputs
        read = super().get_inputs({n: v for n, v in columns.items() if n in self.feature_map.features}, feature_source)
        # The dictionary of items stays itself: what embeds distinct items once knows it again.
        items.update({name: values.to(self.device) for name, values in items.items()})
        return read, items, mask_BT.to(self.device)

    def get_labels(self, inputs: Triple) -> Tensor:
        """Labels (B, 1), float32."""
        return inputs[0][self.feature_map.labels[0]].to(self.device).float().view(-1, 1)

    def get_group_id(self, inputs: Triple) -> Tensor:
        """Group ids (B,)."""
        return inputs[0][self.feature_map.group_id]
