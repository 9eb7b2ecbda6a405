"""Weighted sums over jagged histories that touch each real item once and padding never.

The vector of a slot may have several parts, its item's and those of its event (such as its age), each looked up in a
table of its own: scores and sums split over the parts, so that the whole vectors, (N, D), are never there.

Shape legend: B rows, N history slots of all rows, K slots with a weight other than 0, U item vectors, D width,
V values of an event feature, E width of its embedding.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fuxictr_multimodal.data.batch import Jagged
from model_zoo.QIN.attention_weights import SPARSE, weights_of_slots
from model_zoo.QIN.precision import own_types

# Vectors of a feature, and which of them each slot has: (V, E) and (N,).
Part = tuple[Tensor, Tensor]

_CHUNK = 1024  # slots gathered at a time on the CPU, so that both factors stay in the cache


def attend(
    query_BD: Tensor,
    items_UD: Tensor,
    slots: Jagged,
    *,
    activation: str,
    bias_N: Tensor | None = None,
    keep_N: Tensor | None = None,
    events: Sequence[Part] = (),
) -> Tensor:
    """pooled_b = sum over the slots s of row b of a_s h_s, a = keep * weight(score) and score_s = query_b.h_s + bias_s.

    On a GPU with Triton, ReLU over items alone, without bias, is computed by the kernels of
    `sparse_attend_triton.py`, everything else by PyTorch.

    Args:
        query_BD: one query a row.
        items_UD: item vectors.
        slots: `slots.values` (N,) says which vector each slot holds.
        activation: from scores to weights (`attention_weights.py`).
        bias_N: what is added to the scores.
        keep_N: what dropout multiplies the weights with.
        events: further parts of the slots' vectors, behind those of the items.

    Returns:
        (B, D), differentiable in query_BD, items_UD, bias_N and the vectors of events, in the type of items_UD also
        under autocast: sums of many slots. Rows without slots are 0.
    """
    with own_types(items_UD):
        if bias_N is not None:
            bias_N = bias_N.to(items_UD.dtype)
        return _attend(query_BD.to(items_UD.dtype), items_UD, slots, activation, bias_N, keep_N, events)


def _attend(
    query_BD: Tensor,
    items_UD: Tensor,
    slots: Jagged,
    activation: str,
    bias_N: Tensor | None,
    keep_N: Tensor | None,
    events: Sequence[Part],
) -> Tensor:
    plain = bias_N is None and not events
    if activation == "relu" and plain and _kernels_run_on(items_UD.device, items_UD.dtype, items_UD.shape[1]):
        from model_zoo.QIN.sparse_attend_triton import attend_relu

        return attend_relu(query_BD, items_UD, slots, keep_N)

    def weigh(score_N: Tensor) -> Tensor:
        weight_N = weights_of_slots(score_N, slots, activation)
        return weight_N if keep_N is None else weight_N * keep_N

    # How many slots have a weight is known on the device: on a GPU the host would wait for it to pass over the others.
    skip_zeros = activation in SPARSE and items_UD.device.type == "cpu"
    indexes = [slots.values, *(index_N for _, index_N in events)]
    return _Attend.apply(
        query_BD,
        bias_N,
        slots.offsets,
        slots.row_index(),
        weigh,
        skip_zeros,
        indexes,
        items_UD,
        *(table for table, _ in events),
    )


def bag(items_UD: Tensor, slots: Jagged, *, mode: str, weights_N: Tensor | None = None) -> Tensor:
    """Sum or mean of the (weighted) item vectors of each row, (B, D)."""
    return F.embedding_bag(
        slots.values, items_UD, slots.offsets, mode=mode, per_sample_weights=weights_N, include_last_offset=True
    )


def scores(query_BD: Tensor, row_N: Tensor, parts: Sequence[Part]) -> Tensor:
    """query_b.h_s for every slot, (N,): the sum over the parts of h_s; without gradients."""
    queries = _split(query_BD, [table for table, _ in parts])
    total_N = dots(queries[0], row_N, *parts[0])
    for query_BE, (table_VE, index_N) in zip(queries[1:], parts[1:], strict=True):
        if _is_small(table_VE, query_BE, index_N):
            total_N += (query_BE @ table_VE.T).view(-1)[row_N * len(table_VE) + index_N]
        else:
            total_N += dots(query_BE, row_N, table_VE, index_N)
    return total_N


def _is_small(table_VE: Tensor, rows_BE: Tensor, index_N: Tensor) -> bool:
    """Whether all values of a feature in every row are fewer than the slots, so that a product of matrices is less.

    On a GPU the sums over a row's slots would run in no fixed order.
    """
    return table_VE.device.type == "cpu" and len(rows_BE) * len(table_VE) <= len(index_N)


def _by_value(weights_K: Tensor, row_K: Tensor, index_K: Tensor, rows: int, values: int) -> Tensor:
    """The sum of a row's weights for each value of a feature, (B, V)."""
    return weights_K.new_zeros(rows * values).index_add_(0, row_K * values + index_K, weights_K).view(rows, values)


class _Attend(torch.autograd.Function):
    """See `attend`. `weigh` maps scores (N,) to weights; it is called again in the backward pass, so it draws nothing.

    With `skip_zeros` slots with a_s = 0 have a zero derivative too (ReLU), and neither pass touches them.
    """

    @staticmethod
    def forward(ctx, query_BD, bias_N, offsets, row_N, weigh, skip_zeros, indexes, *tables):
        score_N = scores(query_BD, row_N, list(zip(tables, indexes, strict=True)))
        if bias_N is not None:
            score_N += bias_N
        weight_N = weigh(score_N)
        row_K, weight_K, kept_K = row_N, weight_N, None
        if skip_zeros:
            keep_N = weight_N != 0
            kept_K = keep_N.nonzero().squeeze(1)
            offsets = Jagged(row_N, offsets).offsets_where(keep_N)
            indexes = [index_N[kept_K] for index_N in indexes]
            row_K, weight_K = row_N[kept_K], weight_N[kept_K]
        ctx.save_for_backward(query_BD, score_N, offsets, row_K, weight_K, kept_K, *indexes, *tables)
        ctx.weigh = weigh
        return _bags(tables, indexes, offsets, row_K, weight_K)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BD):
        query_BD, score_N, offsets, row_K, weight_K, kept_K, *parts = ctx.saved_tensors
        indexes, tables = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        dweight_K = scores(grad_BD.contiguous(), row_K, list(zip(tables, indexes, strict=True)))
        dweight_N = dweight_K if kept_K is None else torch.zeros_like(score_N).index_copy(0, kept_K, dweight_K)
        with torch.enable_grad():
            score_N = score_N.detach().requires_grad_()
            (dscore_N,) = torch.autograd.grad(ctx.weigh(score_N), score_N, dweight_N)
        dscore_K = dscore_N if kept_K is None else dscore_N[kept_K]
        dquery_BD = _bags(tables, indexes, offsets, row_K, dscore_K) if ctx.needs_input_grad[0] else None
        dtables = []
        for place, (table, index_K, grad, query) in enumerate(
            zip(tables, indexes, _split(grad_BD, tables), _split(query_BD, tables), strict=True)
        ):
            small = place > 0 and _is_small(table, grad, index_K)
            needed = ctx.needs_input_grad[7 + place]
            found = (
                _grad_of_table(table, index_K, row_K, weight_K, dscore_K, grad, query, small=small) if needed else None
            )
            dtables.append(found)
        dbias_N = dscore_N if ctx.needs_input_grad[1] else None
        return dquery_BD, dbias_N, None, None, None, None, None, *dtables


def _bags(
    tables: Sequence[Tensor], indexes: Sequence[Tensor], offsets: Tensor, row_K: Tensor, weights_K: Tensor
) -> Tensor:
    """Weighted sums of each row, the parts side by side, (B, D)."""
    parts = [bag(tables[0], Jagged(indexes[0], offsets), mode="sum", weights_N=weights_K)]
    for table_VE, index_K in zip(tables[1:], indexes[1:], strict=True):
        if _is_small(table_VE, parts[0], index_K):
            parts.append(_by_value(weights_K, row_K, index_K, len(parts[0]), len(table_VE)) @ table_VE)
        else:
            parts.append(bag(table_VE, Jagged(index_K, offsets), mode="sum", weights_N=weights_K))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _split(values_BD: Tensor, tables: Sequence[Tensor]) -> Sequence[Tensor]:
    """The columns that belong to each table."""
    if len(tables) == 1:
        return [values_BD]
    return [part.contiguous() for part in values_BD.split([table.shape[1] for table in tables], dim=1)]


def _grad_of_table(
    table: Tensor,
    index_K: Tensor,
    row_K: Tensor,
    weight_K: Tensor,
    dscore_K: Tensor,
    grad_BD: Tensor,
    query_BD: Tensor,
    *,
    small: bool,
) -> Tensor:
    """An item's gradient is sum a_s dpooled_b + dscore_s query_b over the slots that hold it.

    A bag again, over the slots sorted by item, with two entries a slot.
    """
    if small:
        weights_BV, dscores_BV = (_by_value(w, row_K, index_K, len(grad_BD), len(table)) for w in (weight_K, dscore_K))
        return weights_BV.T @ grad_BD + dscores_BV.T @ query_BD
    sorted_K, order_K = index_K.sort()
    items = torch.arange(len(table) + 1, device=index_K.device)
    starts = 2 * torch.searchsorted(sorted_K, items)
    row_K = row_K[order_K]
    entries = torch.stack([row_K, row_K + len(grad_BD)], dim=1).view(-1)
    weights = torch.stack([weight_K[order_K], dscore_K[order_K]], dim=1).view(-1)
    return bag(torch.cat([grad_BD, query_BD]), Jagged(entries, starts), mode="sum", weights_N=weights)


def dots(left_BD: Tensor, row_N: Tensor, right_UD: Tensor, index_N: Tensor) -> Tensor:
    """left[row_n].right[index_n] for every n, (N,)."""
    step = _CHUNK if left_BD.device.type == "cpu" else max(len(row_N), 1)
    out_N = left_BD.new_empty(len(row_N))
    for start in range(0, len(row_N), step):
        part = slice(start, start + step)
        left, right = left_BD.index_select(0, row_N[part]), right_UD.index_select(0, index_N[part])
        torch.linalg.vecdot(left, right, out=out_N[part])
    return out_N


@functools.lru_cache
def _kernels_run_on(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether attention on this device is the Triton kernels' work; importing Triton takes a while, so it waits."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from model_zoo.QIN.sparse_attend_triton import usable

    return usable(device, dtype, width)
