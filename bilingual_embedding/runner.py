"""From an experiment's YAML to trained stages on disk, their scores and one report.

`<model_root>/<expid>[_s<seed>]/`: `report.json`, `tokenizer.json`, a folder a stage with the encoder as it was after
it (`mlm` with `head.safetensors` too), and `<stage>.state.pt` while a stage runs.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bilingual_embedding.checkpoint import WEIGHTS, load_encoder, save_encoder, save_weights
from bilingual_embedding.data import ExperimentData, train_tokenizer
from bilingual_embedding.encoder import Encoder
from bilingual_embedding.encoding import encode_texts
from bilingual_embedding.evaluation import evaluate, lexical_floors
from bilingual_embedding.masking import MaskedLanguageModel, accuracy_by_length
from bilingual_embedding.presets import preset
from bilingual_embedding.run_report import REPORT, EmbeddingReport
from bilingual_embedding.settings import STAGES, Experiment
from bilingual_embedding.stage_trainer import StageProgress, StageTrainer
from bilingual_embedding.stages import Machine, TakeStep, TokenizedPairs, masked_steps, multitask_steps, pairs_steps
from bilingual_embedding.start import Start, plain_settings
from bilingual_embedding.tokenizer import FILE_NAME, BilingualTokenizer
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.report import git_commit, peak_memory_mib, versions

UNTRAINED = "untrained"
WHOLE = 1 << 30  # more tokens than any text has


class EmbeddingRun:
    """One experiment in its folder.

    Args:
        expid: its name.
        experiment: its settings.
        run_name: name of its folder.
        device: where it trains.
        start: where it starts; None for a fresh encoder and tokenizer.
        progress: show progress lines.
    """

    def __init__(
        self,
        expid: str,
        experiment: Experiment,
        *,
        run_name: str,
        device: torch.device,
        start: Start | None = None,
        progress: bool = True,
    ) -> None:
        assert (start is None) == (experiment.start_from is None), experiment.start_from
        self.experiment, self.device, self.start, self.progress = experiment, device, start, progress
        self.folder = Path(experiment.model_root) / run_name
        self.report_file = self.folder / REPORT
        if self.report_file.is_file():
            self.report = EmbeddingReport.read(self.report_file)
        else:
            self.report = EmbeddingReport(expid=expid, preset=experiment.preset, seed=experiment.seed)
        self.planned = [stage for stage in STAGES if getattr(experiment, stage) is not None]

    def execute(self, stage: str, *, resume: bool = False, overwrite: bool = False) -> EmbeddingReport:
        """Train `all` stages or one of them, or `evaluate` the last trained one; write the report at each turn.

        With `resume`, all stages of a finished run stay as they are.

        Raises:
            ConfigError: a stage that the experiment leaves out, that is trained already, or whose start is missing.
        """
        if stage == "all" and resume and not overwrite and self._complete():
            return self.report
        chosen = self._chosen(stage, resume=resume, overwrite=overwrite)
        if self.start is not None and self._last_trained() is None:
            known = self.start.check(self.experiment)
            if known is not None:
                self.report.floors = known.floors
                self.report.evaluation.setdefault(self.start.name, known.evaluation[self.start.stage])
        self.report.config = plain_settings(self.experiment)
        self.report.versions, self.report.commit = versions(), git_commit()
        self.report.status, self.report.error = "running", None
        self.report.write(self.report_file)
        try:
            data = ExperimentData(self.experiment)
            self.report.data = data.counts
            if stage == "evaluate":
                self._evaluate(self._last_trained() or self.start_name, *self._start(data), data)
            for name in chosen:
                self._train(name, data, resume=resume)
        except BaseException as error:
            self.report.status, self.report.error = "failed", f"{type(error).__name__}: {error}"
            raise
        else:
            self.report.status = "completed" if self._all_trained() else "running"
        finally:
            self.report.peak_memory_mib = peak_memory_mib()
            self.report.write(self.report_file)
        return self.report

    @property
    def start_name(self) -> str:
        """Under what name the scores before the first stage are kept."""
        return UNTRAINED if self.start is None else self.start.name

    def trained(self, stage: str) -> bool:
        """Whether the weights of a stage are there."""
        return (self.folder / stage / WEIGHTS).is_file()

    def load(self) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder after the last trained stage, on the device.

        Raises:
            ConfigError: if nothing is trained.
        """
        last = self._last_trained()
        if last is None:
            raise ConfigError(f"{self.folder} holds no trained stage; run --stage all first")
        encoder, tokenizer = load_encoder(self.folder / last, backend=self.experiment.backend)
        return encoder.to(self.device), tokenizer

    def _chosen(self, stage: str, *, resume: bool, overwrite: bool) -> list[str]:
        if stage == "evaluate":
            return []
        if stage != "all" and stage not in self.planned:
            raise ConfigError(f"stage {stage!r} is not in this experiment; it has {', '.join(self.planned)}")
        chosen = self.planned if stage == "all" else [stage]
        done = [name for name in chosen if self.trained(name)]
        if overwrite:
            after = self.planned[self.planned.index(chosen[0]) :]
            for name in after:  # what was trained from a stage goes with it
                shutil.rmtree(self.folder / name, ignore_errors=True)
                self._state(name).unlink(missing_ok=True)
                self.report.stages.pop(name, None)
                self.report.evaluation.pop(name, None)
            if chosen[0] == self.planned[0]:
                (self.folder / FILE_NAME).unlink(missing_ok=True)
                self.report.evaluation.clear()
        elif done and not resume:
            raise ConfigError(
                f"{self.folder} holds {', '.join(done)} already: --resume goes on after it, --overwrite trains anew"
            )
        else:
            chosen = [name for name in chosen if name not in done]
        before = self.planned[: self.planned.index(chosen[0])] if chosen else []
        missing = [name for name in before if not self.trained(name)]
        if missing:
            raise ConfigError(f"stage {chosen[0]!r} starts from stage {missing[-1]!r}, which is not trained yet")
        return list(chosen)

    def _complete(self) -> bool:
        return self.report.status == "completed" and self._all_trained()

    def _all_trained(self) -> bool:
        return all(self.trained(stage) for stage in self.planned)

    def _last_trained(self) -> str | None:
        return next((stage for stage in reversed(self.planned) if self.trained(stage)), None)

    def _state(self, stage: str) -> Path:
        return self.folder / f"{stage}.state.pt"

    def _start(self, data: ExperimentData) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder after the last trained stage, or that of the start, or a fresh one; and its tokenizer."""
        experiment = self.experiment
        last = self._last_trained()
        if last is not None:
            encoder, tokenizer = load_encoder(
                self.folder / last,
                backend=experiment.backend,
                gradient_checkpointing=experiment.gradient_checkpointing,
            )
            return encoder.to(self.device), tokenizer
        if self.start is not None:
            encoder, tokenizer = self.start.load(experiment)
            self._describe(tokenizer, data)
            return encoder.to(self.device), tokenizer
        size = preset(experiment.preset).vocabulary_size
        if (self.folder / FILE_NAME).is_file():
            tokenizer = BilingualTokenizer.read(self.folder)
        else:
            tokenizer = train_tokenizer(experiment, data, size)
            tokenizer.write(self.folder)
        self._describe(tokenizer, data)
        torch.manual_seed(experiment.seed)
        encoder = Encoder.from_preset(
            experiment.preset,
            vocabulary_size=tokenizer.vocabulary_size,
            dropout=experiment.dropout,
            positions=experiment.positions,
            backend=experiment.backend,
            gradient_checkpointing=experiment.gradient_checkpointing,
        )
        return encoder.to(self.device), tokenizer

    def _describe(self, tokenizer: BilingualTokenizer, data: ExperimentData) -> None:
        # All languages that are read, be the vocabulary learnt from one of them only.
        settings = self.experiment
        read = [*settings.tokenizer.sources, *(settings.mlm.sources if settings.mlm else ())]
        read += settings.pairs.rates if settings.pairs else ()
        languages = data.by_language(list(dict.fromkeys(read)))
        self.report.tokenizer = {
            "vocabulary_size": tokenizer.vocabulary_size,
            "tokens_per_word": {language: tokenizer.fertility(texts) for language, texts in languages.items()},
        }

    def _train(self, stage: str, data: ExperimentData, *, resume: bool) -> None:
        encoder, tokenizer = self._start(data)
        self.report.parameters = {
            "total": sum(p.numel() for p in encoder.parameters()),
            "embedding": encoder.token_embedding.weight.numel(),
        }
        if self._last_trained() is None and self.start_name not in self.report.evaluation:
            self._evaluate(self.start_name, encoder, tokenizer, data)
        # Each stage has random numbers of its own, so that it is the same after a stop between stages.
        torch.manual_seed(self.experiment.seed + zlib.crc32(stage.encode()))
        model, take_step = self._steps(stage, encoder, tokenizer, data)
        settings = getattr(self.experiment, stage)
        trainer = StageTrainer(
            name=stage,
            model=model,
            take_step=take_step,
            steps=settings.steps,
            settings=settings.optimiser,
            state_file=self._state(stage),
            save_steps=self.experiment.save_steps,
            progress=self.progress,
        )
        if resume:
            trainer.resume()
        progress = trainer.run()
        if isinstance(model, MaskedLanguageModel):
            head = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
            (self.folder / stage).mkdir(parents=True, exist_ok=True)
            save_weights(self.folder / stage / "head.safetensors", head)
        save_encoder(self.folder / stage, encoder, tokenizer)
        trainer.discard_state()
        self.report.stages[stage] = _facts(progress)
        self._evaluate(stage, encoder, tokenizer, data)
        if isinstance(model, MaskedLanguageModel) and data.masked is not None:
            # One row a language: windows of any length can be cut from it.
            texts = [" ".join(column) for column in data.masked.texts.values()]
            table = tokenizer.encode(texts, max_length=WHOLE)
            lengths = self.experiment.evaluation.masked_lengths
            found = accuracy_by_length(model, table, lengths, seed=self.experiment.seed)
            self.report.evaluation.setdefault(stage, {}).update(found)

    def _steps(
        self, stage: str, encoder: Encoder, tokenizer: BilingualTokenizer, data: ExperimentData
    ) -> tuple[nn.Module, TakeStep]:
        experiment = self.experiment
        machine = Machine(experiment.memory_tokens, experiment.precision, experiment.seed)
        if stage == "mlm":
            texts = data.texts(experiment.mlm.sources)
            table = tokenizer.encode(texts, max_length=WHOLE).windows(experiment.mlm.max_length)
            model = MaskedLanguageModel(encoder).to(self.device)
            return model, masked_steps(model, table, experiment.mlm, machine)
        if stage == "pairs":
            settings = experiment.pairs
            sources = [
                TokenizedPairs(data.source(name).need_pairs(), tokenizer, settings.max_length)
                for name in settings.rates
            ]
            return encoder, pairs_steps(encoder, sources, settings, machine)
        tasks = {}
        for name, task in experiment.multitask.tasks.items():
            source = data.source(task.source)
            rows = source.need_scored() if task.kind == "sts" else source.need_pairs()
            tasks[name] = TokenizedPairs(rows, tokenizer, experiment.multitask.max_length)
            if task.kind == "retrieval" and tasks[name].negatives is None and experiment.multitask.negatives:
                tasks[name].mine(encoder, experiment.multitask.negatives, experiment.precision)
        return encoder, multitask_steps(encoder, tasks, experiment.multitask, machine)

    def _evaluate(self, after: str, encoder: Encoder, tokenizer: BilingualTokenizer, data: ExperimentData) -> None:
        if not data.evaluation:
            return
        if not self.report.floors:
            self.report.floors = lexical_floors(data.evaluation)

        def embed(texts: Sequence[str]):
            length = self.experiment.evaluation.max_length
            precision = self.experiment.precision
            return encode_texts(encoder, tokenizer, texts, max_length=length, precision=precision).vectors

        self.report.evaluation[after] = evaluate(data.evaluation, embed)
        self.report.write(self.report_file)


def _facts(progress: StageProgress) -> dict:
    seconds = max(progress.seconds, 1e-9)
    return {
        "steps": progress.step,
        "seconds": progress.seconds,
        "texts": progress.texts,
        "tokens": progress.tokens,
        "texts_per_s": progress.texts / seconds,
        "tokens_per_s": progress.tokens / seconds,
        "curve": progress.curve(),
    }
