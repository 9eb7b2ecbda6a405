"""Features hidden in part of training, so that a model learns to do without them (DropoutNet, NeurIPS 2017).

A user whom train does not know has neither an id nor levels, and all of them are read as 0. A model that never saw that
together in training meets it for the first time when it is scored. The id of an item can be learnt by heart where its
content would carry over to others; without it in some steps, the content has to say what it can.

Shape legend: B rows, T values of a sequence, V values of a feature, 0 (unknown) included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, did_you_mean


class FeatureDropout(nn.Module):
    """Sets features to 0, which stands for unknown, in a fraction of training; scoring hides nothing.

    A context feature is hidden in a fraction of the samples: one number is drawn for each, so that features of one rate
    are hidden in the same samples. An item feature is hidden for a fraction of its values: in a step, an item without
    its id has none as a target and in every history.

    Args:
        rates: fraction by the name of a context feature, or of a categorical feature of items.
        specs: of the feature map, by name.
        items: names of the features of items and events; by default those with `source: item`.

    Raises:
        ConfigError: a feature that is not there or has no values that could be hidden, or a rate that is not a
            fraction.

    >>> dropout = FeatureDropout({"user": 0.5}, {"user": {"type": "categorical"}})
    >>> _ = torch.manual_seed(0)
    >>> dropout({"user": torch.tensor([3, 4, 5, 6])})["user"].tolist()
    [0, 4, 0, 0]
    >>> dropout.eval()({"user": torch.tensor([3, 4, 5, 6])})["user"].tolist()
    [3, 4, 5, 6]
    """

    def __init__(
        self,
        rates: Mapping[str, float],
        specs: Mapping[str, Mapping[str, Any]],
        items: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        of_items = {n for n, spec in specs.items() if (spec.get("source") == "item" if items is None else n in items)}
        for name, rate in rates.items():
            if name not in specs:
                raise ConfigError(f"feature_dropout: unknown feature {name!r}. {did_you_mean(name, list(specs))}")
            if name in of_items and specs[name]["type"] != "categorical":
                raise ConfigError(
                    f"feature_dropout: {name} is of items and of type {specs[name]['type']}; of items, only "
                    "categorical features are hidden"
                )
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ConfigError(f"feature_dropout: the rate of {name} must be from 0 to below 1, got {rate!r}")
        self.rates = {name: rate for name, rate in rates.items() if name not in of_items}
        self.item_rates = {name: rate for name, rate in rates.items() if name in of_items}
        self._sizes = {name: int(specs[name]["vocab_size"]) for name in self.item_rates}

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The features (B,) or (B, T) by name; what comes in is not written to."""
        seen = dict(context)
        if self.training and self.rates:
            first = seen[next(iter(self.rates))]
            drawn_B = torch.rand(len(first), device=first.device)
            for name, rate in self.rates.items():
                keep_B = drawn_B >= rate
                seen[name] = seen[name] * keep_B.view(-1, *[1] * (seen[name].dim() - 1))
        return seen

    def of_items(self, device: torch.device) -> dict[str, Tensor]:
        """What a step shows of items: by feature, (V,), False at the values that it hides; nothing when scoring."""
        if not self.training:
            return {}
        return {name: torch.rand(self._sizes[name], device=device) >= rate for name, rate in self.item_rates.items()}
