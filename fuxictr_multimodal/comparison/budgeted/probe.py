"""A short probe of a model: how many samples a second it trains on and scores."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuxictr_multimodal.system.files import write_json

# The first steps allocate memory and choose algorithms.
WARM_UP_STEPS = 2
# Of train and of valid, for a model that is fitted at once.
PROBED_ROWS = 16_384


@dataclass(frozen=True)
class Speed:
    """What a probe measured.

    Attributes:
        train: samples a second.
        score: samples a second.
        start: seconds until the first step, from the start of the process where the caller knows it.
        worked: seconds of the probe that were not its start.
        at_once: whether a run reads train and valid once, whatever its epochs.
    """

    train: float
    score: float
    start: float
    worked: float = 0.0
    at_once: bool = False

    def seconds(self, *, rows: int, valid_rows: int, test_rows: int, epochs: int) -> float:
        """Seconds of a run of so many epochs, its start included.

        >>> Speed(train=100, score=1000, start=2).seconds(rows=1000, valid_rows=1000, test_rows=1000, epochs=3)
        37.0
        """
        epochs = 1 if self.at_once else epochs
        scored = valid_rows * (epochs + 1) + test_rows
        return self.start + epochs * rows / self.train + scored / self.score


def probe(config_dir: Path, expid: str, *, gpu: int, seconds: float, path: Path) -> None:
    """Train and score a model for a moment, and write its `Speed` as JSON; nothing else is left behind.

    Args:
        config_dir: the config folder.
        expid: the experiment.
        gpu: index of the GPU, -1 for the CPU.
        seconds: of training, and a third of them of scoring.
        path: what is written.

    Raises:
        InputError: whatever is wrong with the experiment or its data.
    """
    started = time.perf_counter()
    # Called in the process of a job, the only one that imports torch.
    import torch
    from fuxictr.pytorch.torch_utils import seed_everything

    from fuxictr_multimodal.system.machine import cpu_threads, keep_freed_memory
    from fuxictr_multimodal.training.at_once import fits_at_once
    from fuxictr_multimodal.training.experiment import Experiment
    from fuxictr_multimodal.training.trainer import fit_batches

    keep_freed_memory()
    experiment = Experiment.load(config_dir, expid, gpu=gpu)
    with cpu_threads(experiment.params.get("cpu_threads")):
        seed_everything(seed=experiment.params["seed"])
        feature_map = experiment.feature_map()
        model, to_inputs = experiment.build_model(feature_map)
        train, valid = experiment.loaders("train", feature_map, model.device)
        if fits_at_once(model):
            start = time.perf_counter() - started
            speed = _speed_at_once(model, train, valid, start)
            write_json(path, asdict(speed))
            return
        fit_batches(train, model)
        model._max_gradient_norm = experiment.params.get("max_gradient_norm", 10.0)
        model._batch_index = model._epoch_index = 0
        model.train()
        model.optimizer.zero_grad()

        def train_step(batch: Any) -> None:
            model.train_step(to_inputs(batch))

        start = time.perf_counter() - started
        trained = _rate(train, train_step, seconds, model.device)
        model.eval()
        with torch.no_grad():
            scored = _rate(valid, lambda batch: model.forward(to_inputs(batch)), seconds / 3, model.device)
    worked = time.perf_counter() - started - start
    write_json(path, asdict(Speed(train=trained, score=scored, start=start, worked=worked)))


def _speed_at_once(model: Any, train: Any, valid: Any, start: float) -> Speed:
    """The speed of a model that is fitted at once, by a fit to the first batches."""
    began = time.perf_counter()
    batches, scored = _first(train, PROBED_ROWS), _first(valid, PROBED_ROWS)
    for _ in model.fit_at_once(batches, scored):
        pass
    fitted = time.perf_counter()
    for batch in scored:
        model.forward(batch)
    ended = time.perf_counter()
    return Speed(
        train=sum(map(len, batches)) / (fitted - began),
        score=sum(map(len, scored)) / (ended - fitted),
        start=start,
        worked=ended - began,
        at_once=True,
    )


def _first(batches: Any, rows: int) -> list[Any]:
    """The batches up to a number of rows."""
    found: list[Any] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= rows:
            break
    return found


def _rate(batches: Any, work: Any, seconds: float, device: Any) -> float:
    """Samples a second, of the steps after the first ones where there are more."""
    import torch

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = since = now()
    rows = 0
    for step, batch in enumerate(batches):
        if step == WARM_UP_STEPS:
            since, rows = now(), 0
        work(batch)
        rows += len(batch)
        if step >= WARM_UP_STEPS and now() - begun >= seconds:
            break
    return rows / max(now() - since, 1e-6)
