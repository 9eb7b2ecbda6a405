"""Scores of samples, each with a history of its own, by the folded network.

The model's own scoring already folds rows and norms, skips zero weights and keeps the vectors of items. Here the maps
of the attention are multiplied out once and not in each batch, x is made a block of rows at a time, and what the first
quadratic layer makes of context features with few values is looked up.

Shape legend: B rows, D width of a target, F width of x, V values of a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model_zoo.QIN.attention import JaggedHistory
from model_zoo.QIN.folded_interaction import FoldedQuadratic
from model_zoo.QIN.folded_network import FoldedNetwork
from model_zoo.QIN.folded_parts import TrainedParts
from model_zoo.QIN.inputs import RowReader
from model_zoo.QIN.interest_network import Interest
from model_zoo.QIN.products import add_product, linear
from model_zoo.QIN.quadratic_block import FoldedBlock, row_blocks
from model_zoo.QIN.sparse_attend import attend

LOOKED_UP = 1024  # the most values of a feature whose products are kept: 4 MB of them where F is 1024


class RowScorer:
    """Logits of samples by the network.

    Args:
        trained: parts of the model.
        folded: its network, folded.
    """

    def __init__(self, trained: TrainedParts, folded: FoldedNetwork) -> None:
        self.network, self.folded, self.precision = trained.network, folded, trained.precision
        self.context = trained.fields.context
        interaction = folded.interaction
        exact, device = trained.precision.name != "bf16", trained.table.device
        compiled = getattr(trained.network.qnn, "compiled", False)
        self.layers: LayersOfRows | None = None
        if isinstance(interaction, FoldedQuadratic) and exact and device.type == "cpu" and not compiled:
            self.layers = LayersOfRows(trained, interaction)

    def __call__(self, columns: Mapping[str, Tensor], reader: RowReader) -> Tensor:
        """Logits (B, 1) of the columns of samples and of their items."""
        target_BD, interests = reader.interests(self.network.item_vectors)
        assert target_BD is not None
        pieces = []
        if self.context:
            context = {name: columns[name] for name in self.context}
            pieces.append(self.network.embedding_layer(context, flatten_emb=True))
        pieces.append(target_BD)
        pooled = self._pooled(interests)
        logits = []
        for rows in row_blocks(target_BD):
            with self.precision.layers():
                of_histories = self._of_histories(target_BD[rows], [each[rows] for each in pooled])
            x_BF = torch.cat([*(each[rows] for each in pieces), *of_histories], dim=1)
            if self.layers is None:
                logits.append(self.network.interact(x_BF, form="fast", precision=self.precision))
            else:
                logits.append(self.layers(x_BF, columns, rows))
        return torch.cat(logits)

    def _pooled(self, interests: Sequence[Interest]) -> list[Tensor]:
        """The history of each behaviour pooled for the target, (B, D), before the map of its values."""
        if not self.folded.attentions:
            return [pool(*interest) for pool, interest in zip(self.network.attentions, interests, strict=True)]
        pooled = []
        for attention, (target_BD, history) in zip(self.folded.attentions, interests, strict=True):
            assert isinstance(history, JaggedHistory)
            with self.precision.layers():
                query_BD = linear(target_BD, attention.key.weight.t())  # type: ignore[operator,union-attr]
                activation = str(attention.activation)
                pooled.append(
                    attend(
                        query_BD,
                        history.items_UD,
                        history.slots,
                        activation=activation,
                        bias_N=attention.of_cosines(history.cosines_NE),  # type: ignore[operator]
                        events=history.events,
                    )
                )
        return pooled

    def _of_histories(self, target_BD: Tensor, pooled: Sequence[Tensor]) -> Sequence[Tensor]:
        """The columns of x that are read of histories, for a block of rows."""
        if not self.folded.attentions:
            return pooled
        return [
            linear(pooled_BD, attention.value.weight) + target_BD  # type: ignore[arg-type,union-attr]
            for attention, pooled_BD in zip(self.folded.attentions, pooled, strict=True)
        ]


class LayersOfRows:
    """The quadratic layers, the first one in two parts: a product with some columns of x, and rows looked up.

    Args:
        trained: parts of the model.
        interaction: its layers, folded.

    Attributes:
        table_VF: what the map of the first layer makes of every value of the features that are looked up, one feature
            below the other; None where no context feature has few values.
    """

    def __init__(self, trained: TrainedParts, interaction: FoldedQuadratic) -> None:
        self.interaction, network = interaction, trained.network
        self.first, *self.others = interaction.blocks()
        self.starts: dict[str, int] = {}
        self.table_VF: Tensor | None = None
        rest, tables, column, start = [], [], 0, 0
        for name in trained.fields.context:
            spec, width = trained.specs[name], network.widths[name]
            columns = slice(column, column + width)
            if spec["type"] == "categorical" and spec["vocab_size"] <= LOOKED_UP:
                values = torch.arange(spec["vocab_size"], device=trained.table.device)
                vectors_Vd = network.embedding_layer.embedding_layer({name: values})[name]
                tables.append(F.linear(vectors_Vd, self.first.weight[:, columns]))
                self.starts[name] = start
                start += len(values)
            else:
                rest.append(columns)
            column += width
        rest.append(slice(column, self.first.weight.shape[1]))
        self.rest = rest
        if tables:
            tables[0] += self.first.bias  # every row has one value of the first feature
            self.table_VF = torch.cat(tables)
            self.weight_of_rest = torch.cat([self.first.weight[:, columns] for columns in rest], dim=1)

    def __call__(self, x_BF: Tensor, columns: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Logits (B, 1) of a block of rows; `columns` are of all rows."""
        if self.table_VF is None:
            x_BF = FoldedBlock.run([self.first, *self.others], x_BF)
            return self.interaction.out(x_BF)
        codes_Bf = torch.stack([columns[name][rows].long() + start for name, start in self.starts.items()], dim=1)
        z_BF = F.embedding_bag(codes_Bf, self.table_VF, mode="sum")
        rest = [x_BF[:, part] for part in self.rest]
        add_product(z_BF, rest[0] if len(rest) == 1 else torch.cat(rest, dim=1), self.weight_of_rest.t())
        x_BF = FoldedBlock.run(self.others, self.first.behind(z_BF, x_BF))
        return self.interaction.out(x_BF)
