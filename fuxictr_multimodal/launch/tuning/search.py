"""Trials in an Optuna study: random and TPE search, and a grid that several tuners share; resumable, with pruning."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch.tuning import outcome
from fuxictr_multimodal.launch.tuning.folder import SweepFolder
from fuxictr_multimodal.launch.tuning.outcome import Record
from fuxictr_multimodal.launch.tuning.restart import Restart
from fuxictr_multimodal.launch.tuning.settings import Axis, Range
from fuxictr_multimodal.launch.tuning.space import Space

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import FrozenTrial, Trial, TrialState

    from fuxictr_multimodal.launch.tuning.storage import open_storage, requeue, retry
except ModuleNotFoundError as error:
    if error.name != "optuna":
        raise
    raise ConfigError(
        "--search random, --search tpe and --storage need Optuna: pip install 'fuxictr-multimodal[tuner]' (a grid of "
        "one machine does not)"
    ) from None

# After this many known settings in a row, random draws take over; after twice as many, the search ends.
REPEATS = 20
STATUS = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
STATUS_OPEN = {TrialState.RUNNING: "running", TrialState.WAITING: "queued"}
# What a study keeps of a trial beside its value, for the summaries of machines that did not run it.
RESULTS = ("metrics", "best_epoch", "seconds", "parameters")
# Of a failed trial: whether it was killed or could not write, which says nothing of its setting.
BY_MACHINE = "failed_by_machine"


class Search:
    """A source of trials: asks the study for settings, and reports their results to it.

    Args:
        space: its lists become categories, its ranges numbers.
        folder: holds the study (`study.db`) of a search that is not shared.
        algorithm: `random` or `tpe`; `grid` runs all settings of the lists.
        trials: different settings in the whole study, over all workers and restarts; failed and pruned ones count, so
            that two models get the same number. Of a grid, all its settings.
        prune: stop a trial whose best value so far is worse than the median of the others at the same evaluation; never
            in a grid.
        seed: of the sampler. A setting depends on the seed and its place in the study, so a restart continues the
            sequence.
        restart: finds trials that are already complete.
        storage: of a study that several machines share, see `open_storage`; None is the folder's own file.

    Trials that an interrupted tuner hands back, and those of a dead one, are queued again; so are, when a worker joins,
    trials that were killed or could not write their files. A grid repeats any failed trial then, as it does on one
    machine.
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
        storage: str | None = None,
    ) -> None:
        assert algorithm in ("grid", "random", "tpe"), algorithm
        if not space.varied and algorithm != "grid":
            raise ConfigError(f"{space.path}: tuner_space has no varied parameter: write a list or a range")
        self.space = space
        self.folder = folder
        self.algorithm = algorithm
        self._grid = space.grid() if algorithm == "grid" else []
        self.trials = len(self._grid) or min(trials, space.size or trials)
        self.restart = restart
        self.seed = seed
        self.records: list[Record] = []
        self._owned: dict[str, Trial] = {}
        self._distributions = distributions(space.axes)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.shared = storage is not None
        self._storage = open_storage(storage, own_file=folder.study)
        # A folder says what a search is; a shared storage holds the searches of many folders.
        search = ("_grid" if self._grid else f"_{algorithm}_s{seed}") if storage else ""
        self._study = optuna.create_study(
            storage=self._storage.storage,
            study_name=f"{space.base_expid}{search}_{space.hash()}",
            direction="maximize" if outcome.maximised(space.representatives()[0].params) else "minimize",
            # The first evaluation says little: pruning begins with the second.
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=2)
            if prune and not self._grid
            else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self.name = f"{self._study.study_name} in {self._storage.name}"

    @contextlib.contextmanager
    def working(self) -> Iterator[Search]:
        """Join the study as a worker; at the end, hand back the trials that did not end."""
        with self._storage.working(self._owned):
            with self._drawing():
                tried = self._tried()
                for frozen in tried.values():
                    if frozen.state == TrialState.FAIL and (self._grid or frozen.user_attrs.get(BY_MACHINE)):
                        requeue(self._study, frozen)
                for listed in self._grid:
                    if listed.expid not in tried:
                        params = {key: json.dumps(listed.settings[key]) for key in self._distributions}
                        known = {"settings": listed.settings, "expid": listed.expid}
                        self._study.enqueue_trial(params, user_attrs=known)
            self.refresh()
            try:
                yield self
            finally:
                with self._drawing():
                    # Not by expid: what was taken for lost may run on another machine.
                    owned = {trial.number for trial in self._owned.values()}
                    for trial in self._trials(TrialState.RUNNING):
                        if trial.number in owned:
                            retry(self._study, trial)
                    self._owned.clear()

    def next(self) -> Record | None:
        """A trial that another worker left, or the next setting that nobody has tried."""
        with self._drawing():
            for repeats in range(2 * REPEATS):
                if not self.open_trials():
                    return None
                tried = self._tried()
                trial = self._ask(algorithm="random" if repeats >= REPEATS else self.algorithm)
                made = self.space.trial(settings(trial.params, self.space.axes))
                first = tried.get(made.expid)
                trial.set_user_attr("settings", made.settings)
                trial.set_user_attr("expid", made.expid)
                if first is None or first.number == trial.number:
                    return self._own(trial, Record.of(made))
                self._tell_repeated(trial, first)
        return None

    def open_trials(self) -> int:
        """Number of trials that the study still needs."""
        tried = self._tried()
        waiting = sum(trial.state == TrialState.WAITING for trial in tried.values())
        return waiting + max(0, self.trials - len(tried))

    def elsewhere(self) -> int:
        """How many trials of a shared study other workers run; `next` gives one of them once its machine is lost."""
        if not self.shared:
            return 0
        owned = {trial.number for trial in self._owned.values()}
        return sum(trial.number not in owned for trial in self._trials(TrialState.RUNNING))

    def should_stop(self, record: Record) -> bool:
        """Report the new evaluations of a running trial to the study, and ask its pruner."""
        trial = self._owned[record.trial.expid]
        try:
            self._tell_curve(trial, record)
        except UpdateFinishedTrialError:
            # This machine was considered lost, and another one runs the trial.
            return True
        return trial.should_prune()

    def ended(self, record: Record) -> None:
        """Report the end of a trial to the study."""
        trial = self._owned.pop(record.trial.expid)
        with contextlib.suppress(UpdateFinishedTrialError):
            self._tell_curve(trial, record)
            trial.set_user_attr("results", {name: getattr(record, name) for name in RESULTS})
            trial.set_user_attr("ran", record.ran.settings)
            if record.status == "completed":
                self._study.tell(trial, record.value)
                return
            trial.set_user_attr("error", record.error)
            trial.set_user_attr(BY_MACHINE, outcome.is_by_machine(record))
            state = TrialState.PRUNED if record.status == "pruned" else TrialState.FAIL
            self._study.tell(trial, state=state)

    def refresh(self) -> None:
        """Update `records` to all trials of the study, including those of earlier runs and of other workers."""
        own = {record.trial.expid: record for record in self.records if record.trial.expid in self._owned}
        settled = {record.trial.expid: record for record in self.records if record.status in STATUS.values()}
        self.records = [
            own.get(expid) or settled.get(expid) or self._past(frozen) for expid, frozen in self._tried().items()
        ]

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Hold the lock under which settings are drawn, after queueing the trials of dead workers again."""
        with self._storage.lock(self._study), warnings.catch_warnings():
            # Optuna warns that heartbeats are experimental and belong to its own loop.
            warnings.simplefilter("ignore")
            for trial in self._trials(TrialState.RUNNING):
                if not _is_drawn(trial):
                    # Its worker died as it drew: nobody else holds the lock.
                    self._study.tell(trial.number, state=TrialState.FAIL)
            self._storage.retry_lost(self._study)
            yield

    def _ask(self, *, algorithm: str) -> Trial:
        """A queued trial, or a new draw."""
        drawn = sum(_is_drawn(trial) and "retry_history" not in trial.system_attrs for trial in self._trials())
        self._study.sampler = _sampler(algorithm, seed=self.seed * 1_000_003 + drawn, trials=self.trials)
        trial = self._study.ask(self._distributions)
        self._storage.own(trial)
        return trial

    def _own(self, trial: Trial, record: Record) -> Record:
        self._owned[record.trial.expid] = trial
        self.records = [known for known in self.records if known.trial.expid != record.trial.expid]
        self.records.append(record)
        return record

    def _tell_repeated(self, trial: Trial, first: FrozenTrial) -> None:
        """A known setting costs no run: the study gets its value again, or learns that there is none."""
        trial.set_user_attr("repeats", first.number)
        if first.state == TrialState.COMPLETE:
            self._study.tell(trial, first.value)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _tell_curve(self, trial: Trial, record: Record) -> None:
        told = self._study._storage.get_trial(trial._trial_id).intermediate_values
        for step, value in enumerate(record.curve, start=1):
            if step not in told:
                trial.report(value, step)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _tried(self) -> dict[str, FrozenTrial]:
        """Trials of the study by expid, in order, without repeats; the last attempt of those that were retried."""
        drawn = [trial for trial in self._trials() if _is_drawn(trial) and "repeats" not in trial.user_attrs]
        return {trial.user_attrs["expid"]: trial for trial in drawn}

    def _past(self, frozen: FrozenTrial) -> Record:
        """The record of a trial that another worker ran, or this one earlier."""
        known = frozen.user_attrs
        record = Record.of(self.space.trial(known["settings"]))
        if "ran" in known:
            record.ran = self.space.trial(known["ran"])
        for name, value in known.get("results", {}).items():
            setattr(record, name, value)
        self.restart.restore(record)
        record.status = (STATUS | STATUS_OPEN)[frozen.state]
        record.reused = frozen.state in STATUS
        record.value = frozen.value if frozen.state == TrialState.COMPLETE else None
        record.curve = record.curve or list(frozen.intermediate_values.values())
        record.error = list(known.get("error", ()))
        return record


def distributions(
    axes: Mapping[str, Axis], *, category: Callable[[Any], Any] = json.dumps
) -> dict[str, BaseDistribution]:
    """The axes that vary, in Optuna's terms; a category is JSON text, so that it may be a list or a mapping."""
    found: dict[str, BaseDistribution] = {}
    for key, axis in axes.items():
        if not isinstance(axis, Range):
            if len(axis) > 1:
                found[key] = CategoricalDistribution([category(value) for value in axis])
        elif axis.integer:
            found[key] = IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
        else:
            found[key] = FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return found


def settings(params: Mapping[str, Any], axes: Mapping[str, Axis]) -> dict[str, Any]:
    """A setting of the axes from Optuna's parameters."""
    return {
        key: params[key] if isinstance(axis, Range) else json.loads(params[key]) if len(axis) > 1 else axis[0]
        for key, axis in axes.items()
    }


def _is_drawn(trial: FrozenTrial) -> bool:
    """Whether the setting of a trial was drawn; its worker may have died before."""
    return "expid" in trial.user_attrs


def _sampler(algorithm: str, *, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    if algorithm != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    # A quarter of the trials, at least 5 and at most 10, are drawn at random before the model starts.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(5, trials // 4)))
