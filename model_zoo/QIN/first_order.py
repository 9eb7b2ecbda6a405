"""First-order terms: one weight for each value of some features, a logistic regression beside the quadratic network.

    z = b + sum over the chosen features f, over the values v of f in the row: w[f, v]

The wide part of Wide & Deep (arXiv 1606.07792), with its cross products: `user*item_tags` is a feature whose values are
the pairs of a user and a tag. An embedding that is a product with others needs many steps to become "this user likes
most films" or "this user likes westerns"; its own weight, with a learning rate and its own penalty, says it
at once.

Shape legend: B rows, T tags of an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, did_you_mean
from model_zoo.QIN.row_items import RowItems

KINDS = ("categorical", "sequence")
CROSS = "*"
MAX_WEIGHTS = 100_000_000  # of one term: 2.4 GB with gradient, Adam's moments, penalties and averages


class FirstOrder(nn.Module):
    """The sum of the weights of a row's values; all weights start at 0, that of padding stays there.

    A weight is read by few rows of an epoch, so what the last batches made of it is noise in good part; scoring takes
    its average over the last steps instead (Polyak and Juditsky, "Acceleration of stochastic approximation by
    averaging", SIAM J. Control Optim. 30(4), 1992).

    Args:
        specs: of the feature map, by name.
        terms: names of categorical features and of tags, of the context or of the target item, or of several crossed:
            `user*item_tags`.
        regularizer: L2 weight of all terms, or of each by name; lambda / 2 * sum w^2, as FuxiCTR counts it.
        averaging: what the average keeps of itself in a step, from 0 (none is taken) to below 1.

    Attributes:
        rows: where the weights of a term are; its id i has row `rows[term].start + i - 1`, and row 0 is padding.

    Raises:
        ConfigError: a feature that is not there or has no values, a cross of too many values, or a number that does
            not fit.
    """

    _strength: Tensor
    averaged_weight: Tensor
    averaged_bias: Tensor
    averaged_steps: Tensor

    def __init__(
        self,
        specs: Mapping[str, Mapping[str, Any]],
        terms: Sequence[str],
        regularizer: float | Mapping[str, float] = 0.0,
        *,
        averaging: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= averaging < 1:
            raise ConfigError(f"first_order_averaging must be from 0 to below 1, got {averaging}")
        self.averaging = averaging
        self.factors = {term: _factors(term, specs) for term in terms}
        self.rows: dict[str, slice] = {}
        end = 1
        for term, sizes in self.factors.items():
            start, end = end, end + math.prod(sizes.values()) - 1
            self.rows[term] = slice(start, end)
        self.weight = nn.Parameter(torch.zeros(end, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        strength = torch.zeros(end, 1)
        for term, value in _for_each(terms, regularizer).items():
            strength[self.rows[term]] = value
        self.register_buffer("_strength", strength, persistent=False)
        if averaging:
            self.register_buffer("averaged_weight", torch.zeros(end, 1))
            self.register_buffer("averaged_bias", torch.zeros(1))
            self.register_buffer("averaged_steps", torch.zeros(()))

    def forward(self, context: Mapping[str, Tensor], items: RowItems) -> Tensor:
        """Logits (B, 1) of the columns of the samples, (B,) or (B, T), and of the targets among the items."""
        weight, bias = (self.weight, self.bias) if self.training else self.scoring_weights
        rows = []
        for term, sizes in self.factors.items():
            ids = {name: context[name] if name in context else items.of_targets(name) for name in sizes}
            values = crossed_values(ids, sizes)
            rows.append(torch.where(values > 0, values + (self.rows[term].start - 1), 0))
        return nn.functional.embedding(torch.cat(rows, dim=1), weight, padding_idx=0).sum(dim=1) + bias

    @property
    def scoring_weights(self) -> tuple[Tensor, Tensor]:
        """The weights and the bias that scoring reads: the averages where they are taken."""
        return (self.averaged_weight, self.averaged_bias) if self.averaging else (self.weight, self.bias)

    def penalty(self) -> Tensor:
        """The penalty of all weights but the bias, a scalar."""
        return (self._strength * self.weight.square()).sum() / 2

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """The features whose values have weights."""
        return tuple(dict.fromkeys(name for sizes in self.factors.values() for name in sizes))

    @property
    def row_weights(self) -> tuple[str, ...]:
        """The tensors that have a row for each value."""
        return ("weight", "averaged_weight") if self.averaging else ("weight",)

    def rows_of(self, sizes: Mapping[str, int], codes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows of some values and of all their crosses, term by term, in the order of the codes.

        Another dataset has other rows: with the codes that the same values have there, its rows are in the same order.

        Args:
            sizes: of the vocabularies, padding included, by feature.
            codes: of the values, by feature; padding is left out.
        """
        rows, end = [], 1
        for factors in self.factors.values():
            values = np.zeros(1, dtype=np.int64)
            for name in factors:
                real = codes[name][codes[name] > 0]
                values = (values[:, None] * sizes[name] + real).reshape(-1)
            rows.append(values + end - 1)
            end += math.prod(sizes[name] for name in factors) - 1
        return np.concatenate(rows)

    @torch.no_grad()
    def average(self) -> None:
        """Take the weights after an optimizer step into their average; the first ones count alike."""
        if self.averaging:
            self.averaged_steps += 1
            fraction = (1 / self.averaged_steps).clamp(min=1 - self.averaging)
            self.averaged_weight.lerp_(self.weight, fraction)
            self.averaged_bias.lerp_(self.bias, fraction)


def _factors(term: str, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The features that a term crosses, and how many ids each has."""
    names = term.split(CROSS)
    for name in names:
        if name not in specs:
            raise ConfigError(f"first_order: unknown feature {name!r}. {did_you_mean(name, specs)}")
        if specs[name]["type"] not in KINDS:
            raise ConfigError(f"first_order: {name!r} is of type {specs[name]['type']}, not {' or '.join(KINDS)}")
        if names.count(name) > 1:
            raise ConfigError(f"first_order: {term!r} crosses {name} with itself")
    sizes = {name: specs[name]["vocab_size"] for name in names}
    if math.prod(sizes.values()) > MAX_WEIGHTS:
        raise ConfigError(
            f"first_order: {term!r} would have {math.prod(sizes.values()):,} weights, more than {MAX_WEIGHTS:,}: "
            "cross features with fewer values"
        )
    return sizes


def crossed_values(ids: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """Ids (B, n) of the combinations of the values (B, ...) of features; a combination with padding is padding."""
    first, *others = sizes
    rows = ids[first].shape[0]  # `len` would be one number where an export leaves it open
    crossed = ids[first].long().reshape(rows, -1)
    for name in others:
        values = ids[name].long().reshape(rows, 1, -1)
        crossed = crossed[:, :, None]
        crossed = ((crossed * sizes[name] + values) * ((crossed > 0) & (values > 0))).flatten(1)
    return crossed


def _for_each(terms: Sequence[str], regularizer: float | Mapping[str, float]) -> dict[str, float]:
    by_term = regularizer if isinstance(regularizer, Mapping) else dict.fromkeys(terms, regularizer)
    if by_term.keys() != set(terms) or not all(map(_is_number, by_term.values())):
        raise ConfigError(
            f"first_order_regularizer={regularizer!r} must be a number, or one for each of {', '.join(terms)}"
        )
    return dict(by_term)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
