"""From an experiment's YAML to trained stages on disk, their scores and one report.

`<model_root>/<expid>[_s<seed>]/`: `report.json`, `tokenizer.json`, a folder a stage with the encoder as it was after
it (`mlm` with `head.safetensors` too), and `<stage>.state.pt` while a stage runs.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from bilingual_embedding.data.sources import ExperimentData, train_tokenizer
from bilingual_embedding.evaluation.scores import evaluate, lexical_floors
from bilingual_embedding.model.checkpoint import FILES as ENCODER_FILES
from bilingual_embedding.model.checkpoint import WEIGHTS, load_encoder, save_encoder, save_weights
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.presets import preset
from bilingual_embedding.model.tokenizer import FILE_NAME, BilingualTokenizer
from bilingual_embedding.training.masking import MaskedLanguageModel, accuracy_by_length
from bilingual_embedding.training.resuming import changed_settings, check_resumable, plain_settings
from bilingual_embedding.training.run_report import REPORT, EmbeddingReport
from bilingual_embedding.training.settings import STAGES, Experiment
from bilingual_embedding.training.stage_trainer import StageProgress, StageTrainer
from bilingual_embedding.training.stages import (
    Machine,
    TakeStep,
    TokenizedPairs,
    masked_steps,
    multitask_steps,
    pairs_steps,
    tokens_of,
)
from bilingual_embedding.training.start import Start
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import remove_stale_temporaries
from fuxictr_multimodal.system.interruption import Interrupted
from fuxictr_multimodal.system.reduced_precision import choose
from fuxictr_multimodal.training.report import git_commit, peak_memory_mib, versions

UNTRAINED = "untrained"
HEAD = "head.safetensors"
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
        self.report = EmbeddingReport.read(self.report_file) if self.report_file.is_file() else self._new_report(expid)
        self.planned = [stage for stage in STAGES if getattr(experiment, stage) is not None]
        # In which precision, until `execute` has chosen.
        self.precision = "float32"

    def execute(self, stage: str, *, resume: bool = False, overwrite: bool = False) -> EmbeddingReport:
        """Train `all` stages or one of them, or `evaluate` the last trained one; write the report at each turn.

        With `resume` a stopped run is resumed by its own settings, and all stages of a finished run stay as they are.

        Raises:
            ConfigError: a stage that the experiment leaves out, that is trained or begun already, or whose start is
                missing; a run that is resumed with other settings or that another process is running.
            Interrupted: on Ctrl-C or a signal; its text says what is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            # The system frees the lock of a killed process.
            with filelock.FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=0):
                return self._execute(stage, resume=resume and not overwrite, overwrite=overwrite)
        except filelock.Timeout:
            raise ConfigError(f"another process is running {self.folder.name!r}; wait for it") from None

    def _execute(self, stage: str, *, resume: bool, overwrite: bool) -> EmbeddingReport:
        if stage == "all" and resume and self._complete():
            self._warn_of_other_settings()
            return self.report
        chosen = self._chosen(stage, resume=resume, overwrite=overwrite)
        resume = resume and self.begun
        # Data that cannot be read leaves what is trained, and its report, as they are.
        early = self.begun and (overwrite or stage == "evaluate")
        data = ExperimentData(self.experiment, progress=self.progress) if early else None
        fresh = bool(chosen) and chosen[0] == self.planned[0] and not resume
        if resume:
            if not self.report.config:
                raise ConfigError(f"{self.folder} has no report, so its settings are unknown: --overwrite trains anew")
            trained = [name for name in self.planned if self._done(name)]
            check_resumable(self.report, self.experiment, trained=trained, where=str(self.folder))
        elif fresh:
            self.report = self._new_report(self.report.expid)
        self.report.precision = self._choose_precision()
        self.precision = self.report.precision["used"]
        if self.start is not None and (fresh or self._last_trained() is None):
            known = self.start.check(self.experiment, precision=self.precision)
            if known is not None:
                self.report.floors = known.floors
                self.report.evaluation.setdefault(self.start.name, known.evaluation[self.start.stage])
        self._describe_settings(only_evaluated=stage == "evaluate" and self.begun)
        self.report.versions, self.report.commit = versions(), git_commit()
        before = self.report.status, self.report.error
        try:
            self.report.status, self.report.error = "running", None
            self.report.write(self.report_file)
            remove_stale_temporaries(self._files())
            if chosen and not resume:
                self._forget(chosen[0])
            data = data or ExperimentData(self.experiment, progress=self.progress)
            self.report.data = data.counts
            if stage == "evaluate":
                self.report.floors.clear()
                self._evaluate(self._last_trained() or self.start_name, *self._start(data), data)
            for name in self._unscored() if resume else ():
                self._evaluate(name, *self._load(name), data)
            for name in chosen:
                self._train(name, data, resume=resume)
        except KeyboardInterrupt as error:
            interrupted = Interrupted.of(error, self._left(chosen))
            self.report.status, self.report.error = "interrupted", str(interrupted)
            raise interrupted from None
        except BaseException as error:
            self.report.status, self.report.error = "failed", f"{type(error).__name__}: {error}"
            raise
        else:
            self.report.status = "completed" if self._all_trained() else "running"
            if stage == "evaluate" and not self._all_trained():
                self.report.status, self.report.error = before
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
        return self._load(last)

    @property
    def begun(self) -> bool:
        """Whether there is something to resume: a trained stage, a state or the tokenizer."""
        return (self.folder / FILE_NAME).is_file() or any(map(self._begun, STAGES))

    def _new_report(self, expid: str) -> EmbeddingReport:
        return EmbeddingReport(expid=expid, preset=self.experiment.preset, seed=self.experiment.seed)

    def _chosen(self, stage: str, *, resume: bool, overwrite: bool) -> list[str]:
        """The stages to train; nothing is changed here."""
        if stage == "evaluate":
            return []
        if stage != "all" and stage not in self.planned:
            raise ConfigError(f"stage {stage!r} is not in this experiment; it has {', '.join(self.planned)}")
        chosen = self.planned if stage == "all" else [stage]
        states = [self._state(name) for name in chosen if self._state(name).is_file()]
        done = [name for name in chosen if self._done(name)]
        if resume:
            chosen = [name for name in chosen if name not in done]
        elif not overwrite and states:
            raise ConfigError(
                f"{states[0]} is left of a run that was stopped: --resume resumes it, --overwrite trains anew"
            )
        elif not overwrite and done:
            raise ConfigError(
                f"{self.folder} holds {', '.join(done)} already: --resume resumes after it, --overwrite trains anew"
            )
        later = [name for name in STAGES[STAGES.index(chosen[-1]) + 1 :] if self._begun(name)] if chosen else []
        if later and not overwrite:
            raise ConfigError(f"{self.folder} holds {later[0]}, trained without {chosen[-1]}: --overwrite trains anew")
        before = self.planned[: self.planned.index(chosen[0])] if chosen else []
        missing = [name for name in before if not self.trained(name)]
        if missing:
            raise ConfigError(f"stage {chosen[0]!r} starts from stage {missing[-1]!r}, which is not trained yet")
        return list(chosen)

    def _describe_settings(self, *, only_evaluated: bool) -> None:
        """Write the settings into the report; an evaluation changes none of those that the run was trained by."""
        settings = plain_settings(self.experiment)
        if only_evaluated and self.report.config:
            if self._all_trained():
                data = {**settings["data"], **self.report.config["data"]}
                evaluated = self.experiment.evaluation.sources if self.experiment.evaluation else ()
                data.update({name: settings["data"][name] for name in evaluated})
                self.report.config |= {"evaluation": settings["evaluation"], "data": data}
            return
        self.report.preset, self.report.seed = self.experiment.preset, self.experiment.seed
        self.report.config = settings

    def _choose_precision(self) -> dict[str, str]:
        """Choose, or keep what the run was begun with: two precisions in one run would be neither."""
        asked = self.experiment.precision
        if self.report.precision.get("asked") == asked:
            choose(self.report.precision["used"], self.device, bfloat16="bfloat16")  # for its warning
            return self.report.precision
        return choose(asked, self.device, bfloat16="bfloat16").as_dict()

    def _warn_of_other_settings(self) -> None:
        changed = changed_settings(self.report, self.experiment)
        if changed:
            told = ", ".join(f"{key}: {old} then, {new} now" for key, (old, new) in changed.items())
            logging.warning(
                "%s is complete with other settings (%s) and stays as it is; --overwrite trains anew", self.folder, told
            )

    def _forget(self, first: str) -> None:
        """Remove a stage and all that was trained from it; the report says first that they are gone."""
        after = STAGES[STAGES.index(first) :]
        for name in after:
            self.report.stages.pop(name, None)
            self.report.evaluation.pop(name, None)
        self.report.write(self.report_file)
        for name in after:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self._state(name).unlink(missing_ok=True)
        if first == self.planned[0]:
            (self.folder / FILE_NAME).unlink(missing_ok=True)

    def _left(self, chosen: Sequence[str]) -> str:
        """What is kept of an interrupted run, for the user."""
        open_stages = [name for name in chosen if not self._done(name)]
        if not open_stages:
            return ""
        state = self._state(open_stages[0])
        if state.is_file():
            return f"{state} is kept: --resume resumes from it"
        return f"{state} is not written yet: --resume begins stage {open_stages[0]} again"

    def _files(self) -> list[Path]:
        """All files of the run that are replaced atomically."""
        own = [self.report_file, self.folder / FILE_NAME, *map(self._state, STAGES)]
        return own + [self.folder / stage / name for stage in STAGES for name in (*ENCODER_FILES, HEAD)]

    def _complete(self) -> bool:
        return self.report.status == "completed" and self._all_trained()

    def _all_trained(self) -> bool:
        return all(self.trained(stage) for stage in self.planned)

    def _begun(self, stage: str) -> bool:
        return self.trained(stage) or self._state(stage).is_file()

    def _done(self, stage: str) -> bool:
        """Whether a stage is trained and in the report: its state is removed last."""
        return self.trained(stage) and not self._state(stage).is_file()

    def _unscored(self) -> list[str]:
        """Stages that are trained, but whose scores are not in the report."""
        if self.experiment.evaluation is None or not self.experiment.evaluation.sources:
            return []
        return [name for name in self.planned if self._done(name) and name not in self.report.evaluation]

    def _last_trained(self, *, before: str | None = None) -> str | None:
        """The last trained stage, of those before a stage."""
        stages = self.planned[: None if before is None else self.planned.index(before)]
        return next((stage for stage in reversed(stages) if self.trained(stage)), None)

    def _state(self, stage: str) -> Path:
        return self.folder / f"{stage}.state.pt"

    def _load(self, stage: str) -> tuple[Encoder, BilingualTokenizer]:
        encoder, tokenizer = load_encoder(
            self.folder / stage,
            backend=self.experiment.backend,
            gradient_checkpointing=self.experiment.gradient_checkpointing,
        )
        return encoder.to(self.device), tokenizer

    def _start(self, data: ExperimentData, *, stage: str | None = None) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder that a stage starts from, and its tokenizer.

        That is the one after the last trained stage (before `stage`), or that of the start, or a fresh one.
        """
        experiment = self.experiment
        last = self._last_trained(before=stage)
        if last is not None:
            return self._load(last)
        if self.start is not None:
            encoder, tokenizer = self.start.load(experiment)
            self._describe(tokenizer, data)
            return encoder.to(self.device), tokenizer
        size = preset(experiment.preset).vocabulary_size
        if (self.folder / FILE_NAME).is_file():
            tokenizer = BilingualTokenizer.read(self.folder)
        else:
            tokenizer = train_tokenizer(experiment, data, size, progress=self.progress)
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
        encoder, tokenizer = self._start(data, stage=stage)
        self.report.parameters = {
            "total": sum(p.numel() for p in encoder.parameters()),
            "embedding": encoder.token_embedding.weight.numel(),
        }
        if self._last_trained(before=stage) is None and self.start_name not in self.report.evaluation:
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
            save_weights(self.folder / stage / HEAD, head)
        save_encoder(self.folder / stage, encoder, tokenizer)
        self.report.stages[stage] = _facts(progress)
        self._evaluate(stage, encoder, tokenizer, data)
        self.report.write(self.report_file)
        trainer.discard_state()

    def _steps(
        self, stage: str, encoder: Encoder, tokenizer: BilingualTokenizer, data: ExperimentData
    ) -> tuple[nn.Module, TakeStep]:
        experiment = self.experiment
        machine = Machine(experiment.memory_tokens, self.precision, experiment.seed, progress=self.progress)
        if stage == "mlm":
            texts = data.texts(experiment.mlm.sources)
            table = tokens_of(tokenizer, texts, max_length=WHOLE, progress=self.progress)
            table = table.windows(experiment.mlm.max_length)
            model = MaskedLanguageModel(encoder).to(self.device)
            return model, masked_steps(model, table, experiment.mlm, machine)
        if stage == "pairs":
            settings = experiment.pairs
            sources = [
                TokenizedPairs(data.source(name).need_pairs(), tokenizer, settings.max_length, progress=self.progress)
                for name in settings.rates
            ]
            return encoder, pairs_steps(encoder, sources, settings, machine)
        tasks = {}
        for name, task in experiment.multitask.tasks.items():
            source = data.source(task.source)
            rows = source.need_scored() if task.kind == "sts" else source.need_pairs()
            length = experiment.multitask.max_length
            tasks[name] = TokenizedPairs(rows, tokenizer, length, progress=self.progress)
            if task.kind == "retrieval" and tasks[name].negatives is None and experiment.multitask.negatives:
                tasks[name].mine(encoder, experiment.multitask.negatives, machine)
        return encoder, multitask_steps(encoder, tasks, experiment.multitask, machine)

    def _evaluate(self, after: str, encoder: Encoder, tokenizer: BilingualTokenizer, data: ExperimentData) -> None:
        """Score an encoder; a failure of the evaluation is one of the run, a score without a value is none."""
        settings, scores = self.experiment.evaluation, {}

        def embed(texts: Sequence[str]) -> NDArray[np.float32]:
            return encode_texts(
                encoder,
                tokenizer,
                texts,
                max_length=settings.max_length,
                precision=self.precision,
                progress=self.progress,
            ).vectors

        if data.evaluation:
            logging.info("evaluation: %s", after)
            if not self.report.floors:
                self.report.floors = lexical_floors(data.evaluation, progress=self.progress)
            scores.update(evaluate(data.evaluation, embed, progress=self.progress))
        if data.masked is not None and after == "mlm":
            # One row a language: windows of any length can be cut from it.
            texts = [" ".join(column) for column in data.masked.texts.values()]
            table = tokenizer.encode(texts, max_length=WHOLE)
            model = MaskedLanguageModel(encoder).to(self.device)
            model.load_state_dict(load_file(self.folder / after / HEAD), strict=False)
            seed = self.experiment.seed
            scores.update(accuracy_by_length(model, table, settings.masked_lengths, seed=seed, progress=self.progress))
        if scores:
            self.report.evaluation[after] = scores
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
