"""The quadratic layer with its activation inside, after QNN-alpha (arXiv 2505.17999), the parent of QIN.

Shape legend: B rows, F width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from model_zoo.QIN.dropout import Dropout
from model_zoo.QIN.precision import own_types
from model_zoo.QIN.quadratic import ACTIVATIONS


class HeadsNetwork(nn.Module):
    """x <- x + Dropout(x * sum_h Dropout(PReLU(BatchNorm(W_h x + b_h)))), h = 1..H, `num_layers` times, then F -> 1.

    The activation stands before the sum, so the H maps do not fold into one, as the rows of `QuadraticNetwork` do, and
    there is one implementation only.

    NOTE[DIFF] QNN-alpha writes x_h * ReLU(W x) + x_h for slices x_h of x. The product is element by element, so slices
    side by side are one map of all of x; here a head is such a map, and H of them are added up.

    Args:
        width: F.
        num_layers: number of layers, at least 1.
        heads: H, at least 1.
        dropout: rate of both dropouts.
        batch_norm: normalise the output of each map over the batch.
        activation: `prelu` (one slope a layer) or `relu`.

    Raises:
        ValueError: a number below 1 or an unknown activation.

    >>> from torch import ones
    >>> HeadsNetwork(3, num_layers=2, heads=2)(ones(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        width: int,
        *,
        num_layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        batch_norm: bool = True,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        if num_layers < 1 or heads < 1:
            raise ValueError(f"num_layers and heads must be at least 1, got {num_layers} and {heads}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.heads = heads
        layers = range(num_layers)
        self.linear = nn.ModuleList(nn.Linear(width, heads * width) for _ in layers)
        self.norm = nn.ModuleList(nn.BatchNorm1d(heads * width) if batch_norm else nn.Identity() for _ in layers)
        self.activation = nn.ModuleList(nn.PReLU() if activation == "prelu" else nn.ReLU() for _ in layers)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(width, 1)

    def forward(self, x_BF: Tensor, *, form: str = "plain") -> Tensor:
        """Return logits, (B, 1), in the type of the parameters; `form` is there because `QuadraticNetwork` has two."""
        for linear, norm, activation in zip(self.linear, self.norm, self.activation, strict=True):
            gate_BHF = self.dropout(activation(norm(linear(x_BF)))).view(len(x_BF), self.heads, -1)
            x_BF = x_BF + self.dropout(x_BF * gate_BHF.sum(dim=1))
        with own_types(x_BF):
            return self.fc(x_BF)

    def forget(self) -> None:
        """Nothing is kept for scoring."""
