"""The sources of an experiment, read once; evaluation texts are removed from training sources, and rows are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bilingual_embedding.data.cleaning import clean, keys
from bilingual_embedding.data.readers import read_source
from bilingual_embedding.data.texts import Source
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.training.settings import Experiment
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.progress import followed, waiting


def read_evaluation(experiment: Experiment) -> list[Source]:
    """The evaluation sources, unchanged; the one for masked words comes last."""
    names = experiment.evaluation.held_out if experiment.evaluation else ()
    return [_read(experiment, name) for name in names]


def _read(experiment: Experiment, name: str) -> Source:
    settings, root = experiment.data[name], Path(experiment.data_root)
    try:
        return read_source(name, settings, root)
    except DataError as error:
        if experiment.obtain and not all((root / path).exists() for path in settings.paths):
            raise DataError(f"{error}. {' '.join(experiment.obtain.split())}") from None
        raise


class ExperimentData:
    """Sources by name, read on construction. `counts` are those of the cleaning, for the report."""

    def __init__(self, experiment: Experiment, *, progress: bool = False) -> None:
        held_out = read_evaluation(experiment)
        scored = len(experiment.evaluation.sources) if experiment.evaluation else 0
        self.evaluation, self.masked = held_out[:scored], next(iter(held_out[scored:]), None)
        evaluated = {source.name for source in held_out}
        forbidden = keys(text for source in held_out for column in source.texts.values() for text in column)
        self.counts: dict[str, dict[str, dict[str, int]]] = {}
        self._training: dict[str, Source] = {}
        training = [name for name in experiment.data if name not in evaluated]
        for name in followed(training, total=len(training), what="reading and cleaning", unit="source", shown=progress):
            self._training[name], counts = clean(_read(experiment, name), forbidden)
            self.counts[name] = {kind: dataclasses.asdict(count) for kind, count in counts.items()}

    def source(self, name: str) -> Source:
        """A cleaned training source."""
        return self._training[name]

    def texts(self, names: Sequence[str]) -> list[str]:
        """Distinct texts of some training sources, in order."""
        columns = [column for name in names for column in self._training[name].texts.values()]
        return list(dict.fromkeys(text for column in columns for text in column))

    def by_language(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Texts of some training sources by language."""
        found: dict[str, list[str]] = {}
        for name in names:
            for language, column in self._training[name].texts.items():
                found.setdefault(language, []).extend(column)
        return found


def train_tokenizer(
    experiment: Experiment, data: ExperimentData, vocabulary_size: int, *, progress: bool = False
) -> BilingualTokenizer:
    """The experiment's tokenizer; pairs of two languages measure the compression for `parity`."""
    settings = experiment.tokenizer
    aligned: dict[str, list[str]] = {}
    for name in settings.sources:
        source = data.source(name)
        if source.pairs is not None and len(source.texts) == 2:
            for language, side in zip(source.texts, (source.pairs.left, source.pairs.right), strict=True):
                aligned.setdefault(language, []).extend(side)
    texts = data.by_language(settings.sources)
    with waiting(f"tokenizer of {sum(map(len, texts.values())):,} texts", shown=progress):
        return BilingualTokenizer.train(
            texts,
            vocabulary_size=settings.vocabulary_size or vocabulary_size,
            method=settings.method,
            aligned_texts_by_language=aligned if set(aligned) == set(texts) else None,
            lower=settings.lower,
        )
