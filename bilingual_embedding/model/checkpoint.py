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
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import replace_atomically, write_json
from fuxictr_multimodal.system.torch_files import check_weights, first_line
from fuxictr_multimodal.system.untrusted.json_files import read_json_file

CONFIG, WEIGHTS, MODULES_FILE = "config.json", "model.safetensors", "modules.json"
# A parameter takes 4 bytes in the file, 2 in half precision; the pooler, which is counted, may be missing there.
MOST_PARAMETERS_A_BYTE, ROOM_PARAMETERS = 1, 10_000_000
FILES = (CONFIG, WEIGHTS, MODULES_FILE, FILE_NAME)
REMEDY = "train the stage again, or copy the whole folder again"
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
    weights = read_weights(folder / WEIGHTS)
    try:
        config = EncoderConfig(**read_json_file(folder / CONFIG))
        _check_size(config, folder / WEIGHTS)
    except (ConfigError, ValueError, TypeError, OSError) as error:
        raise DataError(f"{folder / CONFIG} is not an encoder's configuration: {first_line(error)}") from None
    encoder = Encoder(config, backend=backend, gradient_checkpointing=gradient_checkpointing)
    remedy = f"it does not fit {folder / CONFIG}; {REMEDY}"
    encoder.load_state_dict(check_weights(weights, encoder, folder / WEIGHTS, remedy=remedy))
    tokenizer = BilingualTokenizer.read(folder)
    # The numbers of tokens need not be without gaps.
    tokens = max(tokenizer.fast.get_vocab().values(), default=-1) + 1
    if tokens > config.vocabulary_size:
        raise DataError(
            f"{folder / FILE_NAME} has {tokens} tokens, but {folder / CONFIG} has rows for "
            f"{config.vocabulary_size}: they are of different encoders; copy the whole folder again"
        )
    return encoder.eval(), tokenizer.for_encoder(config)


def _check_size(config: EncoderConfig, weights: Path) -> None:
    """Refuse a configuration that would allocate more than its weights take."""
    if config.parameters > MOST_PARAMETERS_A_BYTE * weights.stat().st_size + ROOM_PARAMETERS:
        raise ValueError(f"it describes {config.parameters:,} weights, more than {weights} has room for")


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; its header says sizes, which the library checks against the file's.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{file} cannot be read ({first_line(error)}): {REMEDY}") from None


def save_weights(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with replace_atomically(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
