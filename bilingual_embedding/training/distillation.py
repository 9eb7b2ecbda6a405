"""Distillation: what a published encoder, the teacher, says of training texts, and which texts learn it.

As in arXiv 2004.09813 the teacher's vector of the English sentence is the target of both languages' sentences. The
loss, `losses.distillation_loss`, compares cosines within a batch, so that student and teacher may differ in width.

NOTE[DIFF]: there the target is the vector itself, by mean squared error. Scores of an encoder are functions of cosines,
and any rotation of the teacher's space has the same; a student of another width could learn a projection only, which
would have to be fitted and kept with the model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bilingual_embedding.data.sources import ExperimentData
from bilingual_embedding.data.texts import ENGLISH, Source
from bilingual_embedding.evaluation.published import load_published
from bilingual_embedding.evaluation.scores import Embed
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training.settings import MultitaskSettings
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import replace_atomically
from fuxictr_multimodal.system.progress import Line
from fuxictr_multimodal.system.torch_files import first_line

TEXTS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Lesson:
    """Texts of one source: row i of each side learns the teacher's vector of `taught[i]`."""

    sides: list[list[str]]
    taught: list[str]

    @classmethod
    def of(cls, source: Source) -> Lesson:
        """Pairs learn from their English side, the left one where none is English; other texts from themselves."""
        if source.pairs is None:
            texts = list(dict.fromkeys(text for column in source.texts.values() for text in column))
            return cls([texts], texts)
        sides = [source.pairs.left, source.pairs.right]
        *_, right = source.texts
        return cls(sides, sides[1] if right in ENGLISH else sides[0])


@dataclass(frozen=True)
class TokenizedLesson:
    """A lesson as tokens, one table a side, with the teacher's vectors (N, D) of its rows."""

    sides: list[TokenTable]
    teacher_ND: Tensor

    def __len__(self) -> int:
        return len(self.teacher_ND)

    def batch(self, rows: NDArray[np.int64]) -> tuple[TokenTable, Tensor]:
        """Texts of some rows, side after side, and the teacher's vector of each."""
        table = TokenTable.joined([side.take(rows) for side in self.sides])
        return table, self.teacher_ND[rows].repeat(len(self.sides), 1)


class TeacherVectors:
    """Vectors of length 1 of all texts that the tasks of a stage are taught by, each distinct text once.

    Args:
        texts: N distinct texts.
        vectors_ND: their vectors.
    """

    def __init__(self, texts: Sequence[str], vectors_ND: NDArray[np.float32]) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors_ND = torch.from_numpy(vectors_ND)

    def of(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32, on the CPU."""
        return self._vectors_ND[[self._row[text] for text in texts]]

    @classmethod
    def prepare(
        cls, settings: MultitaskSettings, data: ExperimentData, file: Path, *, device: str, progress: bool = False
    ) -> TeacherVectors | None:
        """Read the vectors of a run from its file, or compute and write them; None where no task needs a teacher.

        Only cleaned training texts reach the teacher, never those that are evaluated on.

        Args:
            settings: of the stage.
            data: the sources.
            file: safetensors; one of another teacher or other texts, or a damaged one, is replaced.
            device: of torch.
            progress: show it while texts are encoded.

        Raises:
            ConfigError: the teacher can be neither found nor fetched, or its vectors are not finite.
        """
        names = dict.fromkeys(task.source for task in settings.tasks.values() if task.kind == "distil")
        if not names or settings.teacher is None:
            return None
        texts = list(dict.fromkeys(text for name in names for text in Lesson.of(data.source(name)).taught))
        # Lengths first: no two lists of texts have the same bytes.
        marked = "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "surrogatepass")
        about = {"teacher": settings.teacher, "texts": hashlib.sha256(marked).hexdigest()}
        vectors = _read(file, about, rows=len(texts))
        if vectors is None:
            vectors = _encoded(texts, load_published(settings.teacher, device=device), progress=progress)
            if not np.isfinite(vectors).all():
                raise ConfigError(f"teacher {settings.teacher!r} has vectors that are not finite; choose another one")
            with replace_atomically(file) as temporary:
                save_file({"vectors": np.ascontiguousarray(vectors)}, temporary, metadata=about)
        return cls(texts, vectors)


def _encoded(texts: Sequence[str], embed: Embed, *, progress: bool) -> NDArray[np.float32]:
    """Vectors (N, D) of texts, the longest first, so that the progress speeds up."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    parts = []
    with Line(len(texts), "teacher", unit="text", shown=progress) as line:
        for start in range(0, len(order), TEXTS_AT_A_TIME):
            rows = order[start : start + TEXTS_AT_A_TIME]
            parts.append(embed([texts[row] for row in rows]))
            line.update(len(rows))
    return np.concatenate(parts)[np.argsort(order)]


def _read(file: Path, about: dict[str, str], *, rows: int) -> NDArray[np.float32] | None:
    """Vectors (N, D) of a file about the same; None where there is none."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            if opened.metadata() != about:
                return None
            vectors = opened.get_tensor("vectors")
    except (SafetensorError, OSError, ValueError) as error:
        logging.warning("%s cannot be read (%s) and is computed again", file, first_line(error))
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows or not np.isfinite(vectors).all():
        logging.warning("%s does not hold %d vectors and is computed again", file, rows)
        return None
    return vectors
