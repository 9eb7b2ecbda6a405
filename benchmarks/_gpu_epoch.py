"""The loader with its rows on the GPU, and whole epochs of training through it, for `gpu_check.py`."""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from _gpu_runner import Options, Report
from _gpu_timing import device_of, finish, host_waits, known, require_no_waits
from _gpu_training import make, sizes, use
from _split import make_loader, write_split

if TYPE_CHECKING:
    from fuxictr_multimodal.data.loader import MultimodalDataLoader
    from model_zoo.QIN import QIN

BATCHES = 440  # of 8192: 3,604,480 samples, the challenge's 3.6 M in whole batches
PUBLISHED_S, AIM_S = 170, 4  # an epoch as published, on a card of the 4090 class; what an H200 should take
# The fastest first. A compiled one compiles in the steps before the epoch.
WAYS = (("bf16", False), ("bf16", True), ("tf32", False), ("tf32", True), ("float32", False))
TRIED = 40  # steps that tell how long an epoch will take


def epoch(options: Options, report: Report) -> None:
    """Rows per second of the loader alone, and seconds of an epoch with it, in each way that there is time for."""
    device = device_of(options)
    of = sizes(options, "bf16")
    batches = 6 if options.small else BATCHES
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        mean_length = write_split(Path(folder) / "train", batches * of.batch_size, of.items, of.mean_length)
        report(samples=batches * of.batch_size, mean_length=mean_length, write_s=time.perf_counter() - started)
        started = time.perf_counter()
        loader = make_loader(Path(folder) / "train", batch_size=of.batch_size, mode="resident", device=str(device))
        finish(device)
        rows = loader._resident
        assert rows is not None
        report(open_s=time.perf_counter() - started, rows_are_on=str(rows.target.device))
        waits = _alone(loader, report, device)
        if rows.target.device != device:
            raise AssertionError(f"the loader keeps its rows on {rows.target.device}, not on {device}")
        _train(options, loader, report, device)
    require_no_waits("20 batches of the loader", waits)


def _alone(loader: MultimodalDataLoader, report: Report, device: torch.device) -> int | None:
    """The loader without a model; how often the host waits in 20 batches."""

    def all_batches() -> int:
        return sum(len(batch) for batch in loader)

    all_batches()
    finish(device)
    started = time.perf_counter()
    rows = all_batches()
    finish(device)
    taken = time.perf_counter() - started

    def some() -> None:
        for _ in itertools.islice(loader, 20):
            pass

    waits = host_waits(device, some)
    report(loader_rows_per_s=rows / taken, loader_epoch_s=taken, **known(loader_host_waits=waits))
    return waits


def _train(options: Options, loader: MultimodalDataLoader, report: Report, device: torch.device) -> None:
    model, ready = make(options, "bf16")
    best = None
    for precision, compiled in WAYS[:1] if options.small else WAYS:
        name = f"epoch_{precision}{'_compiled' if compiled else ''}"
        if report.left() < (45 if compiled else 12):
            report(**{name: {"left_out": "no time was left"}})
            continue
        with report.attempt(name):
            use(model, precision, compiled=compiled)
            for _ in range(2):
                for batch in ready:
                    model.train_step(batch)
            taken, steps = _epoch(model, loader, device, least=report.left() - 8)
            figures = {"s": taken * len(loader) / steps, "rows_per_s": steps * loader.batch_size / taken}
            if steps < len(loader):
                figures["extrapolated_from_steps"] = steps
            best = min(best or figures["s"], figures["s"])
            report(**{name: figures})
    if best is None:
        raise AssertionError("no epoch was trained; the log says why")
    report(best_epoch_s=best, aim_s=AIM_S, published_s=PUBLISHED_S)


def _epoch(model: QIN, loader: MultimodalDataLoader, device: torch.device, *, least: float) -> tuple[float, int]:
    """Seconds and steps of an epoch, or of its first steps if all of it would take more than `least` seconds."""
    loader.load_state_dict({"epoch": 1, "batch": 0})
    finish(device)
    started = time.perf_counter()
    steps = 0
    loss = torch.zeros((), device=device)
    for steps, batch in enumerate(loader, start=1):
        loss = model.train_step(batch)
        if steps == TRIED:
            finish(device)
            if (time.perf_counter() - started) * len(loader) / steps > least:
                break
    if not torch.isfinite(loss):
        raise AssertionError(f"the loss is {loss.item()} after {steps} steps")
    finish(device)
    return time.perf_counter() - started, steps
