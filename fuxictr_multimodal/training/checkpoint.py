"""The weights of a FuxiCTR model, written atomically, read without running code from the file, and checked."""

from __future__ import annotations

from pathlib import Path

import torch
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.system.ranks import current
from fuxictr_multimodal.system.torch_files import check_weights, named_tensors, read_torch
from fuxictr_multimodal.training.sharded.large_weights import fill_whole, read_large, remove_older, write_large

REMEDY = "copy the file again, or train again with --overwrite"


def save_checkpoint(model: BaseModel) -> None:
    """Write the weights to `model.checkpoint`; an interrupted write leaves the older file.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(model.checkpoint)
    tables = getattr(model, "sharded_tables", None)
    weights = model.state_dict() if tables is None else {**tables.weights(model), **write_large(tables, path)}
    if not current().first:
        return
    make_folder(path.parent)
    # A path would give the archive inside the file a name of this process; an open file gives it none.
    with replace_atomically(path) as temporary, temporary.open("wb") as file:
        torch.save(weights, file)
    remove_older(path, weights)


def load_checkpoint(model: BaseModel, *, remedy: str = REMEDY) -> None:
    """Load `model.checkpoint`; tensors only, no code from the file is run.

    Raises:
        DataError: the file is missing or damaged, or a weight does not fit the model or is not finite.
    """
    path = Path(model.checkpoint)
    tables = getattr(model, "sharded_tables", None)
    found = read_torch(path, device=model.device if tables is None else "cpu", remedy=remedy)
    weights = named_tensors(found, path, remedy=remedy)
    if tables is None:
        fill_whole(weights, model, path, remedy=remedy)
    else:
        read_large(tables, weights, path, remedy=remedy)
        weights = tables.take_weights(weights, path, remedy=remedy)
    model.load_state_dict(check_weights(weights, model, path, remedy=remedy))
