"""The folded QIN as a graph over requests, candidates and history slots, and the inputs that it reads.

Shape legend: R requests, C candidates, T history slots of a behaviour, E width of embedded event features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fuxictr_multimodal.zoo import servable
from fuxictr_multimodal.zoo.servable import CANDIDATES, REQUESTS, GraphInput
from model_zoo.QIN.fields import Fields
from model_zoo.QIN.folded_embedding import FeatureVectors
from model_zoo.QIN.folded_first_order import FoldedFirstOrder
from model_zoo.QIN.folded_items import FIRST_ORDER, VECTOR, code_name, direction_name
from model_zoo.QIN.folded_network import FoldedNetwork, RankedInputs
from model_zoo.QIN.folded_parts import TrainedParts


class RankingGraph(nn.Module):
    """From the tensors of `inputs`, in their order, to scores (R, C).

    Args:
        trained: parts of the model.
        network: its folded network.
        first_order: its folded terms, or None.
        arrays: of the catalogue; a row of each is enough.

    Attributes:
        inputs: what is read.
    """

    def __init__(
        self,
        trained: TrainedParts,
        network: FoldedNetwork,
        first_order: FoldedFirstOrder | None,
        arrays: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        fields = trained.fields
        self.behaviours = tuple(behaviour.name for behaviour in fields.behaviours)
        self.context, self.events = fields.context, fields.events
        self.network = network
        embedding = trained.network.embedding_layer
        self.of_context = FeatureVectors(embedding, self.context)
        self.of_events = FeatureVectors(embedding, self.events)
        similarity = trained.similarity
        self.compared = () if similarity is None else similarity.names
        self.first_order, self.share = first_order, trained.share
        self.activation = trained.activation
        self.inputs = _inputs(fields, trained.specs, arrays)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores (R, C)."""
        given = {each.name: tensor for each, tensor in zip(self.inputs, tensors, strict=True)}
        columns = {name: given[servable.context(name)] for name in (*self.context, *self.events)}
        compared = [self._cosines(given, direction_name(name)) for name in self.compared]
        logit_RC = self._logit(given, columns, compared)
        if self.first_order is not None:
            codes = {name: given[servable.candidate(code_name(name))] for name in self.first_order.codes}
            items_RC = given.get(servable.candidate(FIRST_ORDER))
            linear_RC = self.first_order(columns, items_RC, codes)
            if self.share is None:
                logit_RC = logit_RC + linear_RC
            else:
                logit_RC = torch.lerp(logit_RC, linear_RC.expand_as(logit_RC), self.share)
        return self.activation(logit_RC)

    def _logit(
        self,
        given: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
        compared: Sequence[Tensor],
    ) -> Tensor:
        """The logit of the network, (R, C)."""
        items_RCI = given[servable.candidate(VECTOR)]
        nothing_R0 = items_RCI[:, 0, :0]
        histories = []
        for behaviour in self.behaviours:
            mask_RT = given[servable.mask(behaviour)]
            vectors_RTD = given[servable.history(behaviour, VECTOR)]
            if self.events:
                codes = {name: given[servable.event(behaviour, name)] for name in self.events}
                vectors_RTD = torch.cat([vectors_RTD, self.of_events(codes)], dim=2)
            histories.append((vectors_RTD * mask_RT[..., None], mask_RT))
        return self.network(
            RankedInputs(
                context_RQ=self.of_context(columns) if self.context else nothing_R0,
                events_RE=self.of_events(columns) if self.events else nothing_R0,
                items_RCI=items_RCI,
                histories=histories,
                cosines_RCTE=torch.stack(list(compared), dim=3) if compared else None,
            )
        )

    def _cosines(self, given: Mapping[str, Tensor], name: str) -> Tensor:
        """Cosines of each candidate and the items of the first history, (R, C, T)."""
        history_RTd = given[servable.history(self.behaviours[0], name)]
        return given[servable.candidate(name)] @ history_RTd.transpose(1, 2)


def _inputs(fields: Fields, specs: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> tuple[GraphInput, ...]:
    found = [servable.column_input(name, specs[name]) for name in (*fields.context, *fields.events)]
    for number, behaviour in enumerate(fields.behaviours):
        dims = (REQUESTS, servable.slots(number))
        found.append(GraphInput(servable.mask(behaviour.name), "bool", dims))
        found += [
            servable.array_input(servable.history(behaviour.name, array), values, *dims)
            for array, values in arrays.items()
            if array == VECTOR or (number == 0 and array.startswith("direction_"))
        ]
        found += [GraphInput(servable.event(behaviour.name, name), "int64", dims) for name in fields.events]
    of_candidates = (
        servable.array_input(servable.candidate(array), values, REQUESTS, CANDIDATES)
        for array, values in arrays.items()
    )
    return (*found, *of_candidates)
