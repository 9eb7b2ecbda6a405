"""A run of the text encoder: its stages one after another, scored, in one folder with one report."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bilingual_embedding.data.sources import ExperimentData
from bilingual_embedding.evaluation.scores import evaluate, lexical_baselines
from bilingual_embedding.model.checkpoint import REMEDY, read_weights, save_encoder, save_weights
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.training.distillation import TeacherVectors
from bilingual_embedding.training.masking import MaskedLanguageModel, accuracy_by_length
from bilingual_embedding.training.resuming import changed_settings, check_resumable, owner_of, plain_settings
from bilingual_embedding.training.run_folder import RunFolder
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import STAGES, Experiment
from bilingual_embedding.training.stage_setup import (
    WHOLE,
    described_tokenizer,
    fresh_encoder,
    fresh_tokenizer,
    kept_encoder,
    stage_steps,
)
from bilingual_embedding.training.stage_trainer import StageTrainer
from bilingual_embedding.training.start import Start
from bilingual_embedding.vectors.encoding import embedding_of
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import remove_stale_temporaries
from fuxictr_multimodal.system.reduced_precision import choose
from fuxictr_multimodal.system.torch_files import check_weights
from fuxictr_multimodal.training.recorder import Recorder
from fuxictr_multimodal.training.run_names import refuse_folders

UNTRAINED = "untrained"


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
        planned = [stage for stage in STAGES if getattr(experiment, stage) is not None]
        self.files = RunFolder(Path(experiment.model_root) / run_name, planned)
        self.report = self._new_report(expid)
        if self.files.report.is_file():
            self.report = EmbeddingReport.read(self.files.report)
        # In which precision, until `execute` has chosen.
        self.precision = "float32"
        self.teacher: TeacherVectors | None = None

    def execute(self, stage: str, *, resume: bool = False, overwrite: bool = False) -> EmbeddingReport:
        """Train `all` stages or one of them, or `evaluate` the last trained one; write the report at each turn.

        With `resume` a stopped run is resumed by its own settings, and all stages of a finished run stay as they are.

        Raises:
            ConfigError: a stage that the experiment leaves out, that is trained or begun already, or whose start is
                missing; a run that is resumed with other settings or that another process is running.
            Interrupted: on Ctrl-C or a signal; its text says what is kept.
        """
        with self.files.only_process():
            return self._execute(stage, resume=resume and not overwrite, overwrite=overwrite)

    def _execute(self, stage: str, *, resume: bool, overwrite: bool) -> EmbeddingReport:
        experiment, files = self.experiment, self.files
        for name in files.planned:
            refuse_folders(files.state(name))
        if stage == "all" and resume and self.report.status == "completed" and files.all_trained:
            self._warn_of_other_settings()
            return self.report
        chosen = files.stages_to_train(stage, resume=resume, overwrite=overwrite)
        begun = files.begun()
        resume = resume and begun
        # Data that cannot be read leaves what is trained, and its report, as they are.
        early = begun and (overwrite or stage == "evaluate")
        data = ExperimentData(self.experiment, progress=self.progress) if early else None
        fresh = bool(chosen) and chosen[0] == files.planned[0] and not resume
        if resume:
            if not self.report.config:
                raise ConfigError(
                    f"{files.path} has no report, so its settings are unknown: --overwrite trains from scratch"
                )
            trained = [name for name in files.planned if files.done(name)]
            check_resumable(self.report, self.experiment, trained=trained, where=str(files.path))
        elif fresh:
            self.report = self._new_report(self.report.expid)
        self.report.precision = self._choose_precision()
        self.precision = self.report.precision["used"]
        if self.start is not None and (fresh or files.last_trained() is None):
            known = self.start.check(self.experiment, precision=self.precision)
            if known is not None:
                self.report.floors = known.floors
                self.report.evaluation.setdefault(self.start.name, known.evaluation[self.start.stage])
        self._describe_settings(only_evaluated=stage == "evaluate" and begun)
        before = self.report.status, self.report.error

        def ending() -> tuple[str, str | None]:
            if files.all_trained:
                return "completed", None
            return before if stage == "evaluate" else ("running", None)

        recorder = Recorder(self.report, files.report)
        with recorder.recording(lambda: files.kept(chosen), ending):
            remove_stale_temporaries(files.replaced)
            if chosen and not resume:
                self._forget(STAGES[STAGES.index(chosen[0]) :], recorder)
            data = data or ExperimentData(self.experiment, progress=self.progress)
            self.report.data = data.counts
            if stage == "evaluate":
                self.report.floors.clear()
                self._evaluate(files.last_trained() or self.start_name, *self._start(data), data, recorder)
            for name in self._unscored() if resume else ():
                self._evaluate(name, *self._load(name), data, recorder)
            if "multitask" in chosen and experiment.multitask is not None:
                # A teacher that is not there ends the run before its first stage, not after hours of it.
                self.teacher = TeacherVectors.prepare(
                    experiment.multitask, data, files.teacher, device=str(self.device), progress=self.progress
                )
            for name in chosen:
                self._train(name, data, recorder, resume=resume)
        return self.report

    @property
    def start_name(self) -> str:
        """Under what name the scores before the first stage are kept."""
        return UNTRAINED if self.start is None else self.start.name

    def load(self) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder after the last trained stage, on the device.

        Raises:
            ConfigError: if nothing is trained.
        """
        last = self.files.last_trained()
        if last is None:
            raise ConfigError(f"{self.files.path} contains no trained stage; run --stage all first")
        return self._load(last)

    def _new_report(self, expid: str) -> EmbeddingReport:
        return EmbeddingReport(expid=expid, preset=self.experiment.preset, seed=self.experiment.seed)

    def _describe_settings(self, *, only_evaluated: bool) -> None:
        """Write the settings into the report; an evaluation changes none of those that the run was trained by."""
        settings = plain_settings(self.experiment)
        if only_evaluated and self.report.config:
            if self.files.all_trained:
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
        if changed := changed_settings(self.report, self.experiment):
            logging.warning(
                "%s is complete with other settings (%s) and is left unchanged; --overwrite trains from scratch",
                self.files.path,
                ", ".join(map(str, changed)),
            )

    def _forget(self, stages: Sequence[str], recorder: Recorder) -> None:
        """Remove stages; the report says first that they are gone."""
        for name in stages:
            self.report.stages.pop(name, None)
            self.report.evaluation.pop(name, None)
        recorder.write()
        self.files.forget(stages)

    def _unscored(self) -> list[str]:
        """Stages that are trained, but whose scores are not in the report."""
        if self.experiment.evaluation is None or not self.experiment.evaluation.sources:
            return []
        return [name for name in self.files.planned if self.files.done(name) and name not in self.report.evaluation]

    def _load(self, stage: str) -> tuple[Encoder, BilingualTokenizer]:
        encoder, tokenizer = kept_encoder(self.files.stage(stage), self.experiment)
        return encoder.to(self.device), tokenizer

    def _start(self, data: ExperimentData, *, stage: str | None = None) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder that a stage starts from, and its tokenizer.

        That is the one after the last trained stage (before `stage`), or that of the start, or a fresh one.
        """
        last = self.files.last_trained(before=stage)
        if last is not None:
            return self._load(last)
        if self.start is not None:
            encoder, tokenizer = self.start.load(self.experiment)
        else:
            tokenizer = fresh_tokenizer(self.files.path, self.experiment, data, progress=self.progress)
            encoder = None
        self.report.tokenizer = described_tokenizer(tokenizer, self.experiment, data)
        encoder = fresh_encoder(self.experiment, tokenizer, data) if encoder is None else encoder
        return encoder.to(self.device), tokenizer.for_encoder(encoder.config)

    def _train(self, stage: str, data: ExperimentData, recorder: Recorder, *, resume: bool) -> None:
        experiment, files = self.experiment, self.files
        encoder, tokenizer = self._start(data, stage=stage)
        self.report.parameters = {
            "total": sum(p.numel() for p in encoder.parameters()),
            "embedding": encoder.token_embedding.weight.numel(),
        }
        if files.last_trained(before=stage) is None and self.start_name not in self.report.evaluation:
            self._evaluate(self.start_name, encoder, tokenizer, data, recorder)
        # Each stage has random numbers of its own, so that it is the same after a stop between stages.
        torch.manual_seed(experiment.seed + zlib.crc32(stage.encode()))
        settings = getattr(experiment, stage)
        model, take_step = stage_steps(
            settings,
            encoder,
            tokenizer,
            data,
            experiment,
            precision=self.precision,
            progress=self.progress,
            teacher=self.teacher,
        )
        trainer = StageTrainer(
            name=stage,
            model=model,
            take_step=take_step,
            steps=settings.steps,
            settings=settings.optimiser,
            state_file=files.state(stage),
            owner=owner_of(experiment, stage, self.report.expid),
            save_steps=experiment.save_steps,
            save_minutes=experiment.save_minutes,
            progress=self.progress,
        )
        if resume:
            trainer.resume()
        progress = trainer.run()
        if isinstance(model, MaskedLanguageModel):
            head = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
            files.stage(stage).mkdir(parents=True, exist_ok=True)
            save_weights(files.head(stage), head)
        save_encoder(files.stage(stage), encoder, tokenizer)
        self.report.stages[stage] = progress.as_dict()
        self._evaluate(stage, encoder, tokenizer, data, recorder)
        recorder.write()
        trainer.discard_state()
        if stage == "multitask":
            files.teacher.unlink(missing_ok=True)

    def _evaluate(
        self,
        after: str,
        encoder: Encoder,
        tokenizer: BilingualTokenizer,
        data: ExperimentData,
        recorder: Recorder,
    ) -> None:
        """Score an encoder after a stage; a failure of the evaluation ends the run, a score without a value does not.

        Args:
            after: the stage, or the name of the start.
            encoder: on the device.
            tokenizer: of the encoder.
            data: sources by name.
            recorder: writes the scores.
        """
        settings = self.experiment.evaluation
        if settings is None:
            return
        scores: dict[str, Any] = {}
        embed = embedding_of(
            encoder, tokenizer, max_length=settings.max_length, precision=self.precision, progress=self.progress
        )
        if data.evaluation:
            logging.info("evaluation: %s", after)
            if not self.report.floors:
                self.report.floors = lexical_baselines(data.evaluation, progress=self.progress)
            scores.update(evaluate(data.evaluation, embed, progress=self.progress))
        if data.masked is not None and after == "mlm":
            # One row a language: windows of any length can be cut from it.
            texts = [" ".join(column) for column in data.masked.texts.values()]
            table = tokenizer.encode(texts, max_length=WHOLE)
            model = MaskedLanguageModel(encoder).to(self.device)
            file = self.files.head(after)
            weights = {**model.state_dict(), **read_weights(file)}
            model.load_state_dict(check_weights(weights, model, file, remedy=REMEDY))
            seed = self.experiment.seed
            scores.update(accuracy_by_length(model, table, settings.masked_lengths, seed=seed, progress=self.progress))
        if scores:
            self.report.evaluation[after] = scores
            recorder.write()
