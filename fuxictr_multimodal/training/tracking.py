"""Scalars of a run for a tracker such as TensorBoard, from the same progress that the report is written from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean

TRACKERS = ("tensorboard",)


class Tracker(Protocol):
    """What the runner tells a tracker."""

    def evaluated(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Told after each evaluation, with the whole learning curve so far (rows of `Report.curve`)."""

    def finished(self, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Told once at the end, with the final metrics by split."""

    def close(self) -> None:
        """Flush and close; the last call, also of a run that failed."""


class NoTracker:
    """Keeps nothing."""

    def evaluated(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to do."""

    def finished(self, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class TensorBoardTracker:
    """Writes event files to a folder.

    A run that is resumed tells its whole curve again: what an earlier process wrote there is declared void, so no
    point is drawn twice.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"--tracker tensorboard needs a package that is not installed ({error}): "
                "pip install 'fuxictr-multimodal[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(log_dir=str(directory), purge_step=0)
        self._told = 0

    def evaluated(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows that are new."""
        for row in curve[self._told :]:
            for name, value in scalars(row).items():
                self._writer.add_scalar(name, value, global_step=row["step"])
        self._told = len(curve)
        self._writer.flush()

    def finished(self, metrics: Mapping[str, Mapping[str, float | None]]) -> None:
        """Write the final metrics that are defined as `final_<split>/<metric>`."""
        for split, values in metrics.items():
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"final_{split}/{name}", value, global_step=0)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Names and values of one row of a learning curve.

    >>> scalars({"step": 16, "train_loss": 0.5, "learning_rate": 0.002, "metrics": {"AUC": 0.7}})
    {'train/loss': 0.5, 'train/learning_rate': 0.002, 'valid/AUC': 0.7}
    """
    found = {"train/loss": row["train_loss"], "train/learning_rate": row["learning_rate"]}
    return found | {f"valid/{name}": value for name, value in row["metrics"].items()}


class CarefulTracker:
    """Tells another tracker until that fails: then a warning says so once, and the run continues without it."""

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self._tracker: Tracker = NoTracker()
        with self._given_up_on_failure():
            self._tracker = make()

    def evaluated(self, curve: Sequence[Mapping[str, Any]]) -> None:
        """Told on."""
        with self._given_up_on_failure():
            self._tracker.evaluated(curve)

    def finished(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Told on."""
        with self._given_up_on_failure():
            self._tracker.finished(metrics)

    def close(self) -> None:
        """Told on."""
        with self._given_up_on_failure():
            self._tracker.close()

    @contextlib.contextmanager
    def _given_up_on_failure(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            self._tracker = NoTracker()
            logging.warning("the tracker failed and is not told any more (%s); the result is not affected", error)


def make_tracker(name: str | None, directory: Path) -> Tracker:
    """The tracker of that name, writing to `directory`; None gives one that keeps nothing.

    Raises:
        ConfigError: an unknown name, or its package is not installed.
    """
    if name is None:
        return NoTracker()
    if name == "tensorboard":
        return CarefulTracker(lambda: TensorBoardTracker(directory))
    raise ConfigError(f"--tracker {name!r} is not known. {did_you_mean(name, TRACKERS)}")
