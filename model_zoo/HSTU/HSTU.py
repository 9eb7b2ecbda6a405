"""HSTU, the Hierarchical Sequential Transduction Unit (arXiv 2402.17152), as a ranking model.

    U, V, Q, K = split(SiLU(W1 LayerNorm(X)))          X = the history, then the target
    A_ij       = SiLU(Q_i . K_j + b[i - j]) / n        j <= i, n = number of real items and the target
    X         <- X + W2 (LayerNorm(A V) * U)           again in each layer
    y          = sigmoid(MLP([context, x_t, X_t, mean of X over the history]))

Attention is pointwise: without a softmax the weights keep how much of the history is alike.

Shape legend: B rows, T history slots, N = T + 1 with the target, D width of an item, H heads, A width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_zoo.peers.peer import Peer
from model_zoo.peers.pooling import mean_of
from model_zoo.peers.settings import check_counts, check_rates

if TYPE_CHECKING:
    from fuxictr.features import FeatureMap


# Of LayerNorm, whose inputs are on the scale of FuxiCTR's embeddings; see NOTE[DIFF] of HSTU.
EPS = 1e-2


class HSTULayer(nn.Module):
    """One layer: pointwise attention of each item to those before it, gated by U.

    Args:
        width: D.
        heads: H.
        head_dim: A, of queries, keys, values and gates alike.
        max_len: largest distance with a bias of its own.
        dropout: rate before the sum with the input.
    """

    def __init__(self, width: int, *, heads: int, head_dim: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.uvqk = nn.Linear(width, 4 * heads * head_dim)
        self.bias = nn.Parameter(torch.ones(max_len + 1))
        self.norm_pooled = nn.LayerNorm(heads * head_dim, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(heads * head_dim, width)

    def init_weights(self) -> None:
        """Start as the identity; FuxiCTR calls this after it has initialised every Linear."""
        nn.init.zeros_(self.out.weight)

    def forward(self, x_BND: Tensor, sees_BNN: Tensor, away_NN: Tensor) -> Tensor:
        """The next X, (B, N, D).

        Args:
            x_BND: X.
            sees_BNN: 1 / n where row i may read row j, else 0.
            away_NN: i - j, from 0 to the largest distance.
        """
        u, v, q, k = F.silu(self.uvqk(self.norm(x_BND))).chunk(4, dim=-1)
        v_BHNA, q_BHNA, k_BHNA = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (v, q, k))
        weight_BHNN = F.silu(q_BHNA @ k_BHNA.transpose(-1, -2) + self.bias[away_NN]) * sees_BNN.unsqueeze(1)
        pooled = (weight_BHNN @ v_BHNA).transpose(1, 2).flatten(-2)
        return x_BND + self.out(self.dropout(self.norm_pooled(pooled) * u))


class HSTU(Peer):
    """HSTU layers over history and target, then an MLP.

    NOTE[DIFF] The paper ranks all positions of a user in one pass, with actions between the items and with biases of
    relative times; here a row has one target, its history is of one action, and the bias is of relative positions. It
    divides by the padded length, here by the real one, so that padding changes nothing. Its heads for several tasks are
    an MLP that reads the output at the target and its mean over the history beside the target itself and the context.

    NOTE[DIFF] FuxiCTR's embeddings start at 1e-4 and are held small by their L2, which a LayerNorm undoes: then a model
    learns rows by heart (MicroLens_50k, one seed: valid AUC 0.64). Here W2 starts at zero, so a layer starts as the
    identity, b starts at one, so attention starts near the mean, and LayerNorm adds 0.01 to the variance.

    Args:
        feature_map: of the dataset.
        embedding_dim: width of each embedded feature that does not set its own.
        num_layers: layers.
        num_heads: of the attention.
        head_dim: width of a head.
        attention_dropout: dropout rate in the layers.
        hidden_units: widths of the MLP.
        net_dropout: its dropout rate.
        batch_norm: whether its layers normalise over the batch.
        max_len: largest distance of two items that has a bias of its own; all larger ones share it.
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
        num_heads: int = 2,
        head_dim: int = 16,
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
        check_counts(num_layers=num_layers, num_heads=num_heads, head_dim=head_dim, max_len=max_len)
        check_rates(attention_dropout=attention_dropout)
        self.max_len = max_len
        self.layers = nn.ModuleList(
            HSTULayer(self.item_dim, heads=num_heads, head_dim=head_dim, max_len=max_len, dropout=attention_dropout)
            for _ in range(num_layers)
        )
        self.mlp = self.make_mlp(
            self.context_dim + 3 * self.item_dim,
            hidden_units=hidden_units,
            net_dropout=net_dropout,
            batch_norm=batch_norm,
        )
        self.finish(optimizer=optimizer, loss=loss, learning_rate=learning_rate)

    def interest(self, target_BD: Tensor, history_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """The output at the target, and its mean over the history, (B, 2 D)."""
        x_BND = torch.cat([history_BTD, target_BD.unsqueeze(1)], dim=1)
        there_BN = F.pad(mask_BT, (0, 1), value=True).to(x_BND.dtype)
        place_N = torch.arange(x_BND.shape[1], device=x_BND.device)
        away_NN = place_N.unsqueeze(1) - place_N
        sees_BNN = (away_NN >= 0) * (there_BN / there_BN.sum(dim=1, keepdim=True)).unsqueeze(1)
        away_NN = away_NN.clamp(min=0, max=self.max_len)
        for layer in self.layers:
            x_BND = layer(x_BND, sees_BNN, away_NN)
        history_BTD = x_BND[:, :-1] * mask_BT.unsqueeze(-1)
        return torch.cat([x_BND[:, -1], mean_of(history_BTD, mask_BT)], dim=-1)
