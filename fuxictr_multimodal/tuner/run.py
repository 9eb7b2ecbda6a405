"""One sweep from a tuner file to its summary."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

import fuxictr_multimodal
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.tuner import prepare
from fuxictr_multimodal.tuner.board import Board, count
from fuxictr_multimodal.tuner.folder import SweepFolder, write_config
from fuxictr_multimodal.tuner.outcome import Record
from fuxictr_multimodal.tuner.restart import Restart
from fuxictr_multimodal.tuner.scheduler import Grid, Scheduler, Source
from fuxictr_multimodal.tuner.slots import Slots, exit_text, start_guarded
from fuxictr_multimodal.tuner.space import Space, Trial
from fuxictr_multimodal.tuner.summary import write_summary

ROOT = Path(fuxictr_multimodal.__file__).resolve().parent.parent
SCRIPT = "run_expid.py"


def tune(
    config: Path,
    *,
    gpus: Sequence[int],
    expid: str | None = None,
    tag: str | None = None,
    script: Path | None = None,
    search: str = "grid",
    trials: int | None = None,
    seconds: float | None = None,
    retry_oom: bool = False,
    prune: bool = True,
    seed: int = 0,
    console: Console | None = None,
) -> list[Record]:
    """Run a sweep and write its summary.

    Args:
        config: the tuner file.
        gpus: one GPU index a slot, -1 for the CPU.
        expid: tuned instead of the file's `base_expid`, in a folder of its own.
        tag: run only trials whose expid contains it.
        script: what runs a trial instead of `run_expid.py`. It gets `--config`, `--expid` and `--gpu`, and writes the
            trial's report; where a report is there, it gets `--resume`, or `--overwrite` when that report is complete.
        search: `grid`, `random` or `tpe`.
        trials: of a search, over all its restarts.
        seconds: after this long no trial starts any more.
        retry_oom: run a trial that was out of memory once more with half the batch.
        prune: stop hopeless trials of a search early.
        seed: of the search.

    Returns:
        The trials and what became of them.

    Raises:
        InputError: whatever is wrong with the tuner file, its experiment or its data.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; running trials are ended, the summary so far is written.
    """
    console = console or Console()
    deadline = None if seconds is None else time.monotonic() + seconds
    if search != "grid" and trials is None and seconds is None:
        raise ConfigError(f"--search {search} has no end: give --trials or --time")
    space = Space.read(config, expid=expid)
    folder = SweepFolder.of(config, search=search, seed=seed, expid=expid)
    restart = Restart(space, retry_oom=retry_oom)
    command, own = _script(script)
    if not own:
        space.refuse_unlisted_keys()
    with _source(space, folder, restart, search=search, tag=tag, trials=trials, prune=prune, seed=seed) as source:
        total = len(source.records) if search == "grid" else trials or "as many as the time allows"
        console.print(f"{space.base_expid}, {search}: {total} trials in {folder.path}", soft_wrap=True)
        publish(folder, source)
        if own and source.open_trials():
            _prepare(space)
        board = Board(
            records=lambda: source.records, open_trials=source.open_trials, varied=space.varied, console=console
        )
        scheduler = Scheduler(
            source,
            Slots(gpus, script=command, folder=folder),
            restart=restart,
            add_trial=lambda trial: publish(folder, source, trial),
            on_change=board.on_change,
            deadline=deadline,
        )
        try:
            with _terminated_as_interrupt(), board:
                scheduler.run()
        finally:
            source.refresh()
            best = write_summary(folder, space, source.records, search=search, script=command)
            fates = ", ".join(f"{n} {status}" for status, n in count(source.records).items() if n)
            console.print(f"{fates or 'no trial'}; summary in {folder.path / 'summary.md'}", soft_wrap=True)
            if best is not None:
                console.print(f"best {best.ran.expid}: valid {best.value:.6f}", soft_wrap=True, highlight=False)
    return source.records


@contextlib.contextmanager
def _source(
    space: Space,
    folder: SweepFolder,
    restart: Restart,
    *,
    search: str,
    tag: str | None,
    trials: int | None,
    prune: bool,
    seed: int,
) -> Iterator[Source]:
    if search == "grid":
        with folder.only_tuner():
            yield Grid(space.grid(), restart, tag=tag)
        return
    # Optuna is an extra: only a search needs it.
    from fuxictr_multimodal.tuner.search import Search

    source = Search(
        space,
        folder=folder,
        algorithm=search,
        trials=trials or sys.maxsize,
        restart=restart,
        prune=prune,
        seed=seed,
    )
    with source.working():
        yield source


def publish(folder: SweepFolder, source: Source, *more: Trial) -> None:
    """Write the folder's configuration: every trial of the source, its retries, and `more`.

    The files are written whole, and a fellow worker's trial may be about to read them: under the lock that a worker
    holds when it draws a trial, and after a look at what the others have drawn.
    """
    with folder.shared():
        source.refresh()
        known = [trial for record in source.records for trial in (record.trial, record.ran)]
        write_config(folder.path, {trial.expid: trial for trial in (*known, *more)})


def _script(script: Path | None) -> tuple[Path, bool]:
    """What runs a trial, and whether it is this project's own runner."""
    ours = ROOT / SCRIPT
    if script is None:
        script = Path(SCRIPT) if Path(SCRIPT).is_file() else ours
    if not script.is_file():
        raise ConfigError(f"script {script} is not there: run from the folder that holds it, or give it with --script")
    return script, ours.is_file() and script.samefile(ours)


def _prepare(space: Space) -> None:
    """Check keys and build datasets in a process of its own, before the first trial."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="tuner-") as directory:
        write_config(Path(directory), {trial.expid: trial for trial in space.representatives()})
        process = start_guarded(
            [sys.executable, "-m", prepare.__name__, directory], environment={**os.environ, "PYTHONPATH": path}
        )
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            process.stdin.close()
    if status:
        raise ConfigError(
            f"no trial of {space.path} was started: preparing it ended with {exit_text(status)}, see above"
        )


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does: trials ended, summary written."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
