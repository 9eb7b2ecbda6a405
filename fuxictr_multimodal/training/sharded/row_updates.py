"""How a rank updates its rows of a table, by the merged gradients of those that a step looked up.

| name | update | state of a row |
|---|---|---|
| `adam` | row-wise Adam of `model_zoo/QIN/rowwise.py`, which says what it leaves of dense Adam | 2 D + 1 numbers |
| `sgd` | dense SGD | none |
| `adagrad` | dense Adagrad: a row without a gradient does not move there either | D numbers |
| `rowwise_adagrad` | h <- h + mean(g^2), w <- w - lr g / (sqrt(h) + eps) | 1 number |

The mean is over the numbers stored, which are D and zeros up to a multiple of four. All but the first are FBGEMM's
fused optimizers, as torchrec makes them. Its Adam is not used: there is none on the CPU, and that on the GPU leaves the
moments of a row as they are while it is not looked up, where dense Adam lets them decay.

Shape legend: R rows of a rank, U rows of a step, P width as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fuxictr_multimodal.training.sharded.library import load_library

# By the optimizer of the model; the last one by name only.
UPDATES = ("adam", "sgd", "adagrad", "rowwise_adagrad")
EPSILON = {"adagrad": 1e-10, "rowwise_adagrad": 1e-8}  # torch's of its Adagrad, FBGEMM's own


class RowUpdates(Protocol):
    """An optimizer of the rows of a rank."""

    def step(self, rows_U: Tensor, grad_UP: Tensor, learning_rate: float) -> None:
        """Update some rows, each named once; there may be none."""

    def state(self) -> dict[str, Tensor]:
        """What the optimizer keeps: tensors (R,) or (R, P), to be written into, and of one number for all rows."""


class AdamRows:
    """`RowwiseAdam` over the weight (R, P) of a rank."""

    def __init__(self, weight: Tensor) -> None:
        from model_zoo.QIN.rowwise import RowwiseAdam

        self._weight = nn.Parameter(weight)
        self._optimizer = RowwiseAdam([self._weight])
        # The state is made by the first step, which moves no row.
        self._optimizer.state[self._weight].update(
            step=torch.zeros((), device=weight.device),
            exp_avg=torch.zeros_like(weight),
            exp_avg_sq=torch.zeros_like(weight),
            last_step=weight.new_zeros(len(weight)),
        )

    def step(self, rows_U: Tensor, grad_UP: Tensor, learning_rate: float) -> None:
        """See `RowUpdates`."""
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._weight.grad = torch.sparse_coo_tensor(
            rows_U[None], grad_UP, self._weight.shape, is_coalesced=True, check_invariants=False
        )
        self._optimizer.step()
        self._weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """See `RowUpdates`."""
        return dict(self._optimizer.state[self._weight])


class FusedRows:
    """One of FBGEMM's optimizers, which updates rows in the backward pass of their lookup.

    Args:
        optimizer: of torchrec's sharded module.
        look_up: rows (U,) of this rank to their vectors (U, P), by the same module.
    """

    def __init__(self, optimizer: Any, look_up: Callable[[Tensor], Tensor]) -> None:
        self._optimizer, self._look_up = optimizer, look_up

    def step(self, rows_U: Tensor, grad_UP: Tensor, learning_rate: float) -> None:
        """See `RowUpdates`."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()  # takes up the rate, no more
        with torch.enable_grad():
            torch.autograd.backward(self._look_up(rows_U), grad_UP)

    def state(self) -> dict[str, Tensor]:
        """See `RowUpdates`."""
        found = {}
        for states in self._optimizer.state_dict()["state"].values():
            for name, value in states.items():
                shards = value.local_shards()
                found[name.rpartition(".")[2]] = shards[0].tensor if shards else torch.empty(0)
        return found


def fused_parameters(updates: str) -> Mapping[str, Any]:
    """What torchrec's module is made with; for `adam`, of which it only looks rows up, an optimizer without state."""
    kinds = load_library().OptimType
    kind = {"adagrad": kinds.EXACT_ADAGRAD, "rowwise_adagrad": kinds.EXACT_ROWWISE_ADAGRAD}.get(
        updates, kinds.EXACT_SGD
    )
    return {"optimizer": kind, "learning_rate": 0.0, "eps": EPSILON.get(updates, 1e-8)}
