"""Steps of sharded tables, within those of a model that knows nothing of them.

A FuxiCTR model does forward, loss, backward, clipping and the step of its optimizer in one `train_step`. At the end of
each backward pass the gradients go to the ranks of their rows, and the norm of each table's gradient, over all ranks,
becomes the gradient of a parameter of one number that is never trained. So the norm that the model clips to is that of
all gradients, and what clipping makes of the number it would have made of the rows. They are updated when the optimizer
of the model takes its step.

NOTE[DIFF] Of FuxiCTR's dense training: the penalty (`embedding_regularizer`) is that of the rows looked up, added to
their gradient once in a step, and is not in the reported loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Variable

from fuxictr_multimodal.training.sharded.embedding import ShardedEmbedding
from fuxictr_multimodal.training.sharded.table import ShardedTable


class TableSteps:
    """Updates tables with each step of an optimizer, and drops their gradients with each of its `zero_grad`.

    All ranks must take the same steps.

    Args:
        layers: of the tables.
        optimizer: of the model; the learning rate of its first group is that of the tables.
        regularizers: pairs (p, lambda): the penalty of a row w is lambda / p * sum |w|^p.
        group: the processes.
    """

    def __init__(
        self,
        layers: Sequence[ShardedEmbedding],
        optimizer: torch.optim.Optimizer,
        regularizers: Sequence[tuple[int, float]],
        group: dist.ProcessGroup,
    ) -> None:
        self._layers, self._optimizer, self._regularizers, self._group = layers, optimizer, regularizers, group
        self._queued = False
        self._ready: Mapping[ShardedTable, tuple[Tensor, Tensor]] = {}
        self._norms: list[Tensor] = []
        for layer in layers:
            layer.table.on_gradient = self._queue
        optimizer.register_step_pre_hook(lambda *_: self._step())
        zero_grad = optimizer.zero_grad

        def zero_all(set_to_none: bool = True) -> None:
            self.forget()
            zero_grad(set_to_none)

        optimizer.zero_grad = zero_all  # type: ignore[method-assign]

    def forget(self) -> None:
        """Drop the gradients that wait for a step."""
        self._queued, self._ready, self._norms = False, {}, []
        for layer in self._layers:
            layer.gradient_norm.grad = None
            layer.table.forget()

    def _queue(self) -> None:
        """A gradient has arrived: at the end of this backward pass all of them have."""
        if not self._queued:
            self._queued = True
            Variable._execution_engine.queue_callback(self._settle)

    @torch.no_grad()
    def _settle(self) -> None:
        """Exchange gradients, and let the model see their norms."""
        self._queued = False
        ready = {layer.table: found for layer in self._layers if (found := layer.table.settle()) is not None}
        self._ready = {table: (rows, self._with_penalty(table, rows, grad)) for table, (rows, grad) in ready.items()}
        squares = [grad.square().sum() for _, grad in self._ready.values()]
        total = torch.stack(squares)
        dist.all_reduce(total, group=self._group)
        self._norms = list(total.sqrt().unbind())
        there = (layer for layer in self._layers if layer.table in self._ready)
        for layer, norm in zip(there, self._norms, strict=True):
            layer.gradient_norm.grad = norm.clone()

    def _with_penalty(self, table: ShardedTable, rows_U: Tensor, grad_UP: Tensor) -> Tensor:
        for order, factor in self._regularizers:
            weight_UP = table.weight.detach().index_select(0, rows_U)
            grad_UP = grad_UP.add(weight_UP if order == 2 else weight_UP.sign_(), alpha=factor)
        return grad_UP

    @torch.no_grad()
    def _step(self) -> None:
        rate = self._optimizer.param_groups[0]["lr"]
        there = [layer for layer in self._layers if layer.table in self._ready]
        for layer, norm in zip(there, self._norms, strict=True):
            rows_U, grad_UP = self._ready[layer.table]
            clipped = layer.gradient_norm.grad
            assert clipped is not None
            grad_UP = grad_UP * torch.where(norm > 0, clipped / norm, 1.0)
            layer.table.updates.step(rows_U, grad_UP, rate)
        self.forget()
