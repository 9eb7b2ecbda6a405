"""Checkpoints of tables that are too large for one tensor: their rows in a folder beside the model file.

`<run>.model` holds the other weights and the number of the folder `<run>.model.tables/<number>/`. A folder is complete
before the file that names it takes its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.sharded.numbered import NumberedFolders
from fuxictr_multimodal.training.sharded.rows_files import read_rows, rows_in, write_rows
from fuxictr_multimodal.training.sharded.scattered import Scattered

if TYPE_CHECKING:
    from fuxictr_multimodal.training.sharded.tables import ShardedTables

# In the model file, beside the names of weights.
KEY = "rows of large tables"


def write_large(tables: ShardedTables, path: Path) -> dict[str, Tensor]:
    """Write the large tables beside a model file that is to be written; all ranks call it.

    Returns:
        What the file has to hold of them; nothing if there are none.

    Raises:
        Unwritable: on all ranks, if one of them cannot write.
    """
    if not tables.large:
        return {}
    number = _folders(path).following()
    write_rows(_folders(path).path(number), tables.large, states=False)
    return {KEY: torch.tensor(number)}


def remove_older(path: Path, weights: dict[str, Tensor]) -> None:
    """A model file is in its place: remove the rows of earlier ones."""
    _folders(path).remove_but(int(weights.get(KEY, torch.tensor(-1))))


def read_large(tables: ShardedTables, weights: dict[str, Tensor], path: Path, *, remedy: str) -> None:
    """Give this rank its rows of the large tables of a model file, whose number is taken out of the weights.

    Raises:
        DataError: rows are missing or damaged.
    """
    number = weights.pop(KEY, None)
    if not tables.large:
        return
    if number is None:
        raise DataError(f"{path} lacks the rows of {', '.join(tables.large)}: {remedy}")
    read_rows(_folders(path).path(int(number)), tables.large, states=False, remedy=remedy)


@torch.no_grad()
def fill_whole(weights: dict[str, Tensor], model: nn.Module, path: Path, *, remedy: str) -> None:
    """Read the large tables of a model file into a model that has them whole, and add them to the weights.

    Args:
        weights: of the file; changed.
        model: not sharded.
        path: of the file.
        remedy: what the user can do.

    Raises:
        DataError: rows are missing or damaged, or do not fit the model.
    """
    number = weights.pop(KEY, None)
    if number is None:
        return
    own = model.state_dict()
    for file, _, content in rows_in(_folders(path).path(int(number)), remedy):
        scattered, rows = Scattered(content["rows"]), content["weight"]
        ids = scattered.ids_of(range(content["first"], content["first"] + len(rows)))
        for place in content["names"]:
            target = own.get(place)
            if target is None or len(target) != content["rows"]:
                raise DataError(f"{file}: the model has no table {place!r} of {content['rows']:,} rows: {remedy}")
            target[ids.to(target.device)] = rows[:, : target.shape[1]].to(target.device)
            weights[place] = target


def _folders(path: Path) -> NumberedFolders:
    return NumberedFolders(path.with_name(f"{path.name}.tables"))
