"""Setup of a training stage: its encoder and tokenizer, and the steps on its sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bilingual_embedding.data.sources import ExperimentData, train_tokenizer
from bilingual_embedding.model.checkpoint import load_encoder
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.presets import preset
from bilingual_embedding.model.tokenizer import FILE_NAME, BilingualTokenizer
from bilingual_embedding.training.distillation import Lesson, TeacherVectors, TokenizedLesson
from bilingual_embedding.training.masking import MaskedLanguageModel
from bilingual_embedding.training.settings import Experiment, MaskedSettings, MultitaskSettings, PairsSettings
from bilingual_embedding.training.stages import (
    Machine,
    TakeStep,
    TokenizedPairs,
    masked_steps,
    multitask_steps,
    pairs_steps,
    tokens_of,
)

WHOLE = 1 << 30  # more tokens than any text has


def kept_encoder(folder: Path, experiment: Experiment) -> tuple[Encoder, BilingualTokenizer]:
    """The encoder that a stage left in its folder, on the CPU, and its tokenizer."""
    return load_encoder(folder, backend=experiment.backend, gradient_checkpointing=experiment.gradient_checkpointing)


def fresh_tokenizer(
    folder: Path, experiment: Experiment, data: ExperimentData, *, progress: bool
) -> BilingualTokenizer:
    """The tokenizer of a run that starts fresh: the one in its folder, else one that is trained and written there."""
    if (folder / FILE_NAME).is_file():
        return BilingualTokenizer.read(folder)
    size = preset(experiment.preset).vocabulary_size
    tokenizer = train_tokenizer(experiment, data, size, progress=progress)
    tokenizer.write(folder)
    return tokenizer


def fresh_encoder(experiment: Experiment, tokenizer: BilingualTokenizer, data: ExperimentData) -> Encoder:
    """An encoder with random weights, the same for one seed, on the CPU; its frequencies are those of the texts."""
    torch.manual_seed(experiment.seed)
    encoder = Encoder.from_preset(
        experiment.preset,
        vocabulary_size=tokenizer.vocabulary_size,
        dropout=experiment.dropout,
        positions=experiment.positions,
        backend=experiment.backend,
        gradient_checkpointing=experiment.gradient_checkpointing,
    )
    if encoder.log_token_weight is None and encoder.ngrams is None:
        return encoder
    texts = data.texts(list(dict.fromkeys(experiment.trained_on())))
    if encoder.log_token_weight is not None:
        encoder.start_weights(tokenizer.encode(texts, max_length=encoder.config.max_length))
    hasher = tokenizer.for_encoder(encoder.config).hasher
    if encoder.ngrams is not None and hasher is not None:
        encoder.ngrams.start_as_tfidf(hasher.hash(texts, max_words=WHOLE), seed=experiment.seed)
    return encoder


def described_tokenizer(tokenizer: BilingualTokenizer, experiment: Experiment, data: ExperimentData) -> dict[str, Any]:
    """What the report says of a tokenizer: its size, and tokens per word of each language that is read."""
    # All languages that are read, even if the vocabulary is learnt from one of them only.
    read = [*experiment.tokenizer.sources, *(experiment.mlm.sources if experiment.mlm else ())]
    read += experiment.pairs.rates if experiment.pairs else ()
    languages = data.by_language(list(dict.fromkeys(read)))
    return {
        "vocabulary_size": tokenizer.vocabulary_size,
        "tokens_per_word": {language: tokenizer.fertility(texts) for language, texts in languages.items()},
    }


def stage_steps(
    settings: MaskedSettings | PairsSettings | MultitaskSettings,
    encoder: Encoder,
    tokenizer: BilingualTokenizer,
    data: ExperimentData,
    experiment: Experiment,
    *,
    precision: str,
    progress: bool,
    teacher: TeacherVectors | None = None,
) -> tuple[nn.Module, TakeStep]:
    """What a stage trains, and its steps.

    Args:
        settings: of the stage.
        encoder: on the device where it is trained.
        tokenizer: of the encoder.
        data: sources by name.
        experiment: what the stages share.
        precision: of the encoder, `float32` or `bfloat16`.
        progress: show it, where preparing takes long.
        teacher: of the tasks that are distilled, if there are any.

    Returns:
        The model, the encoder itself but for `mlm`, and a function that adds the gradients of a step by its number.
    """
    machine = Machine(experiment.memory_tokens, precision, experiment.seed, progress=progress)
    if isinstance(settings, MaskedSettings):
        table = tokens_of(tokenizer, data.texts(settings.sources), max_length=WHOLE, progress=progress)
        model = MaskedLanguageModel(encoder).to(encoder.device)
        return model, masked_steps(model, table.windows(settings.max_length), settings, machine)
    if isinstance(settings, PairsSettings):
        sources = [
            TokenizedPairs(data.source(name).need_pairs(), tokenizer, settings.max_length, progress=progress)
            for name in settings.rates
        ]
        return encoder, pairs_steps(encoder, sources, settings, machine)
    tasks: dict[str, TokenizedPairs | TokenizedLesson] = {}
    for name, task in settings.tasks.items():
        source = data.source(task.source)
        if task.kind == "distil":
            assert teacher is not None
            lesson = Lesson.of(source)
            sides = [
                tokens_of(tokenizer, side, max_length=settings.max_length, progress=progress) for side in lesson.sides
            ]
            tasks[name] = TokenizedLesson(sides, teacher.of(lesson.taught))
            continue
        texts = source.need_scored() if task.kind == "sts" else source.need_pairs()
        tasks[name] = pairs = TokenizedPairs(texts, tokenizer, settings.max_length, progress=progress)
        if task.kind == "retrieval" and pairs.negatives is None and settings.negatives:
            pairs.mine(encoder, settings.negatives, machine)
    return encoder, multitask_steps(encoder, tasks, settings, machine)
