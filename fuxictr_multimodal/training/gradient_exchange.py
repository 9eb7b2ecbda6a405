"""Gradients summed over the ranks, while the rest of the backward pass still runs.

It hangs on the weights, not on the model's `forward`. A FuxiCTR model does forward, loss, backward, clipping and the
optimizer's step inside its own `train_step`, which torch's DistributedDataParallel does not fit: that wraps `forward`,
takes each rank's mean as equal, and knows neither windows of accumulation nor, with nccl, sparse gradients. Here each
weight has a hook that runs when its gradient is complete, and the last thing that a backward pass does is to wait for
what is on its way. So gradients are global before `backward()` returns, and what comes after it (penalties of rows,
clipping, the step) is what one process does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Variable

from fuxictr_multimodal.system.ranks import Ranks

# Gradients up to this size travel together, larger ones by themselves and without a copy.
TOGETHER_BYTES = 1 << 20


@dataclass
class Cost:
    """What the exchange has cost this rank: bytes handed over, seconds spent on it, and the number of exchanges."""

    nbytes: int = 0
    seconds: float = 0.0
    exchanges: int = 0


@dataclass(eq=False)
class _Bucket:
    """Weights of one type whose gradients travel together."""

    weights: list[nn.Parameter]
    complete: int = 0
    sent: Tensor | None = None
    work: Any = None


class GradientExchange:
    """Sums the gradients of a model over the ranks at the end of each backward pass before which `armed` is set.

    All ranks have the same weights in the same order. A weight without a gradient on any rank keeps none: optimizers
    treat none and zero differently. On a GPU that is asked for in the first exchange only, since the host would wait.
    Weights with an attribute `of_one_rank` that is true are left out: each rank has its own part of these.

    Args:
        model: with its final weights.
        ranks: of the running group.

    Attributes:
        armed: whether the next backward pass ends with an exchange; within a window of accumulation it does not.
        cost: so far.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.ranks = ranks
        self.armed = True
        self.cost = Cost()
        self._weights = [w for w in model.parameters() if w.requires_grad and not getattr(w, "of_one_rank", False)]
        self._sparse = sparse_weights(model)
        self._buckets = self._fill_buckets()
        self._bucket_of = {id(weight): bucket for bucket in self._buckets for weight in bucket.weights}
        self._known: list[bool] | None = None
        self._running = False
        self._next = 0
        self._hooks = [weight.register_post_accumulate_grad_hook(self._completed) for weight in self._weights]

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _fill_buckets(self) -> list[_Bucket]:
        """In the order in which gradients mostly become complete: that of the layers, reversed."""
        buckets: list[_Bucket] = []
        filling: dict[torch.dtype, tuple[_Bucket, int]] = {}
        for weight in reversed(self._weights):
            if weight.nbytes >= TOGETHER_BYTES or id(weight) in self._sparse:
                buckets.append(_Bucket([weight]))
                continue
            bucket, filled = filling.get(weight.dtype, (None, 0))
            if bucket is None or filled + weight.nbytes > TOGETHER_BYTES:
                bucket, filled = _Bucket([]), 0
                buckets.append(bucket)
            bucket.weights.append(weight)
            filling[weight.dtype] = bucket, filled + weight.nbytes
        return buckets

    def _completed(self, weight: Tensor) -> None:
        """Hand over the buckets that are complete, in their order, which is the same on all ranks."""
        if not self.armed:
            return
        started = time.perf_counter()
        if not self._running:
            self._running, self._next = True, 0
            Variable._execution_engine.queue_callback(self._finish)
        self._bucket_of[id(weight)].complete += 1
        while self._next < len(self._buckets):
            bucket = self._buckets[self._next]
            if bucket.complete < len(bucket.weights):
                break
            self._send(bucket)
            self._next += 1
        self.cost.seconds += time.perf_counter() - started

    def _finish(self) -> None:
        """Hand over the other buckets too, some gradients of which did not come, and wait for all."""
        started = time.perf_counter()
        there = torch.tensor([weight.grad is not None for weight in self._weights], dtype=torch.uint8)
        for bucket in self._buckets[self._next :]:
            self._send(bucket)
        asked = None
        if self._known is None or self._weights[0].device.type == "cpu":
            asked = distributed.all_reduce(there, op=distributed.ReduceOp.MAX, async_op=True)
        for bucket in self._buckets:
            _receive(bucket)
        if asked is not None:
            asked.wait()
            self._known = there.bool().tolist()
        assert self._known is not None
        for weight, known in zip(self._weights, self._known, strict=True):
            if not known:
                weight.grad = None
        self._running = False
        self.cost.seconds += time.perf_counter() - started
        self.cost.exchanges += 1

    def _send(self, bucket: _Bucket) -> None:
        first = bucket.weights[0]
        if id(first) in self._sparse:
            first.grad, nbytes = sum_rows(first, self.ranks)
            self.cost.nbytes += nbytes
            return
        grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in bucket.weights]
        if len(grads) == 1:
            first.grad = bucket.sent = grads[0].contiguous()
        else:
            bucket.sent = torch.cat([grad.reshape(-1) for grad in grads])
        self.cost.nbytes += bucket.sent.nbytes
        bucket.work = distributed.all_reduce(bucket.sent, async_op=True)


def sparse_weights(model: nn.Module) -> set[int]:
    """Ids of the weights whose gradients are sparse: those of tables that are updated row by row."""
    lookups = (part for part in model.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag))
    return {id(lookup.weight) for lookup in lookups if lookup.sparse}


def sum_rows(weight: Tensor, ranks: Ranks) -> tuple[Tensor, int]:
    """The sum of the sparse gradients of a weight, one entry a row, and the bytes that this rank handed over.

    A rank that looked up nothing has no gradient.
    """
    if weight.grad is None:
        own = weight.new_empty(0, *weight.shape[1:])
        rows = torch.empty(0, dtype=torch.long, device=weight.device)
    else:
        grad = weight.grad.coalesce()
        rows, own = grad.indices()[0], grad.values()
    counts = [torch.empty(1, dtype=torch.long) for _ in range(ranks.world_size)]
    distributed.all_gather(counts, torch.tensor([len(rows)]))
    sizes = [int(count) for count in counts]
    found, nbytes = [], 0
    for part in (rows, own):
        # What travels is as long as the longest.
        padded = part.new_zeros(max(sizes), *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        nbytes += padded.nbytes
        found.append(torch.cat([of_rank[:size] for of_rank, size in zip(parts, sizes, strict=True)]))
    # Rows of gradients are rows of the table.
    total = torch.sparse_coo_tensor(found[0][None], found[1], weight.shape, check_invariants=False)
    return total.coalesce(), nbytes


def _receive(bucket: _Bucket) -> None:
    if bucket.work is not None:
        assert bucket.sent is not None
        bucket.work.wait()
        if len(bucket.weights) > 1:
            sums = bucket.sent.split([weight.numel() for weight in bucket.weights])
            for weight, total in zip(bucket.weights, sums, strict=True):
                if weight.grad is None:
                    weight.grad = torch.empty_like(weight)
                weight.grad.copy_(total.view_as(weight))
    bucket.work = bucket.sent = None
    bucket.complete = 0
