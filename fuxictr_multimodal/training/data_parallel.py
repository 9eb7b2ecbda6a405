"""One model trained by several processes, each on its share of every global batch.

The loss of a global batch of n rows is the sum over the ranks of (n_r / n) L_r, L_r the loss of the n_r rows of rank
r, penalties included: the shares add up to 1, so these count once. Summed gradients are thus those of the global batch,
all ranks take the same step, and the loss trace is that of one process, to rounding.

Random layers draw from a stream of their own on each rank: rank 0 continues that of one process, the others begin one
that depends on the seed, the step and the rank. A model with dropout therefore has another trace for another number of
processes, and the same one again for the same number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.ranks import current, sent_by_first
from fuxictr_multimodal.training.batch_norm import GlobalNorms
from fuxictr_multimodal.training.gradient_exchange import GradientExchange
from fuxictr_multimodal.training.weight_average import WeightAverage


class DataParallel:
    """Makes the `train_step` of a model one of all ranks.

    Args:
        model: a compiled `BaseModel`, in its final form; its weights become those of rank 0.
        sync_batch_norm: see `GlobalNorms`.

    Attributes:
        exchange: of gradients.
        norms: the BatchNorm layers.
    """

    def __init__(self, model: BaseModel, *, sync_batch_norm: bool) -> None:
        self._model = model
        self.ranks = current()
        send_weights(model)
        self.norms = GlobalNorms(model, self.ranks, synchronised=sync_batch_norm)
        self.exchange = GradientExchange(model, self.ranks)
        self._own_loss = model.compute_loss
        self._share = 1.0
        self._losses = 0
        model.compute_loss = self._loss

    def remove(self) -> None:
        """Leave the model as it was."""
        del self._model.compute_loss
        self.exchange.remove()
        self.norms.remove()

    def step(self, batch: Batch, train_step: Callable[[], Tensor]) -> Tensor:
        """Take one step together; returns this rank's part of the loss of the global batch.

        Args:
            batch: this rank's share.
            train_step: calls the model's own one on it.

        Raises:
            ConfigError: the model trains in a way that cannot be shared.
        """
        share = batch.share
        assert share is not None, "the loader deals the batches of a training"
        self._share, self._losses = share.rows / share.of, 0
        self.exchange.armed = ends_window(self._model)
        before = self.exchange.cost.exchanges
        self.norms.begin(share)
        with contextlib.nullcontext() if share.rows else _kept(self.norms.statistics()):
            loss = train_step()
        if self._losses != 1 or self.exchange.cost.exchanges - before != self.exchange.armed:
            raise ConfigError(
                f"{type(self._model).__name__} cannot be trained by several processes: its train_step does not call "
                "compute_loss and backward once each; train it in one process, without torchrun"
            )
        return loss

    def agree(self, average: WeightAverage | None) -> None:
        """Make BatchNorm's running statistics the same on all ranks, before they are scored with or saved."""
        self.norms.agree([] if average is None else average.of(self.norms.statistics()))

    def _loss(self, return_dict: dict[str, Any], y_true: Tensor) -> Tensor:
        self._losses += 1
        return self._own_loss(return_dict, y_true) * self._share


def ends_window(model: BaseModel) -> bool:
    """Whether the optimizer steps after the next batch: at the end of a window of accumulation, or of an epoch."""
    window = getattr(model, "accumulation_steps", None) or 1
    place = model._batch_index + 1
    return place % window == 0 or place >= model._steps_per_epoch


@torch.no_grad()
def send_weights(model: BaseModel) -> None:
    """Give all ranks the weights and buffers that the model has on rank 0.

    Weights of which each rank has its own part (`of_one_rank`) stay as they are.
    """
    tensors = [*model.parameters(), *model.buffers()]
    shared = [tensor for tensor in tensors if not getattr(tensor, "of_one_rank", False)]
    for tensor, first in zip(shared, sent_by_first([tensor.detach() for tensor in shared]), strict=True):
        tensor.copy_(first)


def seed_rank(seed: int, *, step: int = 0) -> None:
    """Begin the random stream of this rank, unless it is rank 0, which continues its own."""
    rank = current().rank
    if rank:
        seed_everything(seed=int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


@contextlib.contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors have their values again after the block."""
    before = [tensor.clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
