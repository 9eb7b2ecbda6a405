"""What a folded QIN keeps of an item, so that a candidate or a history item is read and not computed.

The vectors are kept, and not the part of the first map that they are multiplied to in every request: at published
widths that would be 3.7 times the memory (1,408 numbers an item instead of 384) for a tenth of the time of a request
in float32 and less in int8. Nor are queries kept: the graph maps the few items of a history, and no candidate.

Shape legend: N items, row 0 is padding; I width of an item's vector, d width of a pretrained embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model_zoo.QIN.folded_embedding import FeatureVectors
from model_zoo.QIN.folded_first_order import FoldedFirstOrder
from model_zoo.QIN.interest_network import InterestNetwork
from model_zoo.QIN.similarity import Similarity, directions

if TYPE_CHECKING:
    from fuxictr_multimodal.data.item_table import ItemTable

PIECE = 4096  # items encoded at a time


class ItemEncoder(nn.Module):
    """From encoded features of items to arrays of the catalogue.

    | array | |
    |---|---|
    | `vector` | (N, I), the item |
    | `direction_<feature>` | (N, d), what is compared: of unit length, or 0 where there is no embedding |
    | `first_order` | (N,), first-order terms of the item alone |
    | `code_<feature>` | int64 (N, ...), codes that are crossed with those of a request |

    Args:
        network: trained.
        features: of items, in the order in which `forward` reads them.
        similarity: of the model, or None.
        first_order: its folded terms, or None.
    """

    def __init__(
        self,
        network: InterestNetwork,
        features: Sequence[str],
        similarity: Similarity | None,
        first_order: FoldedFirstOrder | None,
    ) -> None:
        super().__init__()
        self.features = tuple(features)
        self.vectors = FeatureVectors(network.embedding_layer, features)
        self.compared = () if similarity is None else similarity.names
        for number, name in enumerate(self.compared):
            self.register_buffer(f"mean_{number}", getattr(similarity, f"mean_{name}").float())
        self.terms = None if first_order is None else first_order.of_items
        self.codes = () if first_order is None else first_order.codes

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays, in the order in which `forward` gives them."""
        return (
            VECTOR,
            *(direction_name(name) for name in self.compared),
            *(() if self.terms is None else (FIRST_ORDER,)),
            *(code_name(name) for name in self.codes),
        )

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """The arrays of `arrays` of the items with these features."""
        named = dict(zip(self.features, features, strict=True))
        found = [self.vectors(named)]
        for number, name in enumerate(self.compared):
            found.append(directions(named[name].float(), getattr(self, f"mean_{number}")))
        if self.terms is not None:
            found.append(self.terms(named))
        # A copy: ONNX has one name for an input that is handed on, and would give it that of the output.
        return (*found, *(named[name].long().clone() for name in self.codes))

    @torch.no_grad()
    def of_table(self, table: ItemTable) -> dict[str, Tensor]:
        """The arrays of a whole table by name, computed a piece at a time, on the table's device."""
        count, pieces = table.num_items, []
        features = [table.features[name] for name in self.features]
        for start in range(0, count, PIECE):
            pieces.append(self(*(values[start : start + PIECE] for values in features)))
        return {name: torch.cat(parts) for name, parts in zip(self.arrays, zip(*pieces, strict=True), strict=True)}


VECTOR, FIRST_ORDER = "vector", "first_order"


def direction_name(feature: str) -> str:
    """Name of the array of a pretrained embedding in which candidates and history items are compared."""
    return f"direction_{feature}"


def code_name(feature: str) -> str:
    """Name of the array of an item's codes of a feature."""
    return f"code_{feature}"
