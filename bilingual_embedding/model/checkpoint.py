"""Save and load a trained encoder: `config.json`, `model.safetensors`, `tokenizer.json`; no file can run code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.presets import EncoderConfig
from bilingual_embedding.model.tokenizer import FILE_NAME, BilingualTokenizer
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import replace_atomically, write_json
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

CONFIG, WEIGHTS, MODULES_FILE = "config.json", "model.safetensors", "modules.json"
# A parameter takes 4 bytes in the file, 2 in half precision; the pooler, which is counted, may be missing there.
MOST_PARAMETERS_A_BYTE, ROOM_PARAMETERS = 1, 10_000_000
FILES = (CONFIG, WEIGHTS, MODULES_FILE, FILE_NAME)
# This file tells sentence-transformers which module reads the folder.
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "bilingual_embedding.sentence_transformers_module.BilingualModule"}
]


def save_encoder(folder: Path, encoder: Encoder, tokenizer: BilingualTokenizer) -> None:
    """Write the three files, the weights last: a folder without weights is not a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    write_json(folder / CONFIG, dataclasses.asdict(encoder.config))
    write_json(folder / MODULES_FILE, MODULES)
    tokenizer.write(folder)
    save_weights(folder / WEIGHTS, encoder.state_dict())


def load_encoder(
    folder: Path, *, backend: str = "auto", gradient_checkpointing: bool = False
) -> tuple[Encoder, BilingualTokenizer]:
    """Read what `save_encoder` wrote, on the CPU.

    Raises:
        DataError: naming the file that is missing or does not fit.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} does not exist: {folder} contains no trained encoder")
    try:
        config = EncoderConfig(**read_json_file(folder / CONFIG))
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / CONFIG} is not an encoder's configuration: {error}") from None
    size = (folder / WEIGHTS).stat().st_size
    if config.parameters > MOST_PARAMETERS_A_BYTE * size + ROOM_PARAMETERS:
        raise DataError(
            f"{folder / CONFIG} declares {config.parameters:,} parameters, but {folder / WEIGHTS} has {size:,} bytes"
        )
    encoder = Encoder(config, backend=backend, gradient_checkpointing=gradient_checkpointing)
    try:
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {str(error).splitlines()[0]}") from None
    return encoder.eval(), BilingualTokenizer.read(folder)


def save_weights(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with replace_atomically(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
