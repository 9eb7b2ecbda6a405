"""The interaction of a trained network without dropout, norms and row maps, behind its first linear map.

The first map of every interaction is linear in x, so a folded network computes it from parts (`folded_network.py`);
what follows it is here.

Shape legend: B rows, F width of x, M numbers of the first map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from fuxictr.pytorch.layers import MLP_Block
from torch import Tensor, nn

from model_zoo.QIN.quadratic import QuadraticNetwork
from model_zoo.QIN.quadratic_block import FoldedBlock, running_affine


class LinearMap(NamedTuple):
    """x -> weight x + bias: (M, F) and (M,)."""

    weight: Tensor
    bias: Tensor


class FoldedQuadratic(nn.Module):
    """x <- x + PReLU(x * z + shift), z = W x + b, layer by layer, then F -> 1; norms and rows are in W, b and shift.

    Attributes:
        first: the map of the first layer.
        reads_x: whether `forward` reads x beside its first map.
    """

    reads_x = True

    def __init__(self, network: QuadraticNetwork) -> None:
        super().__init__()
        first, *others = blocks = network.folded_blocks(network.fc.weight.dtype)
        self.first = LinearMap(first.weight, first.bias)
        self.maps = nn.ModuleList(linear_of(block.weight, block.bias) for block in others)
        self.slopes = [0.0 if block.slope is None else float(block.slope) for block in blocks]
        for number, block in enumerate(blocks):
            self.register_buffer(f"shift_{number}", None if block.shift is None else block.shift.detach().clone())
        self.out = linear_of(network.fc.weight, network.fc.bias)

    def blocks(self) -> list[FoldedBlock]:
        """The layers for scoring by PyTorch; they share the weights."""
        maps = [self.first, *(LinearMap(**dict(linear.named_parameters())) for linear in self.maps)]
        return [
            FoldedBlock(*each, shift, each.bias.new_tensor([slope]) if slope else None)
            for each, shift, slope in zip(maps, self._shifts(), self.slopes, strict=True)
        ]

    def forward(self, x_BF: Tensor, z_BF: Tensor) -> Tensor:
        """Logits (B, 1) of x and its first map."""
        for number, slope in enumerate(self.slopes):
            if number:
                z_BF = self.maps[number - 1](x_BF)
            u_BF, shift = x_BF * z_BF, self._shifts()[number]
            x_BF = x_BF + _activate(u_BF if shift is None else u_BF + shift, slope)
        return self.out(x_BF)

    def _shifts(self) -> list[Tensor | None]:
        return [getattr(self, f"shift_{number}") for number in range(len(self.slopes))]


class FoldedMLP(nn.Module):
    """Linear maps with ReLU between them; norms are in the maps.

    Attributes:
        first, reads_x: see `FoldedQuadratic`.
    """

    reads_x = False

    def __init__(self, block: MLP_Block) -> None:
        super().__init__()
        maps: list[LinearMap] = []
        for part in block.mlp:
            if isinstance(part, nn.Linear):
                maps.append(LinearMap(part.weight, part.bias))
            elif isinstance(part, nn.BatchNorm1d):
                maps[-1] = _normalised(maps[-1], part)
            else:
                assert isinstance(part, nn.ReLU | nn.Dropout), f"QIN's MLP has no {type(part).__name__}"
        self.first = maps[0]
        self.maps = nn.ModuleList(linear_of(*each) for each in maps[1:])

    def forward(self, x_BF: Tensor | None, z_BM: Tensor) -> Tensor:
        """Logits (B, 1) of the first map; x is not read."""
        for linear in self.maps:
            z_BM = linear(z_BM.relu())
        return z_BM


FoldedInteraction = FoldedQuadratic | FoldedMLP


def fold_interaction(interaction: QuadraticNetwork | MLP_Block) -> FoldedInteraction:
    """The folded form."""
    return FoldedQuadratic(interaction) if isinstance(interaction, QuadraticNetwork) else FoldedMLP(interaction)


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with a copy of these weights, which takes no gradient."""
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _normalised(linear: LinearMap, norm: nn.Module) -> LinearMap:
    """The map with the norm behind it."""
    if not isinstance(norm, nn.BatchNorm1d):
        return linear
    factor, shift = running_affine(norm)
    return LinearMap(linear.weight * factor[:, None], linear.bias * factor + shift)


def _activate(u: Tensor, slope: float) -> Tensor:
    """PReLU with a constant slope: one pass over u in every engine."""
    return u.relu() if slope == 0 else F.leaky_relu(u, slope)
