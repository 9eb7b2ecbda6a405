"""Make scores agree with observed rates: Platt scaling or isotonic regression, fitted on the valid split.

    platt:    p' = 1 / (1 + exp(-(a logit(p) + b)))     (Platt 1999, with his targets (P + 1) / (P + 2) and 1 / (N + 2))
    isotonic: p' = the non-decreasing step function of p that is nearest to the labels, linear between its steps

with P positives and N negatives of the valid split. Neither changes the order of the scores, but for ties. A
calibration is kept beside the model as `<run>.calibration.json`, and used again as long as the weights are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean
from fuxictr_multimodal.metrics.classification import expected_calibration_error, log_loss
from fuxictr_multimodal.metrics.rows import checked
from fuxictr_multimodal.system.files import kept_if_possible, sha256, write_json
from fuxictr_multimodal.system.untrusted.json_files import read_json_file
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.trainer import Trainer

METHODS = ("platt", "isotonic")
FORMAT_VERSION = 1
# What float32 can tell from 0 and from 1: scores are that precise.
CLOSEST = 2.0**-24
# Steps of isotonic regression follow the noise of fewer samples.
FEW_SAMPLES = 1000


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing function of scores.

    Attributes:
        method: one of `METHODS`.
        numbers: `slope` and `intercept` of `platt`; `scores` and `probabilities`, the corners of `isotonic`.

    >>> twice = Calibration("platt", {"slope": 2.0, "intercept": 0.0})
    >>> twice.apply([0.5, 0.8]).tolist()  # odds 1 and 4 become 1 and 16
    [0.5, 0.9411764705882353]
    """

    method: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, method: str, labels: ArrayLike, scores: ArrayLike) -> Calibration:
        """Fit to labels (N,) and scores (N,), which are probabilities.

        Raises:
            ConfigError: the method is unknown.
            DataError: the labels are of one class, or the scores do not rise with them.
        """
        check_method(method)
        y, p = checked(labels, scores)
        if y.all() or not y.any():
            found = f"all {len(y)} samples have label {int(y[0])}" if len(y) else "it has no samples"
            raise DataError(f"a calibration needs both labels in the valid split, but {found}")
        return cls(method, _platt(y, p) if method == "platt" else _isotonic(y, p))

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities, (N,) as the scores."""
        p = np.asarray(scores, dtype=np.float64)
        if self.method == "isotonic":
            return np.interp(p, self.numbers["scores"], self.numbers["probabilities"])
        return _sigmoid(self.numbers["slope"] * _logit(p) + self.numbers["intercept"])


@dataclass(frozen=True)
class Effect:
    """Calibration error and log loss of some samples, as the model scores them and calibrated."""

    before: dict[str, float]
    after: dict[str, float]

    @classmethod
    def of(cls, labels: ArrayLike, raw: ArrayLike, calibrated: ArrayLike) -> Effect:
        """Of labels and both scores, each (N,)."""
        return cls(
            *({"ECE": expected_calibration_error(labels, p), "logloss": log_loss(labels, p)} for p in (raw, calibrated))
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4f} -> {self.after[name]:.4f}" for name, value in self.before.items())


def check_method(method: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: naming the nearest one.
    """
    if method not in METHODS:
        raise ConfigError(f"calibrate: {method!r} is unknown. {did_you_mean(str(method), METHODS)}")


def calibration_of(
    experiment: Experiment, trainer: Trainer, method: str, *, weights: Path, keep: Path | None
) -> Calibration:
    """The calibration of a model: the kept one if it belongs to these weights, else fitted on the valid split.

    Args:
        experiment: whose valid split is scored.
        trainer: with the model.
        method: one of `METHODS`.
        weights: file of the weights that the model has.
        keep: file where calibrations are kept, or None.

    Raises:
        ConfigError: the method is unknown, or the model predicts no probabilities.
        DataError: there is no valid split, or it has one class.
    """
    check_method(method)
    if experiment.params.get("task", "binary_classification") != "binary_classification":
        raise ConfigError(f"calibrate: {experiment.run} predicts no probabilities (task {experiment.params['task']!r})")
    owner = {"weights": sha256(weights), "dataset": experiment.store.manifest.hash}
    kept = {} if keep is None else _kept(keep, owner)
    if method in kept:
        logging.info("Calibration of %s", keep)
        return Calibration(method, kept[method])
    valid = experiment.split_loader("valid", trainer.model.feature_map, trainer.model.device)
    predictions = trainer.predict(valid)
    if predictions.labels is None:
        raise DataError(f"calibrate: the valid split of {experiment.store.place} has no labels")
    if method == "isotonic" and len(predictions.scores) < FEW_SAMPLES:
        logging.warning(
            "Isotonic regression on %d valid samples follows their noise: platt suits fewer than %d",
            len(predictions.scores),
            FEW_SAMPLES,
        )
    found = Calibration.fit(method, predictions.labels, predictions.scores)
    if keep is not None:
        with kept_if_possible(keep):
            write_json(keep, {"format_version": FORMAT_VERSION, **owner, "methods": kept | {method: found.numbers}})
    return found


def _kept(path: Path, owner: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Calibrations of these weights by method; those of others are made again, and so is a damaged file."""
    try:
        stored = read_json_file(path)
        if stored["format_version"] == FORMAT_VERSION and all(stored[key] == value for key, value in owner.items()):
            kept = {method: numbers for method, numbers in stored["methods"].items() if method in METHODS}
            applied = [Calibration(method, numbers).apply([0.0, 0.5, 1.0]) for method, numbers in kept.items()]
            return kept if all(((values >= 0) & (values <= 1)).all() for values in applied) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        pass
    return {}


def _platt(y: NDArray[np.bool_], p: NDArray[np.float64]) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    positives, negatives = int(y.sum()), int((~y).sum())
    target = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # A sample with the target t is a positive of weight t and a negative of weight 1 - t.
    logits = _logit(p)[:, None]
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(
        np.concatenate([logits, logits]), np.repeat([1, 0], len(y)), sample_weight=np.concatenate([target, 1 - target])
    )
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 0:
        raise DataError(
            f"calibrate: on the valid split scores do not rise with the labels (slope {slope:.4f}): the model has not "
            "learnt to rank, so that there is nothing to calibrate"
        )
    return {"slope": slope, "intercept": intercept}


def _isotonic(y: NDArray[np.bool_], p: NDArray[np.float64]) -> dict[str, Any]:
    from sklearn.isotonic import IsotonicRegression

    # Of N samples no rate is certain (Laplace's rule): a 0 or 1 that is wrong once would have an infinite log loss.
    least = 1 / (len(y) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(p, y.astype(np.float64))
    if len(fitted.y_thresholds_) < 2 or fitted.y_thresholds_[0] == fitted.y_thresholds_[-1]:
        raise DataError(
            "calibrate: on the valid split scores do not rise with the labels (one step): the model has not learnt to "
            "rank, so that there is nothing to calibrate"
        )
    return {"scores": fitted.X_thresholds_.tolist(), "probabilities": fitted.y_thresholds_.tolist()}


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, CLOSEST, 1 - CLOSEST)
    return np.log(p) - np.log1p(-p)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))
