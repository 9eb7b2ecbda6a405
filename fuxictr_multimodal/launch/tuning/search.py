"""Random and TPE search on an Optuna study: resumable, shared by several tuners, with median pruning."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.settings import Axis, Range
from fuxictr_multimodal.launch.tuning.space import Space, Trial

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
except ModuleNotFoundError as error:
    if error.name != "optuna":
        raise
    raise ConfigError(
        "--search random and --search tpe need Optuna: pip install 'fuxictr-multimodal[tuner]' (a grid does not)"
    ) from None

# After so many settings in a row that are known, random draws take over; after twice as many the search ends.
REPEATS = 20
STATUS = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Search:
    """A source of trials: asks the study, and tells it what became of them.

    Args:
        space: its lists become categories, its ranges numbers.
        folder: holds the study (`study.db`) and the locks of its workers.
        algorithm: `random` or `tpe`.
        trials: different settings in the whole study, over all its workers and restarts; failed and pruned ones count,
            so that two models get the same number.
        prune: stop a trial whose best value so far is worse than the median of the others at the same evaluation.
        seed: of the sampler. A trial draws from the seed and its own number: a restart continues the sequence.
        restart: finds trials that are complete already.

    A trial that a killed tuner left is taken over by the next one: the system has freed its worker's lock.
    """

    def __init__(
        self,
        space: Space,
        *,
        folder: SweepFolder,
        algorithm: str,
        trials: int,
        restart: Restart,
        prune: bool = True,
        seed: int = 0,
    ) -> None:
        assert algorithm in ("random", "tpe"), algorithm
        if not space.varied:
            raise ConfigError(f"{space.path}: tuner_space varies nothing: write a list or a range")
        self.space = space
        self.folder = folder
        self.algorithm = algorithm
        self.trials = min(trials, space.size or trials)
        self.restart = restart
        self.seed = seed
        self.records: list[Record] = []
        self._owned: dict[str, optuna.trial.Trial] = {}
        self._orphans: list[FrozenTrial] = []
        self._worker = uuid.uuid4().hex[:8]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.shared():
            self._storage = _storage(folder.study.resolve())
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=f"{space.base_expid}_{space.hash()}",
                direction="maximize" if outcome.maximised(space.representatives()[0].params) else "minimize",
                # The first evaluation says little: pruning begins with the second.
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=2) if prune else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )

    @contextlib.contextmanager
    def working(self) -> Iterator[Search]:
        """Join the study as a worker, and take over the trials of workers that are gone."""
        lock = filelock.FileLock(self._lock_file(self._worker))
        with self.folder.shared():
            self._remove_free_locks()
            lock.acquire()
            self._orphans = [trial for trial in self._study.get_trials(deepcopy=False) if self._is_orphan(trial)]
            for trial in self._orphans:
                self._claim(optuna.trial.Trial(self._study, trial._trial_id))
        self.refresh()
        try:
            yield self
        finally:
            lock.release()
            self._lock_file(self._worker).unlink(missing_ok=True)
            # The last connection to close folds the write-ahead log into the study's file.
            self._storage.remove_session()
            self._storage.engine.dispose()

    def next(self) -> Record | None:
        """A trial that a gone worker left, or the next setting that nobody has tried."""
        with self.folder.shared():
            for repeats in range(2 * REPEATS):
                tried = self._tried()
                if self._orphans:
                    orphan = self._orphans.pop(0)
                    trial = optuna.trial.Trial(self._study, orphan._trial_id)
                    if not _is_drawn(orphan) and len(tried) >= self.trials:
                        # Its worker was gone before it drew a setting, and the others used up the trials meanwhile.
                        self._study.tell(trial, state=TrialState.FAIL)
                        continue
                elif len(tried) >= self.trials:
                    return None
                else:
                    trial = self._study.ask()
                    self._claim(trial)
                made = self._suggest(trial, algorithm="random" if repeats >= REPEATS else self.algorithm)
                first = tried.get(made.expid)
                if first is None or first.number == trial.number:
                    return self._own(trial, made)
                self._tell_repeated(trial, first)
        return None

    def open_trials(self) -> int:
        """Trials that the study still lacks."""
        return sum(map(_is_drawn, self._orphans)) + max(0, self.trials - len(self._tried()))

    def should_stop(self, record: Record) -> bool:
        """Tell the study the new evaluations of a running trial, and ask its pruner."""
        return self._tell_curve(record).should_prune()

    def ended(self, record: Record) -> None:
        """Tell the study the end of a trial."""
        trial = self._tell_curve(record)
        del self._owned[record.trial.expid]
        if record.status == "completed":
            self._study.tell(trial, record.value)
            return
        trial.set_user_attr("error", record.error)
        state = TrialState.PRUNED if record.status == "pruned" else TrialState.FAIL
        self._study.tell(trial, state=state)

    def refresh(self) -> None:
        """Bring `records` to all trials of the study, those of earlier runs and of other workers included."""
        own = {record.trial.expid: record for record in self.records if record.trial.expid in self._owned}
        settled = {record.trial.expid: record for record in self.records if record.status in STATUS.values()}
        self.records = [
            own.get(expid) or settled.get(expid) or self._past(frozen) for expid, frozen in self._tried().items()
        ]

    def _suggest(self, trial: optuna.trial.Trial, *, algorithm: str) -> Trial:
        """Draw a setting; one that a killed worker had drawn already is given again."""
        self._study.sampler = _sampler(algorithm, seed=self.seed * 1_000_003 + trial.number, trials=self.trials)
        settings = {key: _draw(trial, key, axis) for key, axis in self.space.axes.items()}
        made = self.space.trial(settings)
        trial.set_user_attr("settings", settings)
        trial.set_user_attr("expid", made.expid)
        return made

    def _own(self, trial: optuna.trial.Trial, made: Trial) -> Record:
        record = Record.of(made)
        self._owned[made.expid] = trial
        self.records = [known for known in self.records if known.trial.expid != made.expid]
        self.records.append(record)
        return record

    def _tell_repeated(self, trial: optuna.trial.Trial, first: FrozenTrial) -> None:
        """A setting that is known costs no run: the study learns its value once more, or that there is none."""
        trial.set_user_attr("repeats", first.number)
        if first.state == TrialState.COMPLETE:
            self._study.tell(trial, first.value)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _tell_curve(self, record: Record) -> optuna.trial.Trial:
        trial = self._owned[record.trial.expid]
        told = self._study._storage.get_trial(trial._trial_id).intermediate_values
        for step, value in enumerate(record.curve, start=1):
            if step not in told:
                trial.report(value, step)
        return trial

    def _tried(self) -> dict[str, FrozenTrial]:
        """Trials of the study by expid, in their order; repeats of a setting are left out."""
        found: dict[str, FrozenTrial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if _is_drawn(trial) and "repeats" not in trial.user_attrs:
                found.setdefault(trial.user_attrs["expid"], trial)
        return found

    def _past(self, frozen: FrozenTrial) -> Record:
        """The record of a trial that this worker did not run."""
        record = Record.of(self.space.trial(frozen.user_attrs["settings"]))
        self.restart.restore(record)
        record.status = STATUS.get(frozen.state, "running")
        record.reused = frozen.state in STATUS
        record.value = frozen.value if frozen.state == TrialState.COMPLETE else None
        record.curve = record.curve or list(frozen.intermediate_values.values())
        record.error = list(frozen.user_attrs.get("error", ()))
        return record

    def _claim(self, trial: optuna.trial.Trial) -> None:
        trial.set_user_attr("worker", self._worker)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Whether a trial is open and its worker is gone."""
        worker = trial.user_attrs.get("worker")
        return trial.state == TrialState.RUNNING and (worker is None or not self._lock_file(worker).exists())

    def _remove_free_locks(self) -> None:
        """Remove the locks of workers that are gone; called under the shared lock, as taking one is."""
        for path in self.folder.path.glob(self._lock_file("*").name):
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(path, timeout=0):
                path.unlink(missing_ok=True)

    def _lock_file(self, worker: str) -> Path:
        return self.folder.path / f".worker-{worker}.lock"


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """A study file whose transactions outlive a killed process without waiting for the disk at each of them.

    In write-ahead mode a power cut may cost the last of them, never the file; workers wait for each other's.
    """

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})


def _is_drawn(trial: FrozenTrial) -> bool:
    """Whether the worker of a trial lived to draw its setting."""
    return "expid" in trial.user_attrs


def _sampler(algorithm: str, *, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    if algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # A quarter of the trials, and 5 to 10 of them, are drawn at random before the model begins.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(5, trials // 4)))


def _draw(trial: optuna.trial.Trial, key: str, axis: Axis) -> Any:
    if isinstance(axis, Range):
        if axis.integer:
            return trial.suggest_int(key, int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
        return trial.suggest_float(key, axis.low, axis.high, log=axis.log, step=axis.step)
    if len(axis) == 1:
        return axis[0]
    # As text, a category may be a list or a mapping.
    return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in axis]))
