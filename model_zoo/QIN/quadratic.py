"""Quadratic interest network (arXiv 2504.17699): products of the input with a sum of linear maps of itself.

Shape legend: B rows, F width, R rows of a quadratic layer (`num_row`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model_zoo.QIN.dropout import Dropout
from model_zoo.QIN.precision import own_types, product_type
from model_zoo.QIN.quadratic_block import FoldedBlock, quadratic_block

ACTIVATIONS = ("prelu", "relu")
FORMS = ("plain", "fast")


class QuadraticLayer(nn.Module):
    """y = x * sum_r Dropout(W_r x + b_r), r = 1..R, with the R maps stacked in one Linear F -> R F.

    Args:
        width: F.
        num_row: R. Without dropout the R maps add up to one, so R matters in training only.
        dropout: rate on the output of the Linear.

    >>> layer = QuadraticLayer(3, num_row=2, dropout=0.1)
    >>> layer(torch.ones(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(self, width: int, *, num_row: int, dropout: float) -> None:
        super().__init__()
        self.num_row = num_row
        self.linear = nn.Sequential(nn.Linear(width, num_row * width), Dropout(dropout))

    def forward(self, x_BF: Tensor) -> Tensor:
        """The reference implementation, (B, F)."""
        batch, width = x_BF.shape
        return x_BF * self.linear(x_BF).view(batch, self.num_row, width).sum(dim=1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """sum_r W_r (F, F) and sum_r b_r (F,): the whole layer when dropout is off."""
        linear = self.linear[0]
        assert isinstance(linear, nn.Linear)
        width = linear.in_features
        return linear.weight.view(self.num_row, width, width).sum(dim=0), linear.bias.view(self.num_row, width).sum(0)


class QuadraticNetwork(nn.Module):
    """x <- x + Dropout(PReLU(BatchNorm(y(x)))), `num_layers` times, then one Linear F -> 1.

    Both implementations are this formula with the same parameters and, for one seed, the same dropout masks; values and
    gradients agree up to rounding (in float32 about 1e-5 relative). The optimized one folds the R maps of a layer when
    dropout is off, works on a block of rows at a time, and keeps one mask byte where the reference keeps floats.

    NOTE[DIFF] The paper has one dropout, the published code two: here two, of the same rate. The PReLU slope starts at
    torch's default 0.25, where the sources say nothing.

    Args:
        width: F.
        num_layers: number of quadratic layers, at least 1.
        num_row: R, at least 1.
        dropout: rate of both dropouts.
        batch_norm: normalise each layer's product over the batch.
        activation: `prelu` (one slope a layer) or `relu`.
        compiled: compute the optimized implementation by `torch.compile` (`quadratic_compiled.py`).

    Raises:
        ValueError: a number below 1 or an unknown activation.
    """

    def __init__(
        self,
        width: int,
        *,
        num_layers: int = 4,
        num_row: int = 4,
        dropout: float = 0.1,
        batch_norm: bool = True,
        activation: str = "prelu",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1 or num_row < 1:
            raise ValueError(f"num_layers and num_row must be at least 1, got {num_layers} and {num_row}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        layers = range(num_layers)
        # These names are the published ones, so that published weights load as they are.
        self.layer = nn.ModuleList(QuadraticLayer(width, num_row=num_row, dropout=dropout) for _ in layers)
        self.norm = nn.ModuleList(nn.BatchNorm1d(width) if batch_norm else nn.Identity() for _ in layers)
        self.activation = nn.ModuleList(nn.PReLU() if activation == "prelu" else nn.ReLU() for _ in layers)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(width, 1)
        self.compiled = compiled
        self._folded: list[FoldedBlock] | None = None
        self._folded_from: tuple = ()

    def forward(self, x_BF: Tensor, *, form: str = "fast") -> Tensor:
        """Return logits, (B, 1), in the type of the parameters."""
        assert form in FORMS, form
        if form == "plain":
            for layer, norm, activation in self._layers():
                x_BF = x_BF + self.dropout(activation(norm(layer(x_BF))))
        elif self.training or torch.is_grad_enabled():
            self.forget()
            for layer, norm, activation in self._layers():
                x_BF = self._optimized(x_BF, layer, norm, activation)
        else:
            x_BF = self._score(x_BF)
        with own_types(x_BF):
            return self.fc(x_BF)

    def folded_blocks(self, products: torch.dtype) -> list[FoldedBlock]:
        """The layers without dropout, with running statistics and rows folded; their maps are of type `products`."""
        return [
            FoldedBlock.of(*layer.folded(), norm, activation, products=products)
            for layer, norm, activation in self._layers()
        ]

    def forget(self) -> None:
        """Drop what was prepared for scoring; call it where weights change."""
        self._folded = None

    def train(self, mode: bool = True) -> QuadraticNetwork:
        """Switch between training and scoring."""
        self.forget()
        return super().train(mode)

    def _layers(self) -> Iterator[tuple[QuadraticLayer, nn.Module, nn.Module]]:
        for layer, norm, activation in zip(self.layer, self.norm, self.activation, strict=True):
            assert isinstance(layer, QuadraticLayer)
            yield layer, norm, activation

    def _optimized(self, x_BF: Tensor, layer: QuadraticLayer, norm: nn.Module, activation: nn.Module) -> Tensor:
        batch, width = x_BF.shape
        device = x_BF.device
        linear, drop = layer.linear
        assert isinstance(linear, nn.Linear)
        assert isinstance(drop, Dropout)
        weight, bias = (linear.weight, linear.bias) if drop.active else layer.folded()
        keep_rows = drop.draw((batch, layer.num_row * width), device) if drop.active else None
        keep_out = self.dropout.draw((batch, width), device) if self.dropout.active else None
        slope = activation.weight if isinstance(activation, nn.PReLU) else None
        return quadratic_block(
            x_BF,
            weight,
            bias,
            norm=norm if isinstance(norm, nn.BatchNorm1d) else None,
            slope=slope,
            keep_rows=keep_rows,
            keep_out=keep_out,
            scale=drop.scale,
            compiled=self.compiled,
        )

    def _score(self, x_BF: Tensor) -> Tensor:
        # In-place changes of the weights count up their version; fused optimizers do not, hence `forget`.
        products = product_type(x_BF)
        versions = (products, *(tensor._version for tensor in self.state_dict(keep_vars=True).values()))
        if self._folded is None or versions != self._folded_from:
            self._folded = self.folded_blocks(products)
            self._folded_from = versions
        with own_types(x_BF):
            return FoldedBlock.run(self._folded, x_BF, compiled=self.compiled)
