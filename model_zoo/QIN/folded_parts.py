"""What of a trained QIN its folded form reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from model_zoo.QIN.fields import Fields
from model_zoo.QIN.first_order import FirstOrder
from model_zoo.QIN.interest_network import InterestNetwork
from model_zoo.QIN.precision import Precision
from model_zoo.QIN.similarity import Similarity

if TYPE_CHECKING:
    from fuxictr_multimodal.data.item_table import ItemTable


@dataclass(frozen=True)
class TrainedParts:
    """Parts of a trained model, in eval mode.

    Attributes:
        network: from features to a logit.
        fields: what features are read as; not flat.
        specs: of the feature map, by name.
        similarity: compares targets and history items, or None.
        first_order: terms beside the network, or None.
        share: of their logit in the mean with that of the network; None where it is added.
        activation: from logits to scores.
        precision: of the products of row-wise scoring.
        table: items, on the device of the model.
    """

    network: InterestNetwork
    fields: Fields
    specs: Mapping[str, Mapping[str, Any]]
    similarity: Similarity | None
    first_order: FirstOrder | None
    share: float | None
    activation: nn.Module
    precision: Precision
    table: ItemTable
