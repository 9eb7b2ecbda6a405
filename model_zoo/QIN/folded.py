"""QIN folded for inference: the same scores as the trained model's, from fewer products.

Shape legend: B rows.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.zoo.servable import ITEMS, Servable, array_input
from model_zoo.QIN.folded_first_order import FoldedFirstOrder
from model_zoo.QIN.folded_graph import RankingGraph
from model_zoo.QIN.folded_items import ItemEncoder
from model_zoo.QIN.folded_network import FoldedNetwork
from model_zoo.QIN.folded_parts import TrainedParts
from model_zoo.QIN.folded_rows import RowScorer
from model_zoo.QIN.inputs import RowReader, columns_on


class FoldedQIN:
    """A trained QIN without what only training needs. It has the weights of when it was made.

    Embedding tables are the model's own: after more training, fold again.

    Args:
        trained: parts of the model.
    """

    def __init__(self, trained: TrainedParts) -> None:
        self.trained = trained
        with torch.no_grad():
            self.network = FoldedNetwork(trained.network)
            terms, items = trained.first_order, trained.fields.items
            self.first_order = None if terms is None else FoldedFirstOrder(terms, items)
            self.encoder = ItemEncoder(trained.network, items, trained.similarity, self.first_order)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """`y_pred` (B, 1) and `logit` (B, 1) of samples, as the model's own, on its device."""
        trained, fields, table = self.trained, self.trained.fields, self.trained.table
        with trained.precision.step():
            columns = columns_on(table.device, batch, fields, trained.specs)
            reader = RowReader.of(
                batch,
                fields,
                columns=columns,
                table=table,
                device=table.device,
                fast=True,
                similarity=trained.similarity,
            )
            logit_B1 = self._row_scorer(columns, reader)
            if trained.first_order is not None:
                linear_B1 = trained.first_order(columns, reader.row_items)
                share = trained.share
                logit_B1 = logit_B1 + linear_B1 if share is None else torch.lerp(logit_B1, linear_B1, share)
        return {"y_pred": trained.activation(logit_B1), "logit": logit_B1}

    @functools.cached_property
    def _row_scorer(self) -> RowScorer:
        return RowScorer(self.trained, self.network)

    def servable(self) -> Servable:
        """The graph that ranks, on the CPU, and the arrays of the whole catalogue."""
        table, encoder = self.trained.table, self.encoder.eval()
        items = encoder.of_table(table)
        graph = RankingGraph(self.trained, self.network, self.first_order, items).eval()
        if table.device.type != "cpu":
            graph, encoder = copy.deepcopy(graph).cpu(), copy.deepcopy(encoder).cpu()
            items = {name: values.cpu() for name, values in items.items()}
        features = {name: table.features[name] for name in encoder.features}
        return Servable(
            graph=graph,
            inputs=graph.inputs,
            items=items,
            encode_items=encoder,
            item_inputs=[array_input(name, values, ITEMS) for name, values in features.items()],
            behaviours=graph.behaviours,
            folded=True,
        )
