"""Row-wise updates of large embedding tables: a step reads and writes only the rows that its batch looked up.

Dense Adam and a penalty of whole tables visit every weight in every step, however few rows a batch needs. Here a
table's gradient is sparse. One optimizer step does, for each row i looked up since the last one, with t the number of
the step, k the steps since the row's moments were last written, and g_i its gradient with its own weights' penalty:

    m_i <- beta1^k m_i + (1 - beta1) g_i            v_i <- beta2^k v_i + (1 - beta2) g_i^2
    w_i <- w_i - lr (m_i / (1 - beta1^t)) / (sqrt(v_i / (1 - beta2^t)) + eps)

beta^k is the decay that the moments missed: they are those of dense Adam on the same gradients.

Exact, up to rounding: this is dense Adam in which a row outside the batch keeps its weights and has no penalty. So it
equals dense training as long as every row of these tables is looked up in every step; without a penalty, as long as no
row is missing from a step after its first one (a row without a gradient so far stands still in dense Adam too).

NOTE[DIFF] What FuxiCTR's dense training does besides, while a row is not looked up: Adam moves it on along its
decaying first moment, and the penalty pulls it towards 0. And the penalty of rows outside the batch counts there in the
norm that gradients are clipped to and in the reported loss; here the norm has the penalty of the rows of the batch, and
the loss no penalty of these tables.

Shape legend: V rows of a table, U rows looked up, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError

_CHUNK = 1 << 18  # weights updated at a time on the CPU, so that they and their moments stay in the cache


def update_rowwise(layers: Mapping[str, nn.Module], *, min_rows: int) -> dict[str, nn.Embedding]:
    """Give the embedding tables of at least `min_rows` rows sparse gradients, and return these tables.

    Raises:
        ConfigError: there is no such table.
    """
    tables = {name: table for name, table in layers.items() if type(table) is nn.Embedding}
    rows = {name: table.num_embeddings for name, table in tables.items()}
    chosen = {name: table for name, table in tables.items() if rows[name] >= min_rows}
    if not chosen:
        raise ConfigError(
            f"embedding_update=rowwise, but no embedding table has rowwise_min_rows={min_rows} rows or more: the "
            f"tables have {rows}; lower rowwise_min_rows, or leave embedding_update at dense"
        )
    for table in chosen.values():
        table.sparse = True
    logging.info("Row-wise updates of the tables with rows %s", {name: rows[name] for name in chosen})
    return chosen


def add_penalty(tables: Iterable[nn.Embedding], regularizers: Sequence[tuple[int, float]]) -> None:
    """Merge the gradient of each table, one entry per row, and add that of the rows' penalty, lambda / p * sum |w|^p.

    Args:
        tables: with sparse gradients.
        regularizers: pairs (p, lambda).
    """
    for table in tables:
        weight = table.weight
        if weight.grad is None:
            continue
        grad = weight.grad = weight.grad.coalesce()
        (rows_U,) = grad.indices()
        for order, factor in regularizers:
            for part in _parts(grad.values()):
                kept = weight.detach().index_select(0, rows_U[part])
                grad.values()[part].add_(kept if order == 2 else kept.sign_(), alpha=factor)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` that knows sparse gradients, which must be merged; returns the norm before."""
    grads = [p.grad.values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads]))
    torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


class RowwiseAdam(torch.optim.Adam):
    """Adam; parameters with a sparse gradient are updated row by row, as the file's first lines say.

    The state of such a parameter has `last_step` (V,), the step at which each row's moments were written, beside Adam's
    own. A step costs time and extra memory for the rows of the gradient, not of the table.

    >>> weight = torch.nn.Parameter(torch.ones(3, 2))
    >>> optimizer = RowwiseAdam([weight], lr=0.1)
    >>> torch.nn.functional.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()
    >>> optimizer.step()
    >>> [[round(x, 6) for x in row] for row in weight.tolist()]
    [[1.0, 1.0], [0.9, 0.9], [1.0, 1.0]]
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient. Closures are not supported."""
        assert closure is None, "row-wise Adam takes no closure"
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    sparse.append((group, parameter, parameter.grad.coalesce()))
                    parameter.grad = None  # Adam's own step must not see it
        super().step()
        for group, parameter, grad in sparse:
            self._step_rows(group, parameter, grad)
            parameter.grad = grad

    def _step_rows(self, group: dict, weight: Tensor, grad: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["last_step"] = weight.new_zeros(len(weight))  # whole numbers, in the type that a state is loaded as
        state["step"] += 1
        step = state["step"].double()
        beta1, beta2 = group["betas"]
        step_size, root = group["lr"] / (1 - beta1**step), (1 - beta2**step).sqrt()
        (all_rows,) = grad.indices()
        for part in _parts(grad.values()):
            rows, g = all_rows[part], grad.values()[part]
            missed = step - state["last_step"].index_select(0, rows)[:, None]
            m = state["exp_avg"].index_select(0, rows).mul_(beta1**missed).add_(g, alpha=1 - beta1)
            v = state["exp_avg_sq"].index_select(0, rows).mul_(beta2**missed).addcmul_(g, g, value=1 - beta2)
            state["exp_avg"].index_copy_(0, rows, m)
            state["exp_avg_sq"].index_copy_(0, rows, v)
            move = m.mul_(step_size).div_(v.sqrt_().div_(root).add_(group["eps"]))
            weight.index_copy_(0, rows, weight.index_select(0, rows).sub_(move))
        state["last_step"][all_rows] = step.to(weight.dtype)


def _parts(values_UD: Tensor) -> Iterable[slice]:
    count, width = values_UD.shape
    step = max(_CHUNK // width, 1) if values_UD.device.type == "cpu" else max(count, 1)
    return (slice(start, start + step) for start in range(0, count, step))
