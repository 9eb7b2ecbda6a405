"""BatchNorm in training: batches that it can normalise, and its statistics over several processes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fuxictr_multimodal.data.batch import Share
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.rank_sums import summed
from fuxictr_multimodal.system.ranks import Ranks, layer_group, sum_over_ranks


def fit_batches(train: MultimodalDataLoader, model: BaseModel, *, synchronised: bool = True) -> None:
    """Let the loader make batches that the model can train on: none of a single row where it has BatchNorm.

    BatchNorm has no variance of one row, so torch ends the step. A single row that is left at the end of an epoch joins
    the batch before it: no row is lost, and their order stays. Other models keep their batches, and so their trace.

    Args:
        train: of the training split.
        model: with or without BatchNorm.
        synchronised: whether processes that train together normalise over the global batch; else each over its share,
            which then has two rows or none.

    Raises:
        ConfigError: the model has BatchNorm, and `batch_size` or the whole split is one row.
    """
    norm = next((name for name, part in model.named_modules() if isinstance(part, _BatchNorm)), None)
    if norm is None:
        return
    for one, remedy in (
        (train.batch_size == 1, "batch_size is 1: set it to at least 2"),
        (train.num_samples == 1, f"{train.data_path} has a single row: build the dataset with more training rows"),
    ):
        if one:
            raise ConfigError(
                f"{type(model).__name__} has BatchNorm ({norm}), which needs 2 rows per batch to train, but "
                f"{remedy}, or "
                "choose a model or setting without it (batch_norm: False)"
            )
    train.least_rows = 2
    if train.ranks.several and not synchronised:
        train.least_share = 2
    if train.num_samples % train.batch_size == 1:
        logging.info("BatchNorm cannot train on one row: the last row of an epoch joins the batch before it")


class GlobalNorms:
    """The BatchNorm layers of a model that several processes train: one set of statistics for all of them.

    Synchronised, a step normalises over the global batch, as one process does: two sums travel in the forward pass and
    two in the backward pass, for every layer. (torch's SyncBatchNorm runs on a GPU only.) Otherwise each rank
    normalises over its share, and `agree` averages the running statistics, which scoring reads, weighted by the steps
    in which a rank had rows.

    Args:
        model: whose layers are changed in place; `remove` undoes that.
        ranks: of the running group.
        synchronised: see above.

    Attributes:
        all_rows: of the global batch of this step.
        stand_ins: whether the rows of this rank count for nothing in this step.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, *, synchronised: bool) -> None:
        self._ranks = ranks
        self.layers = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        self.synchronised = synchronised
        self.all_rows, self.stand_ins = 0, False
        # Steps with rows of this rank since all last agreed.
        self._counted = 0
        if synchronised:
            for layer in self.layers:
                layer.forward = self._forward_of(layer)  # type: ignore[method-assign]
                # For a model that computes such a layer without calling it.
                layer.over_ranks = self  # type: ignore[assignment]

    def remove(self) -> None:
        """Give the layers their own `forward` back."""
        if self.synchronised:
            for layer in self.layers:
                del layer.forward, layer.over_ranks

    def begin(self, share: Share) -> None:
        """A step begins on a share of a global batch."""
        self.all_rows, self.stand_ins = share.of, not share.rows
        self._counted += bool(share.rows)

    @torch.no_grad()
    def agree(self, others: list[Tensor] | None = None) -> None:
        """Give all ranks the mean of their running statistics, where these differ.

        A rank weighs as much as the steps since the last agreement in which it had rows; without any it has seen
        nothing new.

        Args:
            others: further tensors that are averages of such statistics.
        """
        if self.synchronised:
            return
        total = int(sum_over_ranks(torch.tensor(self._counted)))
        # 1 where all ranks have counted the same: their plain mean then, to the last bit.
        weight = self._counted * self._ranks.world_size / max(total, 1)
        self._counted = 0
        if not total:
            return
        for values in [*self.statistics(), *(others or ())]:
            values *= weight
            distributed.all_reduce(values)
            values /= self._ranks.world_size

    def statistics(self) -> list[Tensor]:
        """The running statistics that ranks have of their own."""
        found = [v for layer in self.layers for v in (layer.running_mean, layer.running_var) if v is not None]
        return [] if self.synchronised else found

    def summed(self, values: Tensor) -> Tensor:
        """Sums of all ranks' rows, without gradients; stand-ins add nothing."""
        own = torch.zeros_like(values) if self.stand_ins else values.detach()
        return sum_over_ranks(own, group=layer_group())

    def _forward_of(self, layer: _BatchNorm) -> Any:
        def forward(x: Tensor) -> Tensor:
            if not layer.training:
                return type(layer).forward(layer, x)
            layer._check_input_dim(x)
            return _normalised(layer, x, counted=not self.stand_ins)

        return forward


def _normalised(layer: _BatchNorm, x: Tensor, *, counted: bool) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias with mean and var of the rows of all ranks; updates running ones."""
    others = [place for place in range(x.dim()) if place != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    used = values if counted else values[:0]
    # Filled on the device: a host's tensor would make it wait.
    count = values.new_full((1,), used.numel() // x.shape[1])
    sums = summed(torch.cat([used.sum(others), count]))
    rows = sums[-1].detach()
    mean = sums[:-1] / rows
    variance = summed((used - mean.view(shape)).square().sum(others)) / rows
    with torch.no_grad():
        if layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked += 1
            new = 1 / layer.num_batches_tracked if layer.momentum is None else torch.tensor(layer.momentum)
            new = new.to(mean)
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), new)
            layer.running_var.lerp_((variance * rows / (rows - 1)).to(layer.running_var.dtype), new)
    found = (values - mean.view(shape)) * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        found = found * layer.weight.view(shape) + layer.bias.view(shape)
    return found.to(x.dtype)
