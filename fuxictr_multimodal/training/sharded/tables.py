"""The large tables of a model, spread over the processes of its training, in place of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from fuxictr.pytorch.layers import FeatureEmbeddingDict
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import get_regularizer
from torch import Tensor, nn

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.torch_files import check_values, is_finite
from fuxictr_multimodal.training.sharded.embedding import ShardedEmbedding
from fuxictr_multimodal.training.sharded.row_updates import UPDATES
from fuxictr_multimodal.training.sharded.stand_ins import rows_of
from fuxictr_multimodal.training.sharded.steps import TableSteps
from fuxictr_multimodal.training.sharded.table import ShardedTable
from fuxictr_multimodal.training.sharded.whole import whole_table

# Optimizers of torch whose updates tables have too, by the name that the updates have.
_OF_MODELS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad}


class ShardedTables:
    """Replaces the tables of at least `min_rows` rows of a model, whose rows the ranks hold from then on.

    Args:
        model: compiled, the same on all ranks; the weights of its tables become those of the sharded ones. Its
            optimizer updates them from then on with each of its steps.
        min_rows: tables with fewer rows stay as they are, a copy on each rank.
        updates: one of `UPDATES`; None for that of the model's optimizer.
        seed: of the run, for tables that are too large for a process.
        group: the processes.
        local_size: processes of the group on this machine.

    Attributes:
        tables: by the name of the feature whose table it is.
        large: those of them that are too large for a process, see `stand_ins.py`.
        names: of each weight of the model that is a table: the name of that.

    Raises:
        ConfigError: no table has so many rows, the optimizer of the model has no counterpart, or torchrec is not
            installed.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        min_rows: int,
        updates: str | None = None,
        seed: int,
        group: dist.ProcessGroup,
        local_size: int,
    ) -> None:
        chosen = {name: table for name, table in tables_of(model).items() if rows_of(table) >= min_rows}
        if not chosen:
            rows = {name: rows_of(table) for name, table in tables_of(model).items()}
            raise ConfigError(
                f"shard_min_rows={min_rows}, but no embedding table has so many rows: the tables have {rows}; lower "
                "shard_min_rows, or leave it out"
            )
        self.updates = updates or _updates_of(model.optimizer)
        self._order = list(model.state_dict())
        weights = {id(table.weight): name for name, table in chosen.items()}
        self.names: dict[str, str] = {
            path: weights[id(weight)]
            for path, weight in model.state_dict(keep_vars=True).items()
            if id(weight) in weights
        }
        self.tables: dict[str, ShardedTable] = {}
        self.large: dict[str, ShardedTable] = {}
        layers: list[ShardedEmbedding] = []
        for name, table in chosen.items():
            sharded = self.tables[name] = ShardedTable(
                name,
                rows=rows_of(table),
                width=table.embedding_dim,
                padding=table.padding_idx,
                updates=self.updates,
                group=group,
                local_size=local_size,
                device=table.weight.device,
            )
            if rows_of(table) == table.num_embeddings:
                sharded.take_rows(table.weight.detach())
            else:
                self.large[name] = sharded
                sharded.draw_rows(table.initializer, seed)  # type: ignore[arg-type]
            sharded.names = [path for path, its in self.names.items() if its == name]
            layers.append(ShardedEmbedding(sharded))
            _replace(model, table, layers[-1])
        for part in model.optimizer.param_groups:
            part["params"] = [weight for weight in part["params"] if id(weight) not in weights]
        for weight in [weight for weight in model.optimizer.state if id(weight) in weights]:
            del model.optimizer.state[weight]
        TableSteps(layers, model.optimizer, get_regularizer(model._embedding_regularizer), group)
        logging.info(
            "Sharded tables: rows %s over %d processes, updated by %s",
            {name: table.rows for name, table in self.tables.items()},
            dist.get_world_size(group),
            self.updates,
        )

    def weights(self, model: BaseModel) -> dict[str, Tensor]:
        """The weights of the model with the whole tables under their names, in the order that it had before.

        All ranks call it. Large tables are left out, and on others than rank 0 all are.
        """
        tables = {name: table for name, table in self.tables.items() if name not in self.large}
        whole = {name: weight for name, table in tables.items() if (weight := whole_table(table)) is not None}
        own = {**model.state_dict(), **{path: whole[name] for path, name in self.names.items() if name in whole}}
        return {path: own[path] for path in self._order if path in own}

    def take_weights(self, weights: Mapping[str, Tensor], path: Path, *, remedy: str) -> dict[str, Tensor]:
        """Take up the rows of this rank from whole tables; the other weights are returned.

        Args:
            weights: of an unsharded model of this kind.
            path: their file, for errors.
            remedy: what the user can do.

        Raises:
            DataError: a table is missing, of another shape or not finite.
        """
        rest = dict(weights)
        for place, name in self.names.items():
            if name in self.large:
                continue
            table, weight = self.tables[name], rest.pop(place, None)
            if weight is None:
                raise DataError(f"{path} lacks the weight {place!r} that the model has: {remedy}")
            if weight.shape != (table.rows, table.width):
                raise DataError(
                    f"{path}: the weight {place!r} has shape {tuple(weight.shape)}, but the model needs "
                    f"{(table.rows, table.width)}: {remedy}"
                )
            check_values(place, weight, table.weight, path, remedy=remedy)
            table.take_rows(weight)
        return rest

    def resume_window(self) -> None:
        """Let the gradients that a state had wait for the end of their window."""
        for table in self.tables.values():
            table.waiting, table.resumed = table.resumed, None

    def all_finite(self) -> bool:
        """Whether all rows of this rank are."""
        return all(is_finite(table.weight) for table in self.tables.values())


def tables_of(model: nn.Module) -> dict[str, nn.Embedding]:
    """The tables of a model's embedding layers by the name of the first feature that has it.

    The same feature may have several, in several layers; the further ones are numbered. Tables whose vectors are
    pretrained are left out.
    """
    found: dict[str, nn.Embedding] = {}
    seen: set[int] = set()
    for layer in model.modules():
        if not isinstance(layer, FeatureEmbeddingDict):
            continue
        for feature, table in layer.embedding_layers.items():
            if type(table) is not nn.Embedding or id(table) in seen:
                continue
            seen.add(id(table))
            number = 1
            while (name := feature if number == 1 else f"{feature} {number}") in found:
                number += 1
            found[name] = table
    return found


def _updates_of(optimizer: torch.optim.Optimizer) -> str:
    """The updates that are those of an optimizer.

    Raises:
        ConfigError: it has no counterpart.
    """
    for name, kind in _OF_MODELS.items():
        if isinstance(optimizer, kind) and not isinstance(optimizer, torch.optim.AdamW):
            return name
    raise ConfigError(
        f"shard_min_rows: optimizer {type(optimizer).__name__} has no counterpart for sharded tables: set optimizer to "
        f"one of {', '.join(kind.__name__ for kind in _OF_MODELS.values())}, or sharded_update to one of "
        f"{', '.join(UPDATES)}"
    )


def _replace(model: nn.Module, table: nn.Embedding, stand_in: nn.Module) -> None:
    """Put another module in place of a table, wherever it is used."""
    for module in list(model.modules()):
        for key, child in module._modules.items():
            if child is table:
                module._modules[key] = stand_in
    # What QIN updates row by row itself.
    own = getattr(model, "rowwise_tables", {})
    for key in [key for key, child in own.items() if child is table]:
        del own[key]
