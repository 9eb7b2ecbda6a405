"""First-order terms: one weight for each value of some features, a logistic regression beside the quadratic network.

    z = b + sum over the chosen features f, over the values v of f in the row: w[f, v]

The wide part of Wide & Deep (arXiv 1606.07792). An embedding that is a product with others needs many steps to become
"this user likes most films"; a weight of its own, with a learning rate and a penalty of its own, says it at once.

Shape legend: B rows, T tags of an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, did_you_mean
from model_zoo.QIN.penalty import penalty

KINDS = ("categorical", "sequence")


class FirstOrder(nn.Module):
    """The sum of the weights of a row's values; all weights start at 0, that of padding stays there.

    Args:
        specs: of the feature map, by name.
        features: names of categorical features and of tags, of the context or of the target item.
        regularizer: L2 weight of all of them, or of each by name; lambda / 2 * sum w^2, as the toolkit counts it.

    Raises:
        ConfigError: a feature that is not there or has no values, or a regulariser that does not fit.
    """

    def __init__(
        self, specs: Mapping[str, Mapping[str, Any]], features: Sequence[str], regularizer: float | Mapping[str, float]
    ) -> None:
        super().__init__()
        for name in features:
            if name not in specs:
                raise ConfigError(f"first_order: there is no feature {name!r}. {did_you_mean(name, specs)}")
            if specs[name]["type"] not in KINDS:
                raise ConfigError(f"first_order: {name!r} is of type {specs[name]['type']}, not {' or '.join(KINDS)}")
        self.regularizers = _for_each(features, regularizer)
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(specs[name]["vocab_size"], 1, padding_idx=0) for name in features}
        )
        self.bias = nn.Parameter(torch.zeros(1))
        for table in self.tables.values():
            nn.init.zeros_(table.weight)

    def forward(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 1) of ids (B,) or tags (B, T), by the name of the feature."""
        parts = [table(ids[name].long()).flatten(1).sum(dim=1) for name, table in self.tables.items()]
        return (torch.stack(parts).sum(dim=0) + self.bias)[:, None]

    def penalty(self) -> Tensor:
        """The penalty of all weights but the bias, a scalar."""
        return sum(
            penalty([table.weight], order=2, weight=self.regularizers[name]) for name, table in self.tables.items()
        )


def _for_each(features: Sequence[str], regularizer: float | Mapping[str, float]) -> dict[str, float]:
    given = regularizer if isinstance(regularizer, Mapping) else dict.fromkeys(features, regularizer)
    if given.keys() != set(features) or not all(map(_is_number, given.values())):
        raise ConfigError(
            f"first_order_regularizer={regularizer!r} must be a number, or one for each of {', '.join(features)}"
        )
    return dict(given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
