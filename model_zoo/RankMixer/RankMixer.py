"""RankMixer (arXiv 2507.15551): features as tokens, mixed without parameters, each with a network of its own.

    x_t  = W_t e_t                                     e_t an embedded feature, or the history pooled
    S    = LayerNorm(mix(X) + X)                       mix: token h = the h-th of M parts of each of the M tokens
    X   <- LayerNorm(S + GELU(S W1_t + b1_t) W2_t + b2_t)     again in each layer; weights of each token t
    y    = sigmoid(MLP(mean of X over the tokens))

Shape legend: B rows, T history slots, D width of an item, M tokens, W width of a token, a multiple of M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from fuxictr.pytorch.layers import MLP_Block
from torch import Tensor, nn

from model_zoo.peers.peer import Peer
from model_zoo.peers.pooling import mean_of, pooled, softmax_over
from model_zoo.peers.settings import check_counts, check_rates, checked_widths

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


class MixerLayer(nn.Module):
    """Token mixing and a network for each token, each with its residual and norm.

    Args:
        tokens: M.
        width: W.
        expansion: hidden units of a token's network by W.
        dropout: rate of the network's output.
    """

    def __init__(self, tokens: int, width: int, *, expansion: int, dropout: float) -> None:
        super().__init__()
        hidden = expansion * width
        self.norm_mixed, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.weight1 = nn.Parameter(torch.empty(tokens, width, hidden))
        self.bias1 = nn.Parameter(torch.zeros(tokens, hidden))
        self.weight2 = nn.Parameter(torch.empty(tokens, hidden, width))
        self.bias2 = nn.Parameter(torch.zeros(tokens, width))
        for weight in (*self.weight1, *self.weight2):
            nn.init.xavier_normal_(weight.data)  # as FuxiCTR does with every Linear
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BMW: Tensor) -> Tensor:
        """The next X, (B, M, W)."""
        s_BMW = self.norm_mixed(mix(x_BMW) + x_BMW)
        hidden = F.gelu(torch.einsum("bmw,mwh->bmh", s_BMW, self.weight1) + self.bias1)
        return self.norm(s_BMW + self.dropout(torch.einsum("bmh,mhw->bmw", hidden, self.weight2) + self.bias2))


def mix(x_BMW: Tensor) -> Tensor:
    """Each token gives its h-th part to token h, (B, M, W).

    >>> mix(torch.tensor([[[1, 2], [3, 4]]]))
    tensor([[[1, 3],
             [2, 4]]])
    """
    tokens = x_BMW.shape[1]
    return x_BMW.unflatten(-1, (tokens, -1)).transpose(1, 2).flatten(-2)


class RankMixer(Peer):
    """A token for each feature of context and target and two for the history, mixed; their mean goes into an MLP.

    NOTE[DIFF] The paper groups hundreds of features into tokens by their meaning; here each feature is one. It says
    little of histories: here the mean of the history is a token, and the history pooled by an attention like DIN's is
    another, MLP([x_t, x_s, x_t - x_s, x_t * x_s]) under a softmax. Its sparse mixture of experts is left out. W is
    rounded up to a multiple of M.

    Args:
        feature_map: of the dataset.
        embedding_dim: width of each embedded feature that does not set its own.
        num_layers: layers.
        token_dim: W, at least.
        expansion: hidden units of a token's network by W.
        mixer_dropout: dropout rate in the layers.
        attention_hidden_units: widths of the attention's MLP.
        hidden_units: widths of the MLP.
        net_dropout: its dropout rate.
        batch_norm: whether its layers normalise over the batch.
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
        num_layers: int = 2,
        token_dim: int = 64,
        expansion: int = 2,
        mixer_dropout: float = 0.0,
        attention_hidden_units: Sequence[int] = (64,),
        hidden_units: Sequence[int] = (256, 128),
        net_dropout: float = 0.0,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        loss: str = "binary_crossentropy",
        **params: Any,
    ) -> None:
        super().__init__(feature_map, embedding_dim=embedding_dim, **params)
        check_counts(num_layers=num_layers, token_dim=token_dim, expansion=expansion)
        check_rates(mixer_dropout=mixer_dropout)
        self.widths = [*self.context_widths.values(), *self.item_widths.values(), self.item_dim, self.item_dim]
        tokens = len(self.widths)
        width = -(-token_dim // tokens) * tokens
        self.attention = MLP_Block(
            input_dim=4 * self.item_dim,
            output_dim=1,
            hidden_units=checked_widths("attention_hidden_units", attention_hidden_units),
            hidden_activations="ReLU",
        )
        self.tokens = nn.ModuleList(nn.Linear(own, width) for own in self.widths)
        self.layers = nn.ModuleList(
            MixerLayer(tokens, width, expansion=expansion, dropout=mixer_dropout) for _ in range(num_layers)
        )
        self.mlp = self.make_mlp(width, hidden_units=hidden_units, net_dropout=net_dropout, batch_norm=batch_norm)
        self.finish(optimizer=optimizer, loss=loss, learning_rate=learning_rate)

    def interest(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """The mean of the history, and the history pooled by attention, (B, 2 D)."""
        target_BTD = target_BD.unsqueeze(1).expand_as(history_BTD)
        pairs = torch.cat([target_BTD, history_BTD, target_BTD - history_BTD, target_BTD * history_BTD], dim=-1)
        weight_BT = softmax_over(self.attention(pairs).squeeze(-1), mask_BT)
        return torch.cat([mean_of(history_BTD, mask_BT), pooled(weight_BT, history_BTD)], dim=-1)

    def predict(self, context_BC: Tensor, target_BD: Tensor, interest_BI: Tensor) -> Tensor:
        """`y_pred`, (B, 1)."""
        parts = torch.cat([context_BC, target_BD, interest_BI], dim=-1).split(self.widths, dim=-1)
        x_BMW = torch.stack([project(part) for project, part in zip(self.tokens, parts, strict=True)], dim=1)
        for layer in self.layers:
            x_BMW = layer(x_BMW)
        return self.mlp(x_BMW.mean(dim=1))
