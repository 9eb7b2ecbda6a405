"""An encoder by its name: a run of `run_embedding.py`, a folder, or a model of sentence-transformers."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bilingual_embedding.evaluation.published import is_ours, load_published
from bilingual_embedding.model.checkpoint import CONFIG, MODULES_FILE, WEIGHTS, load_encoder
from bilingual_embedding.training.settings import STAGES, Experiment
from bilingual_embedding.vectors.encoding import embedding_of
from fuxictr_multimodal.config.user_paths import user_path
from fuxictr_multimodal.errors import ConfigError, DataError, InputError, nearest
from fuxictr_multimodal.system.files import sha256

MODEL_ROOT = Path(Experiment.model_fields["model_root"].default)
# A part of every fingerprint: raise it when the same weights come to give other vectors.
ENCODING = "1"
SECONDS_TO_ANSWER = 10


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder that was found, and is not loaded yet.

    Attributes:
        kind: `run` (a trained stage of ours) or `sentence-transformers`.
        place: the folder of its weights, or its name on Hugging Face.
        revision: the commit of a model on Hugging Face; None for a folder.
        fingerprint: 32 hex digits; encoders of one fingerprint give the same vectors.
    """

    kind: Literal["run", "sentence-transformers"]
    place: str
    revision: str | None
    fingerprint: str

    def load(self, *, progress: bool = False) -> Callable[[Sequence[str]], NDArray[np.float32]]:
        """Texts (N) to vectors (N, D) of length 1, in float32 on the CPU.

        Raises:
            InputError: its files are damaged, cannot be fetched, or are others than when it was found.
        """
        if self.kind == "run":
            embed = embedding_of(*load_encoder(Path(self.place)), progress=progress)
        else:
            embed = load_published(self.place, revision=self.revision, progress=progress)
        if self.revision is None and fingerprint(Path(self.place)) != self.fingerprint:
            raise DataError(f"encoder {self.place} was written while it was about to be used: build again")
        return embed


def find_encoder(name: str, *, model_root: Path = MODEL_ROOT) -> NamedEncoder:
    """Find an encoder as `find_local` does, else by its name on Hugging Face.

    Of a model that was fetched before, the revision on this machine is taken, without a look at the network.

    Raises:
        ConfigError: there is none; the text lists what was tried.
    """
    found = find_local(name, model_root=model_root)
    if found is not None:
        return found
    reason = "it is written as a path"
    if not name.startswith((".", "~", os.sep)):
        try:
            place, revision = _on_hub(name)
            print_of = _combined([f"huggingface {place}@{revision}"])
            return NamedEncoder("sentence-transformers", place, revision, print_of)
        except Exception as error:  # the libraries pass on errors of the network, of names and of files
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    runs = [path.name for path in model_root.iterdir() if last_stage(path)] if model_root.is_dir() else []
    hint = nearest(name, ["tfidf", *runs])
    raise ConfigError(
        f"encoder {name!r} is not `tfidf`, not a trained run in {model_root}, not a folder, and not a model that "
        f"sentence-transformers finds ({reason.rstrip('. ')}). {hint}".rstrip()
    )


def find_local(name: str, *, model_root: Path = MODEL_ROOT) -> NamedEncoder | None:
    """Find an encoder on this machine: the last trained stage of a run, or a folder; None where there is neither.

    Args:
        name: expid of a run, `<expid>_s<seed>` with a seed; or a path: of a run, of a stage, or of a model of
            sentence-transformers.
        model_root: folder of the runs.

    Raises:
        ConfigError: there is such a folder, but no encoder in it.
    """
    folders = [folder for folder in (model_root / name, user_path(name)) if folder.is_dir()]
    if not folders:
        return None
    for folder in folders:
        stage = last_stage(folder) or (folder if is_ours(folder) else None)
        if stage is not None:
            return NamedEncoder("run", str(stage), None, fingerprint(stage))
    folder = folders[-1]
    if any((folder / file).is_file() for file in (MODULES_FILE, CONFIG)):
        return NamedEncoder("sentence-transformers", str(folder), None, fingerprint(folder))
    raise ConfigError(
        f"encoder {name!r}: the folder {folder} contains no trained stage and no model of sentence-transformers: train "
        "it with run_embedding.py, or name another one"
    )


def last_stage(run: Path) -> Path | None:
    """Folder of the last trained stage of a run; None where none is trained."""
    return next((run / stage for stage in reversed(STAGES) if (run / stage / WEIGHTS).is_file()), None)


def fingerprint(folder: Path) -> str:
    """32 hex digits of the contents of a folder's files, wherever it lies; what is hidden or Markdown does not count.

    Raises:
        ConfigError: a file cannot be read.
    """
    try:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        kept = [name for name in sorted(files) if not name.endswith(".md") and not f"/{name}".count("/.")]
        return _combined([f"{name} {sha256(files[name])}" for name in kept])
    except OSError as error:
        raise ConfigError(f"encoder {str(folder)!r} cannot be read: {error.strerror or error}") from None


def _combined(parts: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join([ENCODING, *parts]).encode(), digest_size=16).hexdigest()


def _on_hub(name: str) -> tuple[str, str]:
    """Full name and revision of a model on Hugging Face.

    Raises:
        InputError: the libraries are not installed.
        Exception: as huggingface_hub, of the last name that was tried.
    """
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
    except ImportError:
        raise InputError("its packages are missing: pip install 'fuxictr-multimodal[embedding]'") from None
    # As sentence-transformers does with names of its own models.
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    for full in names:
        for file in (MODULES_FILE, CONFIG):
            known = try_to_load_from_cache(full, file, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"))
            if isinstance(known, str):
                return full, Path(known).parent.name
    for full in names:
        logging.info("asking Hugging Face for %s", full)
        try:
            revision = HfApi().model_info(full, timeout=SECONDS_TO_ANSWER).sha
            if revision is not None:
                return full, revision
        except Exception:
            if full == names[-1]:
                raise
    raise InputError("Hugging Face names no revision of it")
