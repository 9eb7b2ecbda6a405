"""Progress of running trials: a live table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from fuxictr_multimodal.launch.tuning.outcome import Record, best_record
from fuxictr_multimodal.launch.tuning.space import Trial
from fuxictr_multimodal.text.escape import one_line, visible

ROWS = 12
STYLES = {"running": "cyan", "completed": "green", "failed": "red", "pruned": "yellow", "queued": "dim"}


class Board:
    """Shows the trials of one or several sweeps.

    Args:
        records: returns the known trials.
        open_trials: returns how many trials have not started.
        varied: the tuned keys that tell trials apart; a trial has those of its model.
        console: receives the output; a terminal gets the live table.
    """

    def __init__(
        self,
        *,
        records: Callable[[], Sequence[Record]],
        open_trials: Callable[[], int],
        varied: Sequence[str],
        console: Console,
    ) -> None:
        self._records = records
        self._open_trials = open_trials
        self._varied = varied
        self._console = console
        self._started = time.monotonic()
        self._ended_here = 0
        self._open = 0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Board:
        self._open = self._open_trials()
        if self._live:
            self._live.start()
        reused = sum(record.reused for record in self._records())
        if reused:
            self._console.print(f"{reused} trials are already finished and are not run again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def on_change(self, event: str, record: Record | None) -> None:
        """Show a `start`, an `end`, a `retry`, a `lost` worker or the passing of time, `tick`."""
        if event != "tick":
            self._open = self._open_trials()
        if event == "end" and record is not None and not record.reused:
            self._ended_here += 1
        if self._live:
            self._live.update(self._table(), refresh=True)
        elif record is not None:
            self._console.print(Text(visible(self._line(event, record))), soft_wrap=True)

    def _line(self, event: str, record: Record) -> str:
        settings = short_settings(record.trial, self._varied)
        if event == "start":
            return f"start   {record.ran.expid}  {settings}"
        if event == "retry":
            batch = f"batch_size {record.ran.params['batch_size']}"
            return f"retry   {record.trial.expid} ran out of memory: retried as {record.ran.expid}, {batch}"
        if event == "lost":
            return f"lost    {record.trial.expid} with its worker: it will run again"
        what = record.error[0] if record.error else f"{_number(record.value)} after {record.seconds:.0f} s"
        return f"{record.status:<9} {record.trial.expid}  {settings}  {what}  [{self._totals()}]"

    def _totals(self) -> str:
        counts = count(self._records())
        parts = [f"{n} {status}" for status, n in counts.items() if n and status != "queued"]
        parts.append(f"{self._open} queued")
        best = best_record(list(self._records()))
        if best:
            parts.append(f"best {_number(best.value)} {best.trial.expid}")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """Estimate for the remaining trials, at the pace of those that ended since the start."""
        running = count(self._records())["running"]
        if not self._ended_here or not (self._open or running):
            return None
        pace = (time.monotonic() - self._started) / self._ended_here
        return pace * (self._open + running / 2)

    def _table(self) -> Table:
        """Running trials first, then the best one, then the latest that ended."""
        records = list(self._records())
        table = Table(
            *map(Column, ("trial", "status")),
            *(Column(name, justify="right") for name in ("valid", "evaluations", "seconds")),
            Column("settings", overflow="fold"),
            title=Text(self._totals(), style="table.title"),
            title_justify="left",
        )
        running = [record for record in records if record.status == "running"]
        ended = [record for record in records if record.status in ("completed", "failed", "pruned")]
        best = best_record(records)
        shown = running + ([best] if best else [])
        shown += [record for record in reversed(ended) if record is not best][: max(0, ROWS - len(shown))]
        for record in shown:
            value = record.value if record.value is not None else (record.curve[-1] if record.curve else None)
            table.add_row(
                Text(one_line(record.trial.expid) + (" (best)" if record is best else "")),
                Text(record.status, style=STYLES[record.status]),
                _number(value),
                str(len(record.curve)),
                f"{record.seconds:.0f}",
                Text(one_line(record.error[0] if record.error else short_settings(record.trial, self._varied))),
            )
        return table


def count(records: Sequence[Record]) -> dict[str, int]:
    """Number of trials of each status."""
    return {status: sum(record.status == status for record in records) for status in STYLES}


def short_settings(trial: Trial, keys: Sequence[str]) -> str:
    """The tuned values that distinguish a trial."""
    return " ".join(f"{key}={short(trial.settings[key])}" for key in keys if key in trial.settings)


def short(value: object) -> str:
    """A value for a table; floats have four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(59), duration(61), duration(7380)
    ('59 s', '1 min', '2 h 3 min')
    """
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
