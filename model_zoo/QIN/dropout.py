"""Dropout whose masks do not depend on which implementation of a layer asks for them.

Shape legend: any shape; a mask is uint8, 1 = keep.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 1 << 16
_CHUNK = 1 << 20  # int64 draws at a time on the CPU: 8 MiB stay in reused memory


class Dropout(nn.Module):
    """y = keep * x / (1 - p) in training, y = x otherwise.

    NOTE[DIFF] A mask element takes 16 random bits, so `p` is rounded to a multiple of 2**-16 (0.1 becomes 0.1000061)
    and the scale uses the rounded value: the mean of y is x exactly. `torch.nn.Dropout` spends five times as long on
    a CPU, which would be a sixth of QIN's training step. The masks come from torch's default generator.

    Args:
        p: probability that an element is zeroed, 0 <= p < 1.

    Raises:
        ValueError: if p is outside that range.

    >>> Dropout(0.5).eval()(torch.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a dropout rate must be at least 0 and less than 1, got {p!r}")
        self.p = p
        self._dropped = round(p * _LEVELS)

    @property
    def active(self) -> bool:
        """Whether `forward` changes anything now."""
        return self.training and self._dropped > 0

    @property
    def scale(self) -> float:
        """What kept elements are multiplied with."""
        return 1 / (1 - self._dropped / _LEVELS)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Draw a mask: uint8, 1 with probability 1 - p."""
        mask = torch.empty(shape, dtype=torch.uint8, device=device)
        flat = mask.view(-1)
        threshold = self._dropped - _LEVELS // 2
        step = 4 * _CHUNK if device.type == "cpu" else max(flat.numel(), 1)
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            words = torch.empty((part.numel() + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
            # Comparing in place keeps the type, which is several times faster than a boolean result.
            part.copy_(words.view(torch.int16)[: part.numel()].ge_(threshold))
        return mask

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, any shape."""
        if not self.active:
            return x
        return x * (self.draw(tuple(x.shape), x.device).to(x.dtype) * self.scale)

    def extra_repr(self) -> str:
        return f"p={self.p}"
