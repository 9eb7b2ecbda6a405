"""Runs a tuner file: one sweep, or those of several models on the same slots."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.cluster import Cluster, check_room, slots_of
from fuxictr_multimodal.launch.job import Job, Outcome, exit_text
from fuxictr_multimodal.launch.pool import Pool
from fuxictr_multimodal.launch.ray_pool import RayPool
from fuxictr_multimodal.launch.tuning import prepare
from fuxictr_multimodal.launch.tuning.board import Board
from fuxictr_multimodal.launch.tuning.folder import SweepFolder, write_config
from fuxictr_multimodal.launch.tuning.grid import Grid
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.scheduler import Scheduler
from fuxictr_multimodal.launch.tuning.space import Space
from fuxictr_multimodal.launch.tuning.sweep import Source, Sweep
from fuxictr_multimodal.system.interruption import Interrupted
from fuxictr_multimodal.system.terminal import plain_console

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "run_expid.py"


def tune(
    config: Path,
    expids: Sequence[str | None],
    *,
    gpus: Sequence[int],
    tag: str | None = None,
    script: Path | None = None,
    search: str = "grid",
    trials: int | None = None,
    seconds: float | None = None,
    retry_oom: bool = False,
    prune: bool = True,
    seed: int = 0,
    storage: str | None = None,
    console: Console | None = None,
    turns: Callable[[Sequence[Sweep], Sweep], bool] | None = None,
    is_over: Callable[[], bool] = lambda: False,
    pictures: bool = True,
    cluster: Cluster | None = None,
) -> list[list[Record]]:
    """Run the same sweep of several models on the same slots, and write the summary of each at its end.

    The trials of a model start when all trials of the models before it have started: no slot stays idle.

    Args:
        config: the tuner file.
        expids: each is tuned instead of the file's `base_expid`, in its own folder; None is `base_expid`.
        gpus: one GPU index a slot, -1 for the CPU; without `cluster`.
        tag: run only trials whose expid contains it; of a grid.
        script: a Python script that runs a trial instead of `run_expid.py`. It gets `--config`, `--expid` and `--gpu`,
            and writes the report of the trial. Where there is a report, it also gets `--resume`, or `--overwrite` when
            that report is complete or of other settings.
        search: `grid`, `random` or `tpe`.
        trials: of each search, over all its restarts.
        seconds: no trial starts after this time.
        retry_oom: run a trial that ran out of memory once more with half the batch.
        prune: stop hopeless trials of a search early.
        seed: of the search.
        storage: where a study that several machines share lives: a journal or the URL of a database. It may be a grid,
            without `tag`.
        console: shows the progress; standard output by default.
        turns: makes the models take turns; it is called with all sweeps and the one whose turn it is, and says
            whether that one may draw another trial. See `Scheduler`.
        is_over: once it is true, running trials are interrupted and no more start. See `Scheduler`.
        pictures: whether the summaries have pictures and the importance of parameters, which take seconds a model.
        cluster: runs the trials on a Ray cluster in place of this machine.

    Returns:
        For each expid, its trials and their outcomes.

    Raises:
        InputError: the tuner file, an experiment or its data is wrong; no trial was started.
        Interrupted: running trials have ended, and the summaries so far are written.
    """
    console = console or plain_console()
    deadline = None if seconds is None else time.monotonic() + seconds
    if search != "grid" and trials is None and seconds is None:
        raise ConfigError(f"--search {search} has no end: give --trials or --time")
    if cluster is not None:
        check_room(cluster)
    command, own = _script(script)
    spaces = [Space.read(config, expid=expid) for expid in expids]
    if not own:
        for space in spaces:
            space.refuse_unlisted_keys()
    with contextlib.ExitStack() as stack:
        sweeps: list[Sweep] = []
        for space, expid in zip(spaces, expids, strict=True):
            folder = SweepFolder.of(config, search=search, seed=seed, expid=expid)
            restart = Restart(space, retry_oom=retry_oom)
            source = stack.enter_context(
                _source(
                    space,
                    folder,
                    restart,
                    search=search,
                    tag=tag,
                    trials=trials,
                    prune=prune,
                    seed=seed,
                    storage=storage,
                )
            )
            total = len(source.records) if search == "grid" else trials or "as many as the time allows"
            console.print(f"{space.base_expid}, {search}: {total} trials in {folder.path}", soft_wrap=True)
            if storage:
                console.print(f"study {source.name}", soft_wrap=True)
            sweeps.append(Sweep(space, folder, source, restart, search, command))
            sweeps[-1].publish()
        lacking = [sweep.space for sweep in sweeps if sweep.source.open_trials()]
        # A trial of our own entry point needs what is preloaded; a script of the user may need nothing of it.
        local = Pool(gpus, preload=own)
        pool: Pool | RayPool = local
        if own and lacking:
            _prepare(config, lacking, local)
        if cluster and any(sweep.source.open_trials() or sweep.source.elsewhere() for sweep in sweeps):
            pool = stack.enter_context(_slots_of(cluster, sweeps, own=own, console=console))
        board = Board(
            records=lambda: [record for sweep in sweeps for record in sweep.source.records],
            open_trials=lambda: sum(sweep.source.open_trials() for sweep in sweeps),
            varied=list(dict.fromkeys(key for space in spaces for key in space.varied)),
            console=console,
        )
        scheduler = Scheduler(
            sweeps,
            pool,
            on_change=board.on_change,
            on_end=lambda sweep: sweep.summarise(console, pictures=pictures),
            deadline=deadline,
            turns=None if turns is None else functools.partial(turns, sweeps),
            is_over=is_over,
            on_wait=lambda sweep, elsewhere: console.print(
                f"{sweep.space.base_expid}: waiting for {elsewhere} trials on other machines", soft_wrap=True
            ),
        )
        try:
            with board:
                scheduler.run()
        except KeyboardInterrupt as error:
            raise Interrupted.of(error, "complete trials are kept; the same command resumes the rest") from None
        finally:
            for sweep in scheduler.unended:
                sweep.summarise(console, pictures=pictures)
    return [sweep.source.records for sweep in sweeps]


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
    storage: str | None,
) -> Iterator[Source]:
    if search == "grid" and storage is None:
        with folder.only_tuner():
            yield Grid(space.grid(), restart, tag=tag)
        return
    # Optuna is an extra: only a search needs it, and what several machines share.
    from fuxictr_multimodal.launch.tuning.search import Search

    source = Search(
        space,
        folder=folder,
        algorithm=search,
        trials=trials or sys.maxsize,
        restart=restart,
        prune=prune,
        seed=seed,
        storage=storage,
    )
    with source.working():
        yield source


def _slots_of(
    cluster: Cluster, sweeps: Sequence[Sweep], *, own: bool, console: Console
) -> contextlib.AbstractContextManager[RayPool]:
    """Slots on machines that see the script, the folders of the sweeps and what their trials read and write."""
    from fuxictr_multimodal.data.store.manifest import MANIFEST_NAME

    trials = [trial for sweep in sweeps for trial in sweep.space.representatives()]
    manifests = [Path(trial.params["data_root"]) / trial.dataset_id / MANIFEST_NAME for trial in trials]
    folders = [*(sweep.folder.path for sweep in sweeps), *(Path(trial.params["model_root"]) for trial in trials)]
    return slots_of(
        cluster,
        files=[*(sweep.script for sweep in sweeps), *manifests],
        folders=folders,
        preload=own,
        say=lambda line: console.print(line, soft_wrap=True, highlight=False),
    )


def _script(script: Path | None) -> tuple[Path, bool]:
    """What runs a trial, and whether it is the `run_expid.py` of this project."""
    ours = ROOT / SCRIPT
    if script is None:
        script = Path(SCRIPT) if Path(SCRIPT).is_file() else ours
    if not script.is_file():
        raise ConfigError(f"script {script} does not exist: run from the folder that has it, or give it with --script")
    return script, ours.is_file() and script.samefile(ours)


def _prepare(config: Path, spaces: Sequence[Space], pool: Pool) -> None:
    """Check keys and build datasets before the first trial, as a job: the tuner itself does not import torch."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tuner-") as directory:
        trials = [trial for space in spaces for trial in space.representatives()]
        write_config(Path(directory), {trial.expid: trial for trial in trials})
        jobs = iter([Job("prepare", functools.partial(prepare.prepare, Path(directory)))])
        pool.run(lambda gpu: next(jobs, None), lambda job, outcome: outcomes.append(outcome))
    if outcomes[0].status != "completed":
        how = exit_text(outcomes[0].exit_code)
        raise ConfigError(f"no trial of {config} was started: preparing it ended with {how}, see above")
