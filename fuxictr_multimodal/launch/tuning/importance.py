"""Which tuned parameter moved the result: fANOVA through Optuna, or the variance of means without it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.settings import Axis, Range

FEWEST = 4  # completed trials, below which a share says nothing


@dataclass(frozen=True)
class Importance:
    """Shares by parameter, largest first, and how they were computed; no shares where that makes no sense."""

    method: str
    shares: dict[str, float]


def importance(records: Sequence[Record], axes: dict[str, Axis]) -> Importance:
    """Share of the variance of the validation value that each parameter explains by itself, over completed trials."""
    done = [record for record in records if record.status == "completed" and record.value is not None]
    seen = {key: {json.dumps(r.trial.settings[key]) for r in done} for key in axes}
    varied = {key: axis for key, axis in axes.items() if len(seen[key]) > 1}
    if len(done) < FEWEST or not varied:
        return Importance(f"none: fewer than {FEWEST} completed trials, or nothing varied among them", {})
    if len({record.value for record in done}) == 1:
        return Importance("none: all completed trials have the same value", {})
    try:
        shares, method = _fanova(done, varied), "fANOVA (random forest, Optuna), completed trials"
    except ModuleNotFoundError:
        shares, method = _variance_of_means(done, varied), "variance of the means by value over the whole variance"
    return Importance(method, dict(sorted(shares.items(), key=lambda item: -item[1])))


def _fanova(done: Sequence[Record], axes: dict[str, Axis]) -> dict[str, float]:
    import optuna

    distributions = {}
    for key, axis in axes.items():
        if isinstance(axis, Range):
            kind = optuna.distributions.IntDistribution if axis.integer else optuna.distributions.FloatDistribution
            distributions[key] = kind(axis.low, axis.high, log=axis.log)
        else:
            distributions[key] = optuna.distributions.CategoricalDistribution([json.dumps(value) for value in axis])
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        for record in done:
            settings = record.trial.settings
            params = {k: settings[k] if isinstance(a, Range) else json.dumps(settings[k]) for k, a in axes.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=record.value))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _variance_of_means(done: Sequence[Record], axes: dict[str, Axis]) -> dict[str, float]:
    """Main effects; ranges are cut into four parts of equal count."""
    total = statistics.pvariance([record.value for record in done])
    shares = {}
    for key, axis in axes.items():
        groups: dict[object, list[float]] = {}
        if isinstance(axis, Range):
            ordered = sorted(done, key=lambda record: record.trial.settings[key])
            for index, record in enumerate(ordered):
                groups.setdefault(4 * index // len(ordered), []).append(record.value)
        else:
            for record in done:
                groups.setdefault(json.dumps(record.trial.settings[key]), []).append(record.value)
        means = [statistics.fmean(values) for values in groups.values() for _ in values]
        shares[key] = statistics.pvariance(means) / total
    return shares
