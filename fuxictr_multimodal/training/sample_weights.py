"""The loss of a batch as the weighted mean over its samples, for any FuxiCTR model: its `loss_fn` is wrapped.

    loss = sum_i w_i l_i / sum_i w_i

So a weight of 2 is the sample twice, one of 0 is its absence, and equal weights are none. FuxiCTR's models all call
`loss_fn(y_pred, y_true, reduction=...)`. Losses of their own, such as the auxiliary one of DIEN and `contrastive_loss`
of QIN, and penalties have no weights; metrics have none either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# They take weights themselves: with equal ones, values and gradients are those without, bit for bit.
_OWN_WEIGHT = (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)


class WeightedLoss:
    """A loss of `torch.nn.functional` with the weights of the current batch.

    Args:
        loss: takes predictions, labels and `reduction`.

    Attributes:
        weight: weights of the samples divided by their mean, (B,), or None.
    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss = loss
        self.weight: Tensor | None = None

    def __call__(self, y_pred: Tensor, y_true: Tensor, *, reduction: str = "mean", **options: Any) -> Tensor:
        """The loss; one of other rows than the samples of the batch is not weighted."""
        weight = self.weight
        if weight is None or y_pred.dim() == 0 or len(y_pred) != len(weight):
            return self.loss(y_pred, y_true, reduction=reduction, **options)
        weight = weight.to(y_pred.dtype).view(-1, *(1 for _ in y_pred.shape[1:]))
        if self.loss in _OWN_WEIGHT:
            return self.loss(y_pred, y_true, weight=weight, reduction=reduction, **options)
        losses = self.loss(y_pred, y_true, reduction="none", **options) * weight
        return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


class SampleWeights:
    """Hands the weights of each batch to the loss of a model; a model that gets none keeps its own loss.

    >>> model = nn.Linear(1, 1)
    >>> model.loss_fn = F.mse_loss
    >>> SampleWeights(model).set(torch.tensor([1.0, 3.0]))
    >>> model.loss_fn(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.2500)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._losses: list[WeightedLoss] = []

    def set(self, weight_B: Tensor | None, mean: Tensor | None = None) -> None:
        """Weight what the model computes from now on, None as without weights.

        Args:
            weight_B: of the samples.
            mean: of the global batch that these samples are a share of; by default their own.
        """
        if weight_B is None and not self._losses:
            return
        if not self._losses:
            own = self._model.loss_fn
            # Models of several tasks have a loss for each.
            self._losses = [WeightedLoss(loss) for loss in (own if isinstance(own, list) else [own])]
            self._model.loss_fn = self._losses if isinstance(own, list) else self._losses[0]
        relative = None
        if weight_B is not None:
            # Weights that are all 0 give the loss 0.
            mean = weight_B.mean() if mean is None else mean.to(weight_B.device)
            relative = weight_B / mean.clamp(min=torch.finfo(weight_B.dtype).tiny)
        for loss in self._losses:
            loss.weight = relative

    def remove(self) -> None:
        """Give the model its own loss back."""
        if self._losses:
            own = [weighted.loss for weighted in self._losses]
            self._model.loss_fn = own if isinstance(self._model.loss_fn, list) else own[0]
            self._losses = []
