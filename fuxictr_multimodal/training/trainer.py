"""The training loop of any FuxiCTR model: FuxiCTR's protocol and log lines, with checks, rates and resume.

It drives FuxiCTR's own pieces (`train_step`, `forward`, `get_labels`, `lr_decay`, `checkpoint`), so a model trains
here as it does in `BaseModel.fit`. What it adds: predictions stay arrays, the loss stays on the device, a NaN never
replaces the best checkpoint, samples may have weights, a killed run resumes from its last saved step with the same loss
trace, and several processes train as one (`data_parallel.py`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from fuxictr.pytorch.models import BaseModel

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.errors import ConfigError, TrainingDiverged, Unwritable
from fuxictr_multimodal.metrics import classification as metrics
from fuxictr_multimodal.system.interruption import signals_held
from fuxictr_multimodal.system.progress import followed
from fuxictr_multimodal.system.ranks import current, decided_by_first, sent_by_first, sum_over_ranks
from fuxictr_multimodal.training.agreement import Agreement
from fuxictr_multimodal.training.batch_norm import fit_batches
from fuxictr_multimodal.training.checkpoint import load_checkpoint, save_checkpoint
from fuxictr_multimodal.training.data_parallel import DataParallel, send_weights
from fuxictr_multimodal.training.progress import Evaluation, Predictions, Progress, gathered, scores_of, to_numpy
from fuxictr_multimodal.training.sample_weights import SampleWeights
from fuxictr_multimodal.training.sharded.of_run import calls_to_score, finite_everywhere
from fuxictr_multimodal.training.state_file import SaveTimes, StateFile, damage_named
from fuxictr_multimodal.training.state_owner import Owner
from fuxictr_multimodal.training.training_state import TrainingState
from fuxictr_multimodal.training.weight_average import WeightAverage

MIN_DELTA = 1e-6  # FuxiCTR's: a smaller gain of the monitored value is none


class Trainer:
    """Trains, evaluates and scores one model.

    Args:
        model: a compiled `BaseModel`; its monitor, patience, evaluation steps and checkpoint path are used.
        to_inputs: turns a `Batch`, whose loader puts it on the model's device, into what the model's `forward` reads.
        epochs: passes over the training split at most.
        max_gradient_norm: gradients are clipped to this L2 norm.
        save_best_only: keep the checkpoint of the best evaluation, else of the last.
        plateau_factor: what the learning rate is multiplied with at an evaluation without a gain, the model's own by
            default (FuxiCTR's 0.1).
        weight_averaging: decay of the `WeightAverage` that evaluations score and checkpoints hold; 0 takes none.
        state_file: where a resumable state is kept at each evaluation, and that before it beside it.
        owner: the run that states belong to: one of another run is not resumed.
        saving: when states are saved between evaluations; by default never.
        on_evaluation: called with the progress after each evaluation, for example to write a report.
        scorer: what `predict` calls in place of the model's `forward`, such as its folded form.
        sync_batch_norm: whether several processes normalise over the global batch, or each over its share.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        to_inputs: Callable[[Batch], Any],
        epochs: int,
        max_gradient_norm: float = 10.0,
        save_best_only: bool = True,
        plateau_factor: float | None = None,
        weight_averaging: float = 0.0,
        state_file: Path | None = None,
        owner: Owner | None = None,
        saving: SaveTimes | None = None,
        on_evaluation: Callable[[Progress], None] | None = None,
        scorer: Callable[[Any], Any] | None = None,
        sync_batch_norm: bool = True,
    ) -> None:
        self.model = model
        self.to_inputs = to_inputs
        self.epochs = epochs
        self.max_gradient_norm = max_gradient_norm
        self.save_best_only = save_best_only
        self.plateau_factor = plateau_factor
        self.average = WeightAverage(model, weight_averaging) if weight_averaging else None
        self.owner = owner
        self.saving = SaveTimes() if saving is None else saving
        self.on_evaluation = on_evaluation
        self.scorer = scorer
        self.sync_batch_norm = sync_batch_norm
        self.ranks = current()
        self.parallel: DataParallel | None = None
        self.progress = Progress()
        self._weights = SampleWeights(model)
        self._agreement = Agreement(self.saving, self.ranks)
        self._states = StateFile(state_file)
        self._tables = getattr(model, "sharded_tables", None)
        self._resumed: TrainingState | None = None
        self._resumed_from = Path()

    def fit(self, train: MultimodalDataLoader, valid: MultimodalDataLoader) -> Progress:
        """Train until the patience or the epochs are used up, then load the best checkpoint.

        Raises:
            DataError: before the first step, if a resumed state is of other data.
            ConfigError: before the first step, if a monitored metric has no value on the validation split, or the model
                normalises over the rows of a batch and a batch has one.
            TrainingDiverged: if the loss or a validation score is not finite.
        """
        model, progress = self.model, self.progress
        decided_by_first(lambda: self.refuse_undefined_monitor(valid))
        fit_batches(train, model, synchronised=self.sync_batch_norm)
        if self.ranks.several:
            self.parallel = DataParallel(model, sync_batch_norm=self.sync_batch_norm)
        if self._resumed is not None:
            train.load_state_dict(self._resumed.loader)
            with damage_named(self._resumed_from):
                self._resumed.check_position(len(train))
            # More patience than a run had that stopped early lets it train on.
            progress.finished = progress.stopping_steps >= model._early_stop_patience
            if progress.step == (progress.epoch + 1) * len(train):
                progress.epoch += 1
                self._resumed = None
            logging.info("Resume in epoch %d after step %d", progress.epoch + 1, progress.step)
        model._max_gradient_norm = self.max_gradient_norm
        model._steps_per_epoch = len(train)
        eval_steps = model._eval_steps or len(train)
        logging.info("Start training: %d batches/epoch", len(train))
        self.saving.saved()
        # Several processes agree on the step at which a signal ends them.
        with signals_held() if self.ranks.several else contextlib.nullcontext():
            while progress.epoch < self.epochs and not progress.finished:
                logging.info("************ Epoch=%d start ************", progress.epoch + 1)
                with self._device_stop_named():
                    self._train_epoch(train, valid, eval_steps)
                if not progress.finished:
                    progress.epoch += 1
                    logging.info("************ Epoch=%d end ************", progress.epoch)
        self._weights.remove()
        if self.parallel is not None:
            self.parallel.remove()
        if progress.best_epoch is None:
            raise ConfigError(
                f"eval_steps={eval_steps} is more than the {len(train) * self.epochs} steps of the whole training: "
                "no checkpoint was made; lower eval_steps or set it to null for one evaluation an epoch"
            )
        logging.info("Training finished.")
        logging.info("Load best model: %s", model.checkpoint)
        if self._tables is not None:
            load_checkpoint(model)
        else:
            decided_by_first(lambda: load_checkpoint(model))
            if self.ranks.several:
                send_weights(model)
        return progress

    def evaluate(self, loader: MultimodalDataLoader, names: list[str] | None = None) -> dict[str, float]:
        """Metrics of a split, the model's `validation_metrics` by default; logs FuxiCTR's line."""
        predictions = self.predict(loader)
        values = decided_by_first(lambda: predictions.evaluate(names or self.model.validation_metrics))
        logging.info("[Metrics] " + " - ".join(f"{k}: {v:.6f}" for k, v in values.items()))
        return values

    @torch.no_grad()
    def predict(self, loader: MultimodalDataLoader) -> Predictions:
        """Score every row of a split, in row order; of several processes rank 0 has all rows, the others their part."""
        model = self.model
        label = model.feature_map.labels[0]
        model.eval()
        score = self.scorer or model.forward
        scores: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        groups: list[torch.Tensor] = []
        passes = calls_to_score(model, loader)
        start = time.perf_counter()
        for batch in self._with_progress(loader, "scoring", leave=False):
            scores.append(score(self.to_inputs(batch))["y_pred"].reshape(-1))
            if label in batch.features:
                labels.append(batch.features[label])
            if batch.group is not None:
                groups.append(batch.group)
        for _ in range(passes - len(loader)):
            score(self.to_inputs(batch))
        values = gathered(to_numpy(scores), self.ranks)
        return Predictions(
            scores=scores_of(values),
            labels=gathered(to_numpy(labels), self.ranks),
            groups=gathered(to_numpy(groups), self.ranks),
            rows_per_s=len(scores_of(values)) / max(time.perf_counter() - start, 1e-9),
        )

    def resume(self) -> bool:
        """Load the last state of a killed run, or that before it where the last one is damaged; False if there is none.

        Raises:
            DataError: the states are damaged, or of another run.
            ConfigError: they are of an earlier version, of a run with another weight average.
        """

        kept: list[Any] = []

        def load(state: dict[str, Any], path: Path) -> None:
            self._resumed = TrainingState.load(state, path, self.model, self.average, self.owner)
            self._resumed_from = path
            self.progress = self._resumed.progress
            # Gradients that wait are rank 0's.
            kept[:] = {**state, "gradients": None}, path

        found = decided_by_first(lambda: self._states.take_up(load))
        if found and self.ranks.several:
            state, path = sent_by_first(kept)
            if not self.ranks.first:
                load(state, path)
        return found

    def refuse_undefined_monitor(self, valid: MultimodalDataLoader) -> None:
        """Say before hours of training what would end it at its first evaluation."""
        monitored = self.model._monitor.get_metrics()
        labels, groups = valid.labels_and_groups()
        # Metrics that are not monitored are looked at too: their names must be known.
        undefined = metrics.undefined(list(dict.fromkeys([*monitored, *self.model.validation_metrics])), labels, groups)
        for name in monitored:
            if name in undefined:
                raise ConfigError(
                    f"monitor: {name} has no value on the validation split {valid.data_path} ({undefined[name]}): "
                    "monitor another metric, such as logloss with monitor_mode: min, or build the dataset with "
                    "other splits"
                )

    def _train_epoch(self, train: MultimodalDataLoader, valid: MultimodalDataLoader, eval_steps: int) -> None:
        model, progress = self.model, self.progress
        model._epoch_index = progress.epoch
        # FuxiCTR's models leave the gradients of a last partial accumulation window behind.
        model.optimizer.zero_grad()
        model.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=model.device)
        loss_steps = 0
        if self._resumed is not None:
            loss_steps = self._resumed.begin_inside(loss_sum, model)
            self._resumed = None
        first = progress.step - progress.epoch * len(train)
        self._agreement.restart(progress.step)
        started = time.perf_counter()
        # A signal waits for the end of a step, and then a state is saved.
        with signals_held():
            for index, batch in enumerate(self._with_progress(train, f"epoch {progress.epoch + 1}"), start=first):
                model._batch_index = index
                self._weights.set(batch.weight, None if batch.share is None else batch.share.mean_weight)
                loss_sum += self._train_step(batch).detach()
                if self.average is not None:
                    self.average.update()
                loss_steps += 1
                progress.step += 1
                progress.train_rows += batch.global_rows
                evaluated = progress.step % eval_steps == 0
                if not evaluated and not self._agreement.due(progress.step):
                    continue
                progress.train_seconds += time.perf_counter() - started
                if evaluated:
                    train_loss = sum_over_ranks(loss_sum).item() / loss_steps
                    loss_sum.zero_()
                    loss_steps = 0
                    with signals_held(False):
                        self._evaluation(train_loss, valid, train)
                    if progress.finished:
                        return
                    model.train()
                else:
                    self._save_inside(train, loss_sum, loss_steps)
                    self._agreement.raise_agreed()
                self._agreement.restart(progress.step)
                started = time.perf_counter()
        progress.train_seconds += time.perf_counter() - started

    def _train_step(self, batch: Batch) -> torch.Tensor:
        inputs = self.to_inputs(batch)
        try:
            if self.parallel is None:
                return self.model.train_step(inputs)
            return self.parallel.step(batch, lambda: self.model.train_step(inputs))
        except RuntimeError as error:
            # What torch's binary cross-entropy says of a NaN probability.
            if "between 0 and 1" not in str(error):
                raise
            raise self._diverged("a prediction is not a number") from None

    @contextlib.contextmanager
    def _device_stop_named(self) -> Iterator[None]:
        """A GPU's binary cross-entropy stops the device; the host hears of it later, wherever it is then."""
        try:
            yield
        except RuntimeError as error:
            if "device-side assert" not in str(error):
                raise
            raise self._diverged("the GPU stopped at a prediction that is not a number") from error

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} in epoch {self.progress.epoch + 1}: lower learning_rate or max_gradient_norm; "
            "the checkpoint of the best evaluation so far is kept"
        )

    def _evaluation(self, train_loss: float, valid: MultimodalDataLoader, train: MultimodalDataLoader) -> None:
        """Evaluate, keep the best checkpoint, decide on the learning rate and on stopping, save the state."""
        model, progress = self.model, self.progress
        logging.info("Train loss: %.6f", train_loss)
        if not math.isfinite(train_loss):
            raise self._diverged(f"the training loss is {train_loss}")
        logging.info("Evaluation @epoch %d - batch %d: ", progress.epoch + 1, model._batch_index + 1)
        if self.parallel is not None:
            self.parallel.agree(self.average)
        # The checkpoint holds the weights that were scored.
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            try:
                values = self.evaluate(valid, model._monitor.get_metrics())
            except metrics.UndefinedMetric as error:
                # Labels and groups allow these metrics, see `fit`: it is the scores.
                raise TrainingDiverged(
                    f"validation in epoch {progress.epoch + 1}: {error}; nothing was saved"
                ) from None
            monitored = float(model._monitor.get_value(values))
            improved = self._improves(monitored)
            if improved or not self.save_best_only:
                save_checkpoint(model)
        progress.curve.append(
            Evaluation(
                epoch=progress.epoch + 1,
                step=progress.step,
                train_loss=train_loss,
                learning_rate=model.optimizer.param_groups[0]["lr"],
                metrics=values,
                monitor=monitored,
                best=improved,
                seconds=progress.train_seconds,
            )
        )
        if improved:
            progress.stopping_steps = 0
            progress.best_value, progress.best_epoch = monitored, progress.epoch + 1
            logging.info("Save best model: monitor(%s)=%.6f", model._monitor_mode, monitored)
        else:
            progress.stopping_steps += 1
            logging.info("Monitor(%s)=%.6f STOP!", model._monitor_mode, monitored)
            if model._reduce_lr_on_plateau:
                given = {} if self.plateau_factor is None else {"factor": self.plateau_factor}
                logging.info("Reduce learning rate on plateau: %.6f", model.lr_decay(**given))
        if progress.stopping_steps >= model._early_stop_patience:
            progress.finished = True
            logging.info("********* Epoch=%d early stop *********", progress.epoch + 1)
        self._save_state(train)
        if self.on_evaluation is not None:
            self.on_evaluation(progress)

    def _improves(self, value: float) -> bool:
        best = self.progress.best_value
        if best is None:
            return True
        return value < best - MIN_DELTA if self.model._monitor_mode == "min" else value > best + MIN_DELTA

    def _save_inside(self, train: MultimodalDataLoader, loss_sum: torch.Tensor, loss_steps: int) -> None:
        """Save a state between two evaluations, unless the training has diverged, which the next evaluation says."""
        if bool(torch.isfinite(sum_over_ranks(loss_sum))) and finite_everywhere(self.model):
            if self.parallel is not None:
                self.parallel.agree(self.average)
            self._save_state(train, loss_sum, loss_steps)
            logging.info("State saved in epoch %d after step %d", self.progress.epoch + 1, self.progress.step)
        self.saving.saved()

    def _save_state(
        self, train: MultimodalDataLoader, loss_sum: torch.Tensor | None = None, loss_steps: int = 0
    ) -> None:
        if self._states.path is not None:
            made = TrainingState(self.progress, train.state_dict(), len(train), loss_sum, loss_steps)
            try:
                state = made.as_dict(self.model, self.average, self.owner)
            except Unwritable as error:
                # Rows of sharded tables.
                logging.warning("%s: this step is not saved, what was saved before is kept", error)
            else:
                if self.ranks.first and self._states.write(state) and self._tables is not None:
                    self.model.spread.written()
        self.saving.saved()

    def _with_progress(self, loader: MultimodalDataLoader, name: str, *, leave: bool = True) -> Iterator[Batch]:
        verbose = bool(self.model._verbose)
        yield from followed(
            loader,
            # Of a split that is scored, the other ranks are about as far as rank 0, which shows it.
            size=lambda batch: batch.global_rows if batch.share is not None else len(batch) * self.ranks.world_size,
            total=loader.num_samples,
            what=name,
            shown=self.ranks.first,
            verbose=verbose,
            leave=leave,
        )
