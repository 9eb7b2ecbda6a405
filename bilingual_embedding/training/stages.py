"""One training step of each stage: masked language modelling, pairs, multi-task.

Legend: B rows of a batch, N texts, D width. A batch's texts are one token table: left sides, right sides, negatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilingual_embedding.data.texts import Pairs, ScoredPairs
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.model.tokens import TokenTable
from bilingual_embedding.training import losses
from bilingual_embedding.training.distillation import TokenizedLesson
from bilingual_embedding.training.gradient_cache import autocast, backward_through
from bilingual_embedding.training.masking import MaskedLanguageModel, mask_words, masked_loss
from bilingual_embedding.training.mining import mine_negatives
from bilingual_embedding.training.sampling import RowBatches, SourceSchedule, TokenBatches
from bilingual_embedding.training.settings import MaskedSettings, MultitaskSettings, PairsSettings
from bilingual_embedding.training.stage_trainer import Step
from bilingual_embedding.vectors.encoding import encode_table
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.progress import Line

TakeStep = Callable[[int], Step]
TEXTS_AT_A_TIME = 8192


@dataclass(frozen=True)
class Machine:
    """How steps are computed: tokens with gradients at a time, precision, and the seed of all draws.

    `progress` shows that of what comes before the first step, where it takes long.
    """

    memory_tokens: int
    precision: str
    seed: int
    progress: bool = False


def tokens_of(
    tokenizer: BilingualTokenizer, texts: Sequence[str], *, max_length: int, progress: bool = False
) -> TokenTable:
    """`tokenizer.encode`, with its progress."""
    with Line(len(texts), "tokens", unit="text", shown=progress) as line:
        parts = []
        for start in range(0, max(len(texts), 1), TEXTS_AT_A_TIME):
            part = texts[start : start + TEXTS_AT_A_TIME]
            parts.append(tokenizer.encode(part, max_length=max_length))
            line.update(len(part))
    return TokenTable.joined(parts)


def masked_steps(model: MaskedLanguageModel, table: TokenTable, settings: MaskedSettings, machine: Machine) -> TakeStep:
    """Stage 1: guess the masked words of a batch of rows; a batch above the memory is added up in parts."""
    batches = TokenBatches(table.lengths, batch_tokens=settings.batch_tokens, seed=machine.seed)
    size = model.encoder.config.vocabulary_size

    def take_step(step: int) -> Step:
        rows = table.take(batches.batch(step))
        masked = mask_words(
            rows, np.random.default_rng((machine.seed, 2, step)), rate=settings.mask_rate, vocabulary_size=size
        )
        total = max(int(masked.chosen.sum()), 1)
        loss = torch.zeros((), device=model.encoder.device)
        for part in masked.parts(machine.memory_tokens):
            with autocast(model.encoder.device, machine.precision):
                logits_MV, targets_M = model(part)
            # Each part weighs as many masked tokens as it has.
            part_loss = masked_loss(logits_MV, targets_M) * (len(targets_M) / total)
            part_loss.backward()
            loss += part_loss.detach()
        return Step(loss, texts=len(rows), tokens=int(rows.offsets[-1]), task="mlm")

    return take_step


class TokenizedPairs:
    """Pairs of one source as tokens, with hard negatives where there are any; `batch` gives one table and its size."""

    def __init__(
        self,
        pairs: Pairs | ScoredPairs,
        tokenizer: BilingualTokenizer,
        max_length: int,
        *,
        progress: bool = False,
    ) -> None:
        self.left = tokens_of(tokenizer, pairs.left, max_length=max_length, progress=progress)
        self.right = tokens_of(tokenizer, pairs.right, max_length=max_length, progress=progress)
        self.score = torch.from_numpy(pairs.score) if isinstance(pairs, ScoredPairs) else None
        self.right_text = np.unique(np.array(pairs.right), return_inverse=True)[1]
        self.negatives: TokenTable | None = None
        self.negative_rows_Nn: np.ndarray | None = None
        if isinstance(pairs, Pairs) and pairs.negatives:
            flat = [text for row in pairs.negatives for text in row]
            self.negatives = tokens_of(tokenizer, flat, max_length=max_length, progress=progress)
            self.negative_rows_Nn = np.arange(len(flat)).reshape(len(pairs), -1)

    def __len__(self) -> int:
        return len(self.left)

    def mine(self, encoder: Encoder, count: int, machine: Machine) -> None:
        """Take the nearest right sides of other rows as hard negatives.

        Raises:
            ConfigError: there are not more rows than negatives.
        """
        if len(self.left) <= count:
            raise ConfigError(
                f"{len(self.left)} pairs are too few for {count} hard negatives a query: lower multitask.negatives"
            )
        left, right = (
            encode_table(encoder, table, precision=machine.precision, progress=machine.progress)
            for table in (self.left, self.right)
        )
        self.negatives = self.right
        self.negative_rows_Nn = mine_negatives(
            left, right, negatives=count, groups=self.right_text, progress=machine.progress
        )

    def batch(self, rows: np.ndarray) -> TokenTable:
        """Left sides, right sides, then negatives of some rows."""
        tables = [self.left.take(rows), self.right.take(rows)]
        if self.negatives is not None and self.negative_rows_Nn is not None:
            tables.append(self.negatives.take(self.negative_rows_Nn[rows].ravel()))
        return TokenTable.joined(tables)


def pairs_steps(
    encoder: Encoder, sources: Sequence[TokenizedPairs], settings: PairsSettings, machine: Machine
) -> TakeStep:
    """Stage 2: a source is drawn, then symmetric InfoNCE on a batch of it."""
    schedule = SourceSchedule(list(settings.rates.values()), steps=settings.steps, seed=machine.seed)
    batches = [
        RowBatches(len(source.left), batch_size=settings.batch_size, seed=machine.seed + number)
        for number, source in enumerate(sources)
    ]
    names = list(settings.rates)
    loss = functools.partial(losses.pairs_loss, temperature=settings.temperature)

    def take_step(step: int) -> Step:
        number, occurrence = schedule.at(step)
        rows = batches[number].batch(occurrence)
        return _contrast(encoder, sources[number].batch(rows), len(rows), loss, settings.widths, machine, names[number])

    return take_step


def multitask_steps(
    encoder: Encoder,
    sources: Mapping[str, TokenizedPairs | TokenizedLesson],
    settings: MultitaskSettings,
    machine: Machine,
) -> TakeStep:
    """Stage 3: a task is drawn, then its loss on a batch of its source; `sources` by the name of the task."""
    tasks = list(settings.tasks.items())
    schedule = SourceSchedule([task.rate for _, task in tasks], steps=settings.steps, seed=machine.seed)
    batches = [
        RowBatches(len(sources[name]), batch_size=task.batch_size, seed=machine.seed + number)
        for number, (name, task) in enumerate(tasks)
    ]
    of_scores = {"pearson": losses.correlation_loss, "squared_error": losses.squared_error_loss}[settings.sts_objective]

    def take_step(step: int) -> Step:
        number, occurrence = schedule.at(step)
        name, _ = tasks[number]
        rows = batches[number].batch(occurrence)
        source = sources[name]
        if isinstance(source, TokenizedLesson):
            return _distil(encoder, source, rows, settings.widths, machine, name)
        if source.score is not None:
            loss = functools.partial(of_scores, score_B=source.score[rows].to(encoder.device))
        elif source.negatives is None:
            loss = functools.partial(losses.pairs_loss, temperature=settings.temperature)
        else:
            loss = functools.partial(losses.retrieval_loss, temperature=settings.temperature)
        return _contrast(encoder, source.batch(rows), len(rows), loss, settings.widths, machine, name)

    return take_step


def _distil(
    encoder: Encoder, lesson: TokenizedLesson, rows: np.ndarray, widths: Sequence[int], machine: Machine, task: str
) -> Step:
    table, teacher_ND = lesson.batch(rows)
    loss = functools.partial(losses.distillation_loss, teacher_NE=teacher_ND.to(encoder.device))

    def loss_of(vectors_ND: Tensor) -> Tensor:
        return losses.at_widths(loss, [vectors_ND], widths) if widths else loss(vectors_ND)

    value = backward_through(encoder, table, loss_of, max_tokens=machine.memory_tokens, precision=machine.precision)
    return Step(value, texts=len(table), tokens=int(table.offsets[-1]), task=task)


def _contrast(
    encoder: Encoder,
    table: TokenTable,
    size: int,
    loss: Callable[..., Tensor],
    widths: Sequence[int],
    machine: Machine,
    task: str,
) -> Step:
    def loss_of(vectors_ND: Tensor) -> Tensor:
        sides = [vectors_ND[:size], vectors_ND[size : 2 * size], vectors_ND[2 * size :]]
        given = sides if len(vectors_ND) > 2 * size else sides[:2]
        return losses.at_widths(loss, given, widths) if widths else loss(*given)

    value = backward_through(encoder, table, loss_of, max_tokens=machine.memory_tokens, precision=machine.precision)
    return Step(value, texts=len(table), tokens=int(table.offsets[-1]), task=task)
