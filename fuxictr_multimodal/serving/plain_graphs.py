"""Graphs around a model's own forward pass: they repeat each request for its candidates and lay out the columns.

Shape legend: R requests, C candidates of a request, T history slots, D width of an embedded item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn

from fuxictr_multimodal.data.batch import Batch, Jagged
from fuxictr_multimodal.serving.traceable import traceable, with_parts
from fuxictr_multimodal.zoo import servable as names
from fuxictr_multimodal.zoo.distinct_items import rows_alike

if TYPE_CHECKING:
    from fuxictr_multimodal.zoo.servable import GraphInput


class PlainGraph(nn.Module):
    """A model behind the inputs of a `Servable`.

    Args:
        model: in eval mode.
        inputs: of the servable, in the order of the arguments.

    Raises:
        InputError: the model has no form that traces.
    """

    def __init__(self, model: BaseModel, inputs: Sequence[GraphInput]) -> None:
        super().__init__()
        self.model = traceable(model)
        self.names = [given.name for given in inputs]
        prefix = names.context("")
        self.columns = {name.removeprefix(prefix): name for name in self.names if name.startswith(prefix)}

    def forward(self, *tensors: Tensor) -> Tensor:
        """Scores of the candidates, (R, C)."""
        given = dict(zip(self.names, tensors, strict=True))
        return self.scores(given, {column: given[name] for column, name in self.columns.items()})

    def scores(self, given: Mapping[str, Tensor], columns: dict[str, Tensor]) -> Tensor:
        """Scores from all inputs, and the columns of the request again under their own names."""
        raise NotImplementedError


class LongCTRGraph(PlainGraph):
    """A LongCTR model: the triple of R * C rows, with embeddings of R * T + R * C items and of R requests.

    Args:
        model: reads the triple.
        inputs: of the servable.
        behaviour: the history.
        features: of the items.
    """

    def __init__(self, model: BaseModel, inputs: Sequence[GraphInput], behaviour: str, features: Sequence[str]) -> None:
        layer = getattr(model, "embedding_layer", None)
        spread = Spread(layer) if layer is not None and rows_alike(layer) else None
        super().__init__(model if spread is None else with_parts(model, embedding_layer=spread), inputs)
        self.spread = spread
        self.mask = names.mask(behaviour)
        self.histories = {name: names.history(behaviour, name) for name in features}
        self.candidates = {name: names.candidate(name) for name in features}

    def scores(self, given: Mapping[str, Tensor], columns: dict[str, Tensor]) -> Tensor:
        """Scores by the triple `(columns, items, mask)`."""
        mask_RT = given[self.mask]
        requests, slots = mask_RT.shape
        candidates = next(given[name] for name in self.candidates.values()).shape[1]
        rows = _Rows(requests, candidates, slots)
        mask = rows.of_requests(mask_RT.float())
        if self.spread is None:
            columns = {name: rows.of_requests(values) for name, values in columns.items()}
            items = {
                name: rows.of_items(given[history], given[self.candidates[name]])
                for name, history in self.histories.items()
            }
        else:
            items = {
                name: torch.cat([given[history].flatten(0, 1), given[self.candidates[name]].flatten(0, 1)])
                for name, history in self.histories.items()
            }
            self.spread.rows, self.spread.items = rows, items
        return self.model((columns, items, mask))["y_pred"].view(requests, candidates)


class Spread(nn.Module):
    """An embedding layer that embeds each item and each request once, and spreads the embeddings to the rows.

    The model calls it with the very dictionary of items that `items` holds, and with columns of the requests.

    Args:
        layer: treats every row alike.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.rows = _Rows(1, 1, 1)
        self.items: dict[str, Tensor] = {}

    def forward(self, columns: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Embeddings of the rows that the model expects."""
        embedded = self.layer(columns, *args, **kwargs)
        if columns is not self.items:
            return self.rows.of_requests(embedded)
        rows = self.rows
        histories, candidates = embedded.split([rows.requests * rows.slots, rows.requests * rows.candidates])
        return rows.of_items(
            histories.view(rows.requests, rows.slots, *embedded.shape[1:]),
            candidates.view(rows.requests, rows.candidates, *embedded.shape[1:]),
        )


class FlatGraph(PlainGraph):
    """A model of flat columns.

    Args:
        model: reads a dictionary of columns.
        inputs: of the servable.
        histories: history columns of the model, and the inputs that hold them.
        features: of the items.
        order: of the model's columns.
    """

    def __init__(
        self,
        model: BaseModel,
        inputs: Sequence[GraphInput],
        histories: Mapping[str, str],
        features: Sequence[str],
        order: Sequence[str],
    ) -> None:
        super().__init__(model, inputs)
        self.histories = dict(histories)
        self.candidates = {name: names.candidate(name) for name in features}
        self.order = list(order)

    def scores(self, given: Mapping[str, Tensor], columns: dict[str, Tensor]) -> Tensor:
        """Scores by columns in the order of the feature map."""
        requests, candidates = next(given[name] for name in self.candidates.values()).shape[:2]
        rows = _Rows(requests, candidates, 0)
        found = {name: rows.of_requests(values) for name, values in columns.items()}
        found |= {name: given[source].flatten(0, 1) for name, source in self.candidates.items()}
        found |= {name: rows.of_requests(given[source]) for name, source in self.histories.items()}
        ordered = {name: found[name] for name in self.order if name in found}
        return self.model(ordered)["y_pred"].view(requests, candidates)


class ColumnsGraph(PlainGraph):
    """Any model of a dataset without items: each request is a sample.

    Args:
        model: reads what the layout says.
        inputs: of the servable.
        layout: of the model.
        pairs: a field and its history, for the triple of a LongCTR model.
        slots: at least as many history slots.
        padding: of the model.
    """

    def __init__(
        self,
        model: BaseModel,
        inputs: Sequence[GraphInput],
        *,
        layout: str,
        pairs: Sequence[tuple[str, str]],
        slots: int | None,
        padding: str,
    ) -> None:
        super().__init__(model, inputs)
        self.layout, self.pairs, self.slots, self.padding = layout, list(pairs), slots, padding

    def scores(self, given: Mapping[str, Tensor], columns: dict[str, Tensor]) -> Tensor:
        """Scores of the samples, (R, 1)."""
        read: Any = columns
        if self.layout == "batch":
            requests = next(iter(columns.values())).shape[0]
            empty = Jagged(torch.zeros(0, dtype=torch.int32), torch.zeros(requests + 1, dtype=torch.int64))
            read = Batch(columns, torch.zeros(requests, dtype=torch.int32), empty)
        elif self.layout == "longctr":
            read = self._triple(columns)
        return self.model(read)["y_pred"].view(-1, 1)

    def _triple(self, columns: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """What `longctr_of_columns` makes, in as many slots as the columns have, or more where the model needs them."""
        sequences = {field: columns[name] for field, name in self.pairs}
        real_RT = torch.stack([values_RT != 0 for values_RT in sequences.values()]).any(dim=0)
        if (more := (self.slots or 0) - real_RT.shape[1]) > 0:
            sequences = {field: nn.functional.pad(values_RT, (more, 0)) for field, values_RT in sequences.items()}
            real_RT = nn.functional.pad(real_RT, (more, 0))
        slots = real_RT.shape[1]
        first = real_RT if self.padding == "post" else ~real_RT
        place_T = torch.arange(slots)
        # Sorting moves the slots of one kind to the front; each keeps its place among its kind.
        order_RT = (place_T + slots * (~first).long()).sort(dim=1).values % slots
        items = {}
        for field, values_RT in sequences.items():
            row = torch.cat([values_RT.gather(1, order_RT), columns[field][:, None].to(values_RT.dtype)], dim=1)
            items[field] = row.flatten()
        left_out = {*sequences, *(name for _, name in self.pairs)}
        context = {name: values for name, values in columns.items() if name not in left_out}
        return context, items, real_RT.gather(1, order_RT).float()


class _Rows:
    """The R * C rows that a model scores: candidate c of request r is row r * C + c."""

    def __init__(self, requests: int, candidates: int, slots: int) -> None:
        self.requests, self.candidates, self.slots = requests, candidates, slots

    def of_requests(self, values: Tensor) -> Tensor:
        """Values of requests, (R, ...), for each row, (R * C, ...)."""
        # A flattened `expand` would be exported for one candidate or for several, not for both.
        row = torch.arange(self.requests * self.candidates, device=values.device) // self.candidates
        return values.index_select(0, row)

    def of_items(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """(R, T, ...) and (R, C, ...) as the triple has them: the history, then the target, (R * C * (T + 1), ...)."""
        rows = torch.cat([self.of_requests(histories), candidates.flatten(0, 1).unsqueeze(1)], dim=1)
        return rows.flatten(0, 1)
