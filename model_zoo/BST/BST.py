"""BST, the Behavior Sequence Transformer (arXiv 1905.06874): a transformer over history and target.

    F_s  = x_s + p[number of items from s to the target]          s over history, then target
    S    = F + MultiHead(LayerNorm(F))                            in each block
    F   <- S + W2 LeakyReLU(W1 LayerNorm(S) + b1) + b2
    y    = sigmoid(MLP([context, x_t, F_t, mean of F over the history]))

Shape legend: B rows, T history slots, N = T + 1 with the target, D width of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_zoo.peers.peer import Peer
from model_zoo.peers.pooling import mean_of
from model_zoo.peers.settings import check_counts, check_heads, check_rates

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


class Block(nn.TransformerEncoderLayer):
    """A transformer block that starts as the identity.

    Args:
        width: D.
        heads: of the attention.
        hidden: width of the two-layer network.
        dropout: rate of the attention's weights and of both outputs.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, heads, hidden, dropout, F.leaky_relu, batch_first=True, norm_first=True)

    def init_weights(self) -> None:
        """Set the last maps to zero; FuxiCTR calls this after it has initialised every Linear."""
        nn.init.zeros_(self.self_attn.out_proj.weight)
        nn.init.zeros_(self.linear2.weight)


class BST(Peer):
    """A transformer over history and target, then an MLP.

    NOTE[DIFF] The paper's positions are times, from an item to the target; here they count items, since the triple has
    no times, and are added to the item instead of standing beside it. The paper's MLP reads the outputs of a fixed
    number of slots side by side; here it reads the target's, the mean of the history's, and the target itself.

    NOTE[DIFF] The paper normalises the output of a block; here its input is normalised and its last maps start at zero,
    so a block starts as the identity. FuxiCTR's embeddings start at 1e-4 and are held small by their L2; an output of
    length 1 drowns the context beside it in the MLP (MicroLens_50k, two epochs: valid AUC 0.794, here 0.818).

    Args:
        feature_map: of the dataset.
        embedding_dim: width of each embedded feature that does not set its own.
        num_layers: transformer blocks; the paper has one.
        num_heads: of the attention; they divide D, the sum of the widths of an item's features.
        dim_feedforward: width of the two-layer network in a block, D by default.
        attention_dropout: dropout rate in the blocks.
        hidden_units: widths of the MLP.
        net_dropout: its dropout rate.
        batch_norm: whether its layers normalise over the batch.
        max_len: items from the target that have a position of their own; all that are further share the last one.
        learning_rate: of the optimizer at the start.
        optimizer: name of a torch optimizer.
        loss: name of a torch loss on probabilities.
        **params: of FuxiCTR's `BaseModel`.

    Raises:
        ConfigError: a value that a setting does not take.
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        embedding_dim: int = 32,
        num_layers: int = 1,
        num_heads: int = 2,
        dim_feedforward: int | None = None,
        attention_dropout: float = 0.0,
        hidden_units: Sequence[int] = (256, 128),
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        max_len: int = 64,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        **params: Any,
    ) -> None:
        super().__init__(feature_map, embedding_dim=embedding_dim, **params)
        width = self.item_dim
        check_counts(num_layers=num_layers, num_heads=num_heads, max_len=max_len)
        hidden = width if dim_feedforward is None else dim_feedforward
        check_counts(dim_feedforward=hidden)
        check_rates(attention_dropout=attention_dropout)
        check_heads(num_heads, width, "the width of an item")
        self.position = nn.Parameter(torch.zeros(max_len + 1, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, hidden, attention_dropout) for _ in range(num_layers))
        self.mlp = self.make_mlp(
            self.context_dim + 3 * width, hidden_units=hidden_units, net_dropout=net_dropout, batch_norm=batch_norm
        )
        self.finish(optimizer=optimizer, loss=loss, learning_rate=learning_rate)

    def interest(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """The transformer's output at the target, and its mean over the history, (B, 2 D)."""
        x_BND = torch.cat([history_BTD, target_BD.unsqueeze(1)], dim=1)
        away_N = torch.arange(x_BND.shape[1] - 1, -1, -1, device=x_BND.device)
        x_BND = x_BND + self.position[away_N.clamp(max=len(self.position) - 1)]
        padding_BN = F.pad(~mask_BT, (0, 1))
        for block in self.blocks:
            x_BND = block(x_BND, src_key_padding_mask=padding_BN)
        history_BTD = x_BND[:, :-1] * mask_BT.unsqueeze(-1)
        return torch.cat([x_BND[:, -1], mean_of(history_BTD, mask_BT)], dim=-1)
