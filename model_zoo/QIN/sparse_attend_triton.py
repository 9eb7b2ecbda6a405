"""ReLU attention over jagged histories as Triton kernels: items are gathered, scored and added up in one pass.

The PyTorch implementation in `sparse_attend.py` writes both factors of every score to memory, (N, D) each; here they
stay in registers. Sums run in a fixed order and there are no atomics, so a result is the same bits every time.

Shape legend: B rows, N history slots of all rows, U item vectors, D width, P slots of a piece.
"""

from __future__ import annotations

import contextlib
import logging

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.language import constexpr, tensor

from fuxictr_multimodal.data.batch import Jagged

MAX_WIDTH = 4096  # a tile of vectors this wide still fits the registers
PIECE = 128  # slots of one item that one program adds up; a popular item takes several
_OLDEST_GPU = (8, 0)  # compute capability that Triton supports
_TILE = 4096  # elements of a tile of vectors: 32 registers a thread, so that several programs share a processor


def attend_relu(query_BD: Tensor, items_UD: Tensor, slots: Jagged, keep_N: Tensor | None = None) -> Tensor:
    """pooled_b = sum over the slots s of row b of keep_s ReLU(query_b.h_s) h_s, (B, D).

    Args:
        query_BD: one query a row, float32 or float64, contiguous or not.
        items_UD: item vectors of the same type.
        slots: `slots.values` (N,) says which vector each slot holds.
        keep_N: what dropout multiplies the weights with, of the same type.

    Returns:
        Differentiable in query_BD and items_UD. Rows without slots are 0.
    """
    assert query_BD.dtype == items_UD.dtype, (query_BD.dtype, items_UD.dtype)
    return _ReluAttend.apply(query_BD.contiguous(), items_UD.contiguous(), slots.values, slots.offsets, keep_N)


def usable(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernels run on a GPU: they must give the values and gradients of a small example.

    A machine may lack what Triton compiles with, and a wrong kernel would only show as a worse model.
    """
    if width > MAX_WIDTH or dtype not in (torch.float32, torch.float64):
        return False
    if torch.cuda.get_device_capability(device) < _OLDEST_GPU:
        return False
    try:
        error = _error_on_example(device, dtype, width)
    except Exception as problem:  # a compiler that is missing, too old, or fails: there are many ways
        logging.warning(
            "Triton does not run here (%s): attention uses PyTorch's own kernels, which are slower", problem
        )
        return False
    if not error < 1e-4:
        logging.warning("Triton's attention is off by %.1e on an example: PyTorch's own kernels are used", error)
        return False
    return True


class _ReluAttend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query_BD, items_UD, values_N, offsets, keep_N):
        pooled_BD = torch.zeros_like(query_BD)
        weights_N = query_BD.new_empty(len(values_N))
        if len(values_N):
            args = query_BD, items_UD, values_N, offsets, _or(keep_N, weights_N), weights_N, pooled_BD
            with _on(query_BD):
                _pool[(len(query_BD),)](*args, **_tile(items_UD, slots=8), KEPT=keep_N is not None)
        ctx.save_for_backward(query_BD, items_UD, values_N, offsets, keep_N, weights_N)
        return pooled_BD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BD):
        query_BD, items_UD, values_N, offsets, keep_N, weights_N = ctx.saved_tensors
        dquery_BD = torch.zeros_like(query_BD)
        if not len(values_N):
            return dquery_BD, torch.zeros_like(items_UD), None, None, None
        grad_BD = grad_BD.contiguous()
        dscores_N = torch.empty_like(weights_N)
        args = grad_BD, items_UD, values_N, offsets, _or(keep_N, weights_N), weights_N, dscores_N, dquery_BD
        with _on(query_BD):
            _row_gradients[(len(query_BD),)](*args, **_tile(items_UD, slots=8), KEPT=keep_N is not None)
        if not ctx.needs_input_grad[1]:
            return dquery_BD, None, None, None, None
        weights_N = weights_N if keep_N is None else weights_N * keep_N
        ditems_UD = _item_gradients(grad_BD, query_BD, items_UD, Jagged(values_N, offsets), weights_N, dscores_N)
        return dquery_BD, ditems_UD, None, None, None


def _item_gradients(
    grad_BD: Tensor, query_BD: Tensor, items_UD: Tensor, slots: Jagged, weights_N: Tensor, dscores_N: Tensor
) -> Tensor:
    """Gradient of each item: the sum of a_s dpooled_b + dscore_s query_b over the slots s, in rows b, that hold it.

    The slots are sorted by item and cut into pieces of at most P slots of one item. Pieces of a popular item go to rows
    of their own behind those of the items, and are added up at the end. How many pieces there are is known on the
    device only; the host launches as many programs as there can be, so it need not wait.
    """
    items, device = len(items_UD), items_UD.device
    sorted_N, order_N = slots.values.int().sort(stable=True)
    starts = torch.searchsorted(sorted_N, torch.arange(items + 1, device=device, dtype=sorted_N.dtype))
    # An item without slots has an empty piece, which writes its gradient of 0.
    pieces_U = ((starts.diff() + (PIECE - 1)) // PIECE).clamp(min=1)
    ends_U = pieces_U.cumsum(0)
    extra_ends_U = torch.where(pieces_U > 1, pieces_U, 0).cumsum(0)
    most = items + len(order_N) // PIECE
    owner = torch.searchsorted(ends_U, torch.arange(most, device=device), right=True)
    # c > P slots make ceil(c / P) < 2 c / P pieces.
    found = items_UD.new_empty(items + 2 * len(order_N) // PIECE, items_UD.shape[1])
    tile = _tile(items_UD, slots=4)
    per_slot = slots.row_index(), order_N, weights_N, dscores_N
    per_item = starts, pieces_U, ends_U, extra_ends_U
    with _on(items_UD):
        _add_pieces[(most,)](grad_BD, query_BD, *per_slot, owner, *per_item, found, items, PIECE=PIECE, **tile)
        _join_pieces[(items,)](pieces_U, extra_ends_U, found, items, D=tile["D"], BLOCK=tile["BLOCK"])
    return found[:items]


@triton.jit
def _pool(
    query: tensor,
    items: tensor,
    values: tensor,
    offsets: tensor,
    keep: tensor,
    weights: tensor,
    pooled: tensor,
    D: constexpr,
    BLOCK: constexpr,
    SLOTS: constexpr,
    KEPT: constexpr,
) -> None:
    """One program a row: weights_s = ReLU(query.h_s), pooled = sum of keep_s weights_s h_s."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    query_D = tl.load(query + row * D + d, mask=inside, other=0)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    pooled_D = tl.zeros((BLOCK,), dtype=query_D.dtype)
    for first in range(start, stop, SLOTS):
        n = first + tl.arange(0, SLOTS)
        live = n < stop
        item = tl.load(values + n, mask=live, other=0).to(tl.int64)
        h_SD = tl.load(items + item[:, None] * D + d[None, :], mask=live[:, None] & inside[None, :], other=0)
        score_S = tl.sum(h_SD * query_D[None, :], axis=1)
        # A score that is not a number stays one, so that a diverging training is noticed.
        weight_S = tl.where(score_S <= 0, 0, score_S).to(score_S.dtype)
        tl.store(weights + n, weight_S, mask=live)
        if KEPT:
            weight_S *= tl.load(keep + n, mask=live, other=0)
        pooled_D += tl.sum(h_SD * weight_S[:, None], axis=0)
    tl.store(pooled + row * D + d, pooled_D, mask=inside)


@triton.jit
def _row_gradients(
    grad: tensor,
    items: tensor,
    values: tensor,
    offsets: tensor,
    keep: tensor,
    weights: tensor,
    dscores: tensor,
    dquery: tensor,
    D: constexpr,
    BLOCK: constexpr,
    SLOTS: constexpr,
    KEPT: constexpr,
) -> None:
    """One program a row: dscores_s = keep_s grad.h_s where the weight is not 0, dquery = sum of dscores_s h_s."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    grad_D = tl.load(grad + row * D + d, mask=inside, other=0)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    dquery_D = tl.zeros((BLOCK,), dtype=grad_D.dtype)
    for first in range(start, stop, SLOTS):
        n = first + tl.arange(0, SLOTS)
        live = n < stop
        used = live & (tl.load(weights + n, mask=live, other=0) != 0)
        # Vectors of slots with a weight of 0 are not read.
        item = tl.load(values + n, mask=used, other=0).to(tl.int64)
        h_SD = tl.load(items + item[:, None] * D + d[None, :], mask=used[:, None] & inside[None, :], other=0)
        dscore_S = tl.sum(h_SD * grad_D[None, :], axis=1)
        if KEPT:
            dscore_S *= tl.load(keep + n, mask=live, other=0)
        dscore_S = tl.where(used, dscore_S, 0).to(grad_D.dtype)
        tl.store(dscores + n, dscore_S, mask=live)
        dquery_D += tl.sum(h_SD * dscore_S[:, None], axis=0)
    tl.store(dquery + row * D + d, dquery_D, mask=inside)


@triton.jit
def _add_pieces(
    grad: tensor,
    query: tensor,
    rows: tensor,
    order: tensor,
    weights: tensor,
    dscores: tensor,
    owner: tensor,
    starts: tensor,
    pieces: tensor,
    ends: tensor,
    extra_ends: tensor,
    found: tensor,
    count_of_items: tensor,
    PIECE: constexpr,
    D: constexpr,
    BLOCK: constexpr,
    SLOTS: constexpr,
) -> None:
    """One program a piece: found = sum of weights_s grad + dscores_s query over its slots, in sorted order."""
    index = tl.program_id(0).to(tl.int64)
    item = tl.load(owner + index)
    if item < count_of_items:
        d = tl.arange(0, BLOCK)
        inside = d < D
        count = tl.load(pieces + item)
        piece = index - (tl.load(ends + item) - count)
        start = tl.load(starts + item) + piece * PIECE
        stop = tl.minimum(start + PIECE, tl.load(starts + item + 1))
        total_D = tl.zeros((BLOCK,), dtype=found.dtype.element_ty)
        for first in range(start, stop, SLOTS):
            place = first + tl.arange(0, SLOTS)
            live = place < stop
            n = tl.load(order + place, mask=live, other=0)
            weight_S = tl.load(weights + n, mask=live, other=0)
            dscore_S = tl.load(dscores + n, mask=live, other=0)
            used = (weight_S != 0) | (dscore_S != 0)
            row = tl.load(rows + n, mask=used, other=0)
            at = row[:, None] * D + d[None, :]
            read = used[:, None] & inside[None, :]
            grad_SD = tl.load(grad + at, mask=read, other=0)
            query_SD = tl.load(query + at, mask=read, other=0)
            total_D += tl.sum(grad_SD * weight_S[:, None] + query_SD * dscore_S[:, None], axis=0)
        target = tl.where(count > 1, count_of_items + tl.load(extra_ends + item) - count + piece, item)
        tl.store(found + target * D + d, total_D, mask=inside)


@triton.jit
def _join_pieces(
    pieces: tensor, extra_ends: tensor, found: tensor, count_of_items: tensor, D: constexpr, BLOCK: constexpr
) -> None:
    """One program an item: the sum of its pieces, if it has several."""
    item = tl.program_id(0).to(tl.int64)
    count = tl.load(pieces + item)
    if count > 1:
        d = tl.arange(0, BLOCK)
        inside = d < D
        first = count_of_items + tl.load(extra_ends + item) - count
        total_D = tl.zeros((BLOCK,), dtype=found.dtype.element_ty)
        for piece in range(first, first + count):
            total_D += tl.load(found + piece * D + d, mask=inside, other=0)
        tl.store(found + item * D + d, total_D, mask=inside)


def _tile(items_UD: Tensor, *, slots: int) -> dict[str, int]:
    """The tile of a program: `slots` vectors at a time, fewer where they are wide."""
    width = items_UD.shape[1]
    block = triton.next_power_of_2(width)
    return {"D": width, "BLOCK": block, "SLOTS": max(min(slots, _TILE // block), 1)}


def _or(keep_N: Tensor | None, other_N: Tensor) -> Tensor:
    """A kernel takes a tensor where it reads none."""
    return other_N if keep_N is None else keep_N


def _on(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current GPU, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _error_on_example(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Largest difference to PyTorch, relative to the largest number, of values and gradients; draws nothing."""
    rows, items, lengths = 7, 5, [3, 0, 20, 1, 0, PIECE + 40, 2]
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(device)
    values = (torch.arange(sum(lengths), device=device) ** 2) % items
    row_N = torch.repeat_interleave(torch.arange(rows), torch.tensor(lengths)).to(device)
    keep_N = ((torch.arange(len(values), device=device) % 3) > 0).to(dtype) * 1.5

    def waves(count: int, step: float) -> Tensor:
        phase = torch.arange(count * width, device=device, dtype=torch.float64).view(count, width)
        return (phase * step).sin().to(dtype).requires_grad_()

    with torch.inference_mode(False), torch.enable_grad():
        query, vectors, weight = waves(rows, 0.7), waves(items, 1.3), waves(rows, 0.3).detach()
        found = attend_relu(query, vectors, Jagged(values, offsets), keep_N)
        score_N = (query[row_N] * vectors[values]).sum(1).relu() * keep_N
        expected = torch.zeros_like(query).index_add(0, row_N, score_N[:, None] * vectors[values])
        pairs = [(found, expected)]
        both = (torch.autograd.grad((result * weight).sum(), (query, vectors)) for result in (found, expected))
        pairs += zip(*both, strict=True)
        return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
