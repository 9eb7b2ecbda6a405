"""The sweep of one model: the source of its trials, its folder, its jobs, and its summary."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fuxictr_multimodal.launch.job import Job, run_script
from fuxictr_multimodal.launch.tuning.board import count
from fuxictr_multimodal.launch.tuning.folder import SweepFolder, write_config
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.space import Space, Trial
from fuxictr_multimodal.launch.tuning.summary import write_summary


class Source(Protocol):
    """Gives trials: the list of a grid, or a search; `trials` is how many there are, at most, in all."""

    name: str
    records: list[Record]
    trials: int

    def next(self) -> Record | None:
        """The next trial to run; None when there is none."""

    def open_trials(self) -> int:
        """How many trials may still come from `next`."""

    def elsewhere(self) -> int:
        """How many trials run on other machines, which may lose them."""

    def should_stop(self, record: Record) -> bool:
        """Whether to prune a running trial, whose curve has grown."""

    def ended(self, record: Record) -> None:
        """Record a trial that is completed, failed or pruned."""

    def refresh(self) -> None:
        """Bring `records` up to date with what other workers did."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What the scheduler runs; several sweeps may share a pool.

    Attributes:
        space: of the model.
        folder: for configuration, logs and summary.
        source: gives the trials.
        restart: finds complete reports, and the smaller variant of a trial that ran out of memory.
        search: `grid`, `random` or `tpe`.
        script: what runs a trial.
    """

    space: Space
    folder: SweepFolder
    source: Source
    restart: Restart
    search: str
    script: Path

    def publish(self, *more: Trial) -> None:
        """Write the folder's configuration: every trial of the source, its retries, and `more`.

        Trials of other workers may be about to read the files: they are written under the lock that a worker holds
        when it draws a trial, and include what the others have drawn.
        """
        with self.folder.shared():
            self.source.refresh()
            known = [trial for record in self.source.records for trial in (record.trial, record.ran)]
            write_config(self.folder.path, {trial.expid: trial for trial in (*known, *more)})

    def job(self, trial: Trial, gpu: int) -> Job:
        """The run of a trial, `script --config <folder> --expid <trial> --gpu <index>` as FuxiCTR's tuner has it."""
        arguments = ["--config", str(self.folder.path), "--expid", trial.expid, "--gpu", str(gpu)]
        work = functools.partial(run_script, self.script, [*arguments, *self.restart.options(trial)])
        return Job(trial.expid, work, self.folder.log(trial.expid))

    def summarise(self, console: Console, *, pictures: bool = True) -> None:
        """Write the summary of the trials so far, and print where it is."""
        self.source.refresh()
        best = write_summary(
            self.folder,
            self.space,
            self.source.records,
            search=self.search,
            script=self.script,
            pictures=pictures,
        )
        fates = ", ".join(f"{n} {status}" for status, n in count(self.source.records).items() if n)
        console.print(f"{fates or 'no trial'}; summary in {self.folder.path / 'summary.md'}", soft_wrap=True)
        if best is not None:
            console.print(f"best {best.ran.expid}: valid {best.value:.6f}", soft_wrap=True, highlight=False)
