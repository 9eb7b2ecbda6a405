"""The encoder as a module of sentence-transformers.

`open_model(<folder of a trained stage>)` loads it, and so does `SentenceTransformer(<folder>, trust_remote_code=True)`:
the folder's `modules.json` names the class below, and from version 6.2 on the library imports no class that is not its
own without that flag. The folder itself holds no code.
Needs the extra `embedding`: `pip install fuxictr-multimodal[embedding]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from torch.nn import functional

from bilingual_embedding.model.checkpoint import load_encoder, save_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.packing import Packed
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from fuxictr_multimodal.errors import DataError


class BilingualModule(InputModule):
    """Tokenizer, encoder, mean pooling and length 1 in one module; it reads texts and gives `sentence_embedding`."""

    def __init__(self, encoder: Encoder, tokenizer: BilingualTokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.bilingual_tokenizer = tokenizer
        self.tokenizer = tokenizer.fast
        self.max_seq_length = encoder.config.max_length

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Padded ids and mask, as the library's trainer and batching expect them, and n-grams, padded with -1."""
        table = self.bilingual_tokenizer.encode(
            [(prompt or "") + text for text in inputs], max_length=self.max_seq_length
        )
        rows = [torch.from_numpy(table.row(i)).long() for i in range(len(table))]
        ids_NL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths_N = torch.from_numpy(table.lengths)
        mask_NL = (torch.arange(ids_NL.shape[1]) < lengths_N[:, None]).long()
        features = {"input_ids": ids_NL, "attention_mask": mask_NL}
        if table.ngrams is not None:
            values, offsets = table.ngrams.values, table.ngrams.offsets
            parts = [torch.from_numpy(values[a:b]).long() for a, b in itertools.pairwise(offsets)]
            features["ngrams"] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` (N, D); the padding is taken off before the encoder."""
        packed = Packed.from_padded(features["input_ids"], features["attention_mask"], features.get("ngrams"))
        features["sentence_embedding"] = functional.normalize(self.encoder.embed(packed), dim=-1)
        return features

    def get_embedding_dimension(self) -> int:
        """Width of a vector."""
        return self.encoder.config.width

    def get_sentence_embedding_dimension(self) -> int:
        """The library's older name of `get_embedding_dimension`."""
        return self.encoder.config.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the folder that `load` reads; always safetensors."""
        save_encoder(Path(output_path), self.encoder, self.bilingual_tokenizer)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> BilingualModule:
        """Read a folder on this machine.

        Raises:
            DataError: if it is none; weights are not fetched from elsewhere.
        """
        folder = Path(model_name_or_path) / subfolder
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder on this machine; pass the path of a trained stage")
        return cls(*load_encoder(folder))


def open_model(folder: Path | str, *, device: str | None = None) -> SentenceTransformer:
    """A trained stage as a `SentenceTransformer`, without trust in remote code.

    Raises:
        DataError: if the folder holds no trained encoder.
    """
    return SentenceTransformer(modules=[BilingualModule.load(str(folder))], device=device)
