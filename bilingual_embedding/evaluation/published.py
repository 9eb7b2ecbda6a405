"""Published encoders by their name on Hugging Face or their folder, through sentence-transformers, beside our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilingual_embedding.model.checkpoint import MODULES
from fuxictr_multimodal.errors import ConfigError, InputError
from fuxictr_multimodal.system.untrusted.json_files import read_json_file


def load_published(
    name: str, *, device: str = "cpu", revision: str | None = None, progress: bool = False
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Texts to vectors of length 1 by a published encoder; each distinct text is encoded once.

    Code that comes with a model is not run. A folder of one of our own trained stages works too.

    Args:
        name: on Hugging Face, or a folder on this machine.
        device: of torch.
        revision: the commit of a model on Hugging Face; by default the newest one.
        progress: show a bar while texts are encoded.

    Raises:
        ConfigError: if sentence-transformers is not installed, or the model can be neither found nor fetched.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(
            f"published encoder {name!r} needs sentence-transformers: pip install fuxictr-multimodal[embedding]"
        ) from None
    folder = Path(name).expanduser()
    try:
        if is_ours(folder):
            from bilingual_embedding.sentence_transformers_module import open_model

            model = open_model(folder, device=device)
        else:
            place = str(folder) if folder.exists() else name
            model = SentenceTransformer(place, device=device, revision=revision, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # the library passes on errors of the kinds of all that it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = "cannot be read" if folder.exists() else "is not on this machine and could not be fetched"
        raise ConfigError(f"published encoder {name!r} {what}: {reason}") from None

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
        vectors = model.encode(distinct.tolist(), normalize_embeddings=True, show_progress_bar=progress)
        return vectors.astype(np.float32)[where]

    return embed


def is_ours(folder: Path) -> bool:
    """Whether the folder's modules are ours, which the library takes for foreign code."""
    try:
        modules: Any = read_json_file(folder / "modules.json")
    except (OSError, ValueError):
        return False
    return modules == MODULES
