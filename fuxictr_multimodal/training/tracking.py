"""Log a run to a tracker such as TensorBoard: settings, each evaluation and final metrics, each once."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.training.run_names import RunFiles

# By name the module of its `Sink`; the package of a tracker is imported only when it is asked for.
TRACKERS = {
    "tensorboard": "fuxictr_multimodal.training.tracking_tensorboard",
    "mlflow": "fuxictr_multimodal.training.tracking_mlflow",
    "wandb": "fuxictr_multimodal.training.tracking_wandb",
}


class Sink(Protocol):
    """Where one tracker keeps a run.

    Attributes:
        last_step: the last training step whose scalars an earlier process of the run has written, -1 for none.
    """

    last_step: int

    def settings(self, values: Mapping[str, Any]) -> None:
        """Keep the settings of the run, values by dotted key."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep values of a training step."""

    def final(self, values: Mapping[str, float]) -> None:
        """Keep the final metrics."""

    def close(self, *, completed: bool) -> None:
        """End the run there; the last call, also of a run that failed."""


class Tracking:
    """Passes the values of a run on to a sink, if there is one.

    A sink that fails is given up: a warning says so once, and the run continues without it.

    Args:
        sink: of the tracker; None keeps nothing.
    """

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._completed = False
        self._told = 0

    def started(self, config: Mapping[str, Any]) -> None:
        """Log the settings of the run, as the report has them."""
        with self._given_up_on_failure() as sink:
            sink.settings(flat(config))

    def evaluated(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Log the new evaluations of the whole learning curve so far (rows of `Report.curve`)."""
        with self._given_up_on_failure() as sink:
            for row in curve[self._told :]:
                # A resumed run has its whole curve.
                if row["step"] > sink.last_step:
                    sink.scalars(scalars(row), row["step"])
        self._told = len(curve)

    def finished(self, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Log the final metrics that are defined, `final_<split>/<metric>`; only of a complete run."""
        self._completed = True
        defined = {
            f"final_{split}/{name}": value
            for split, values in metrics.items()
            for name, value in values.items()
            if value is not None
        }
        with self._given_up_on_failure() as sink:
            sink.final(defined)

    def close(self) -> None:
        """End the run at the tracker."""
        with self._given_up_on_failure() as sink:
            sink.close(completed=self._completed)

    @contextlib.contextmanager
    def _given_up_on_failure(self) -> Iterator[Sink]:
        try:
            yield self._sink or _Nobody()
        except Exception as error:
            self._sink = None
            _warn(error)


class _Nobody:
    last_step = -1

    def settings(self, values: Mapping[str, Any]) -> None: ...
    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def final(self, values: Mapping[str, float]) -> None: ...
    def close(self, *, completed: bool) -> None: ...


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Names and values of one row of a learning curve.

    >>> scalars({"step": 16, "train_loss": 0.5, "learning_rate": 0.002, "metrics": {"AUC": 0.7}})
    {'train/loss': 0.5, 'train/learning_rate': 0.002, 'valid/AUC': 0.7}
    """
    found = {"train/loss": row["train_loss"], "train/learning_rate": row["learning_rate"]}
    return found | {f"valid/{name}": value for name, value in row["metrics"].items()}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; a list is JSON text.

    >>> flat({"epochs": 2, "synthetic": {"rows": 9, "sizes": [1, 2]}, "note": None})
    {'epochs': 2, 'synthetic.rows': 9, 'synthetic.sizes': '[1, 2]', 'note': None}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return found


def make_tracker(name: str | None, files: RunFiles, *, resumed: bool = False) -> Tracking:
    """The tracker of a run.

    Args:
        name: one of `TRACKERS`; None keeps nothing and imports nothing.
        files: of the run.
        resumed: whether the tracker continues an earlier process of this run.

    Raises:
        ConfigError: an unknown name, a package that is not installed, or a missing login.
    """
    if name is None:
        return Tracking(None)
    if name not in TRACKERS:
        raise ConfigError(f"--tracker {name!r} is not known. {did_you_mean(name, TRACKERS)}")
    try:
        return Tracking(importlib.import_module(TRACKERS[name]).open_sink(files, resumed=resumed))
    except ImportError as error:
        raise ConfigError(
            f"--tracker {name} needs a package that is not installed ({error}): "
            f"pip install 'fuxictr-multimodal[{name}]'"
        ) from None
    except InputError:
        raise
    except Exception as error:
        _warn(error)
        return Tracking(None)


def _warn(error: Exception) -> None:
    logging.warning("the tracker failed and receives no further values (%s); the result is not affected", error)
