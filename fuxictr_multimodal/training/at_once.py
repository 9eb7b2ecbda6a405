"""Train a model that is fitted at once, such as trees, under the runner's protocol: curve, checkpoint, progress."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.metrics import classification as metrics
from fuxictr_multimodal.system.ranks import current
from fuxictr_multimodal.training.checkpoint import save_checkpoint
from fuxictr_multimodal.training.progress import Evaluation, Progress

if TYPE_CHECKING:
    from fuxictr_multimodal.data.loader import MultimodalDataLoader
    from fuxictr_multimodal.training.trainer import Trainer

# What only a training in steps can do.
OF_STEPS = ("warm_start", "weight_averaging", "shard_min_rows")


def fits_at_once(model: Any) -> bool:
    """Whether a model has `fit_at_once`, which takes both splits, in place of steps."""
    return hasattr(model, "fit_at_once")


def refuse_explanation(model: Any) -> None:
    """Refuse what reads or shuffles the inputs of a network.

    Raises:
        ConfigError: the model is fitted at once.
    """
    if fits_at_once(model):
        raise ConfigError(
            f"{type(model).__name__} is fitted at once, so its parts cannot be explained: train it without a group of "
            "features to see what that is worth, for example with --set without_features=[similarity]"
        )


def refuse_steps(params: Mapping[str, Any]) -> None:
    """Refuse what needs steps of training, before anything is trained.

    Raises:
        ConfigError: naming the setting, or several processes.
    """
    for key in OF_STEPS:
        if params.get(key):
            raise ConfigError(f"{key}: {params['model']} is fitted at once, not in steps: leave it out")
    if current().several:
        raise ConfigError(f"{params['model']} is fitted by one process: run it without torchrun")


def fit_at_once(trainer: Trainer, train: MultimodalDataLoader, valid: MultimodalDataLoader) -> Progress:
    """Fit the model, save it as its checkpoint, and return the way there; an epoch is one tree.

    Args:
        trainer: of the model.
        train: with labels.
        valid: with labels; the model may use it to stop.

    Raises:
        ConfigError: a monitored metric has no value on the validation split, or the model cannot be fitted.
    """
    model = trainer.model
    trainer.refuse_undefined_monitor(valid)
    labels, groups = valid.labels_and_groups()
    progress = Progress(train_rows=train.num_samples, finished=True)
    started = time.perf_counter()
    for stage in model.fit_at_once(train, valid):
        if not progress.curve:
            progress.train_seconds = time.perf_counter() - started
        values = metrics.evaluate(labels, stage.scores, model._monitor.get_metrics(), groups)
        monitored = float(model._monitor.get_value(values))
        assert math.isfinite(monitored)
        progress.curve.append(
            Evaluation(
                epoch=stage.trees,
                step=stage.trees,
                train_loss=stage.train_loss,
                learning_rate=model.settings.learning_rate,
                metrics=values,
                monitor=monitored,
                best=stage.kept,
                seconds=progress.train_seconds,
            )
        )
        if stage.kept:
            progress.best_epoch, progress.best_value = stage.trees, monitored
    progress.epoch = progress.step = progress.curve[-1].epoch
    save_checkpoint(model)
    logging.info(
        "Fitted %d trees in %.1f s; valid log loss is lowest after %d",
        progress.step,
        progress.train_seconds,
        progress.best_epoch,
    )
    return progress
