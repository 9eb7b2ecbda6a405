"""The weights of a FuxiCTR model, written atomically and read without running code from the file."""

from __future__ import annotations

from pathlib import Path

import torch
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import make_folder, replace_atomically
from fuxictr_multimodal.training.state_file import DAMAGE, first_line


def save_checkpoint(model: BaseModel) -> None:
    """Write the weights to `model.checkpoint`; an interrupted write leaves the older file.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(model.checkpoint)
    make_folder(path.parent)
    with replace_atomically(path) as temporary:
        model.save_weights(str(temporary))


def load_checkpoint(model: BaseModel) -> None:
    """Load `model.checkpoint`; tensors only, no code from the file is run.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        weights = torch.load(model.checkpoint, map_location=model.device, weights_only=True)
    except DAMAGE as error:
        path, reason = model.checkpoint, first_line(error)
        raise DataError(f"{path} cannot be read ({reason}): train again with --overwrite") from None
    model.load_state_dict(weights)
