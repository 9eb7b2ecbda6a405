"""Published encoders by their name on Hugging Face, through sentence-transformers, to be scored beside our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fuxictr_multimodal.errors import ConfigError


def load_published(name: str, *, device: str = "cpu") -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Texts to vectors of length 1 by a published encoder; each distinct text is encoded once.

    Code that comes with a model is not run.

    Raises:
        ConfigError: if sentence-transformers is not installed, or the model can be neither found nor fetched.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(
            f"published encoder {name!r} needs sentence-transformers: pip install fuxictr-multimodal[embedding]"
        ) from None
    try:
        model = SentenceTransformer(name, device=device, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"published encoder {name!r} is not on this machine and could not be fetched: {reason}"
        ) from None

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
        return model.encode(distinct.tolist(), normalize_embeddings=True, show_progress_bar=False)[where]

    return embed
