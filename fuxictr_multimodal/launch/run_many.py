"""Several experiments and seeds, each in a process of its own: one that fails does not stop the others.

A process of its own gives each run its own peak memory, and a crash or the system's out-of-memory killer takes one
run, not all. The seconds of importing are paid once: a server imports the large packages and forks a process a run.
It imports what starts no threads that a fork would lose (polars does), and never touches the accelerator. Measured on
two busy cores: 5 s instead of 14 s for a run that trains for a second.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuxictr_multimodal.config.expids import list_expids
from fuxictr_multimodal.errors import ConfigError, InputError, did_you_mean
from fuxictr_multimodal.system import interruption, supervisor
from fuxictr_multimodal.system.interruption import Interrupted, raised_on_signals
from fuxictr_multimodal.system.machine import available_cores
from fuxictr_multimodal.system.progress import heard_by
from fuxictr_multimodal.system.terminal import plain_console, prepare_streams
from fuxictr_multimodal.text.escape import visible

if TYPE_CHECKING:
    from fuxictr_multimodal.training.report import Report

PRELOADED = ("torch", "sklearn.preprocessing", "ray.data")
GLOB_CHARACTERS = frozenset("*?[")
POLL_SECONDS = 0.5
INTERRUPT_SECONDS = 30


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        expid: its name.
        seed: None for the one in its configuration.
        config_dir: the config folder that has it.
    """

    expid: str
    seed: int | None = None
    config_dir: Path = Path("./config/")

    @property
    def name(self) -> str:
        """The run's name.

        >>> Plan("DIN_demo", 3).name
        'DIN_demo_s3'
        """
        return self.expid if self.seed is None else f"{self.expid}_s{self.seed}"


@dataclass(frozen=True)
class End:
    """The last word of a run's process.

    Attributes:
        status: `completed`, `failed` or `interrupted`.
        report: the file, where the run is complete.
        error: why it is not.
        signal: what interrupted it.
    """

    status: str
    report: Path | None = None
    error: str | None = None
    signal: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: as its run ended (see `End`), or `not run`."""

    plan: Plan
    status: str
    report: Path | None = None
    error: str | None = None
    seconds: float = 0.0
    signal: int | None = None


class Stop(threading.Event):
    """Ends the runs of several slots once it is set; `number` is the signal that they get."""

    number: int = signal.SIGTERM

    def end_with(self, number: int | None) -> None:
        """Set it; None is a run that was interrupted without a signal."""
        if not self.is_set():
            self.number = number or self.number
            self.set()


Run = Callable[..., "tuple[Report, Path]"]
Launch = Callable[[Plan, Mapping[str, Any]], Outcome]


def is_one_run(expid: str, seeds: str | None) -> bool:
    """Whether `--expid` and `--seeds` name a single run.

    >>> is_one_run("QIN_test", None), is_one_run("QIN_*", None), is_one_run("QIN_test", "1,2")
    (True, False, False)
    """
    return seeds is None and not GLOB_CHARACTERS & set(expid) and "," not in expid


def expand(config_dir: Path, expids: str, seeds: str | None = None) -> list[Plan]:
    """All runs that `--expid` (a name, a glob, or a list of both) and `--seeds` name, an expid's seeds together.

    Raises:
        ConfigError: an expid or glob that names nothing, or a malformed list of seeds.
    """
    return plans_of(select(expids, list_expids(config_dir), where=config_dir), seeds, config_dir)


def plans_of(names: Sequence[str], seeds: str | None, config_dir: Path) -> list[Plan]:
    """The runs of some expids, an expid's seeds together; `seeds` is as in `parse_seeds`."""
    numbers = parse_seeds(seeds) if seeds else [None]
    return [Plan(name, seed, config_dir) for name in names for seed in numbers]


def select(expids: str, known: Sequence[str], *, where: Path) -> list[str]:
    """The known expids that `--expid` names: a name, a glob, or a list of both.

    >>> select("QIN*,DIN", ["DCN", "DIN", "QIN_a", "QIN_b"], where=Path("config"))
    ['QIN_a', 'QIN_b', 'DIN']

    Raises:
        ConfigError: a name or glob that names nothing; `where` says where was looked.
    """
    names: list[str] = []
    for pattern in filter(None, (part.strip() for part in expids.split(","))):
        found = [pattern] if pattern in known else []
        if GLOB_CHARACTERS & set(pattern):
            found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ConfigError(f"--expid: {pattern!r} names nothing in {where}. {did_you_mean(pattern, known)}")
        names += found
    if not names:
        raise ConfigError("--expid is empty: give a name, a glob or a list")
    return list(dict.fromkeys(names))


def parse_seeds(text: str) -> list[int]:
    """Seeds of a list; a range counts both ends.

    >>> parse_seeds("1,2,5-7,2")
    [1, 2, 5, 6, 7]

    Raises:
        ConfigError: a part that is no whole number from 0 and no range.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(first) <= int(last))):
            raise ConfigError(f"--seeds {text!r}: {part.strip()!r} is no seed; write 1,2,3 or 1-3")
        seeds += range(int(first), int(last if dash else first) + 1)
    return list(dict.fromkeys(seeds))


def run_many(
    plans: Sequence[Plan],
    arguments: Mapping[str, Any],
    *,
    gpus: Sequence[int] = (-1,),
    run: Run | None = None,
    launch: Launch | None = None,
) -> list[Outcome]:
    """Run the plans, in turn or several at a time.

    Args:
        plans: what to run.
        arguments: the other arguments of `run`, the same for all.
        gpus: one GPU index a slot, -1 for the CPU. On several slots the cores are shared out between them, unless
            OMP_NUM_THREADS is set, and what a run prints is in its log only.
        run: called in the process of each run; by default `run_experiment`.
        launch: runs one plan; by default in a process of its own.

    Returns:
        An outcome a plan, in order. After an interrupt the rest are `not run`.
    """
    if len(gpus) == 1:
        launch = launch or functools.partial(launch_in_process, run=run)
        return _run_in_turn(plans, {**arguments, "gpu": gpus[0]}, launch)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // len(gpus))))
    stop = Stop()
    return _run_on_slots(
        plans, arguments, gpus, launch or functools.partial(launch_in_process, run=run, stop=stop), stop
    )


def _run_in_turn(plans: Sequence[Plan], arguments: Mapping[str, Any], launch: Launch) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for number, plan in enumerate(plans, start=1):
        if outcomes and outcomes[-1].status in ("interrupted", "not run"):
            outcomes.append(_not_run(plan))
            continue
        _say(f"[{number}/{len(plans)}] {plan.name}")
        outcomes.append(launch(plan, arguments))
    return outcomes


def _run_on_slots(
    plans: Sequence[Plan], arguments: Mapping[str, Any], gpus: Sequence[int], launch: Launch, stop: Stop
) -> list[Outcome]:
    """A thread a slot takes the next plan when its run has ended; `stop` ends it all."""
    waiting = deque(enumerate(plans))
    outcomes = {number: _not_run(plan) for number, plan in waiting}

    def work(gpu: int) -> None:
        while not stop.is_set():
            try:
                number, plan = waiting.popleft()
            except IndexError:
                return
            _say(f"[{number + 1}/{len(plans)}] {plan.name} starts on {'the CPU' if gpu < 0 else f'GPU {gpu}'}")
            outcomes[number] = outcome = launch(plan, {**arguments, "gpu": gpu})
            _say(f"[{number + 1}/{len(plans)}] {plan.name} {outcome.status}, {outcome.seconds / 60:.1f} min")
            if outcome.status == "interrupted":
                stop.end_with(outcome.signal)

    with ThreadPoolExecutor(len(gpus)) as pool:
        slots = [pool.submit(work, gpu) for gpu in gpus]
        try:
            wait(slots)
        except KeyboardInterrupt as error:
            stop.end_with(Interrupted.of(error).number)
    for slot in slots:
        slot.result()
    return [outcomes[number] for number in range(len(plans))]


def _not_run(plan: Plan) -> Outcome:
    return Outcome(plan, "not run", error="an earlier run was interrupted")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def launch_in_process(
    plan: Plan,
    arguments: Mapping[str, Any],
    *,
    run: Run | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Run one plan in a fresh process and wait for it.

    The process leads a group of its own, which ends when this process does, however that happens. A signal that
    interrupts this process is passed on, and the run has `INTERRUPT_SECONDS` to leave its report in order.

    Args:
        plan: what to run.
        arguments: the other arguments of `run`.
        run: called in the process; by default `run_experiment`.
        stop: ends the run when it is set. A run that can be stopped so is one of several and prints nothing.
    """
    started = time.perf_counter()
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    reader, lifeline = context.Pipe(duplex=False)
    quiet = stop is not None
    process = context.Process(target=_run_one, args=(sender, reader, plan, dict(arguments), run, quiet), name=plan.name)
    end = End("failed")
    try:
        process.start()
        sender.close()
        reader.close()
        try:
            end = _heard(process, receiver, stop, plan.name)
        except KeyboardInterrupt as error:
            interrupted = Interrupted.of(error)
            end = _interrupt(process, receiver, interrupted.number)
    finally:
        if process.pid is not None:
            supervisor.kill_group(process.pid)
            process.join()
        for connection in (receiver, sender, reader, lifeline):
            connection.close()
    return Outcome(plan, **vars(end), seconds=round(time.perf_counter() - started, 1))


def _heard(process: BaseProcess, receiver: Connection, stop: Stop | None, name: str) -> End:
    """What a run says at its end; one that dies says no word, and its exit code says more.

    Until then a run that prints nothing itself is heard of in lines of progress.
    """
    while True:
        while not receiver.poll(POLL_SECONDS):
            if stop is not None and stop.is_set():
                raise Interrupted(stop.number)
        try:
            word = receiver.recv()
        except EOFError:
            process.join()
            return End("failed", error=_exit_reason(process.exitcode))
        if isinstance(word, End):
            process.join(timeout=INTERRUPT_SECONDS)
            return word
        if stop is not None:
            _say(f"{name}: {word}")


def _interrupt(process: BaseProcess, receiver: Connection, number: int) -> End:
    """Pass a signal on to a run and wait until it has ended."""
    end = End("interrupted", error=str(Interrupted(number, "its last evaluation is kept: --resume")), signal=number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    # The pipe and not the process: the server that reports its end may have got the signal too.
    with contextlib.suppress(EOFError):
        deadline = time.monotonic() + INTERRUPT_SECONDS
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            word = receiver.recv()
            end = word if isinstance(word, End) else end
    return end


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 when all are complete; 130, 143 or 129 when a signal ended them; else 1."""
    for outcome in outcomes:
        if outcome.signal is not None:
            return interruption.exit_status(outcome.signal)
    return int(any(outcome.status != "completed" for outcome in outcomes))


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print one line a run: state, AUC, minutes; then why those that failed did."""
    from rich.table import Table
    from rich.text import Text

    from fuxictr_multimodal.training.report import Report

    complete = sum(outcome.status == "completed" for outcome in outcomes)
    table = Table(title=f"{complete} of {len(outcomes)} runs complete")
    # A name that is cut cannot be given to another command.
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("valid AUC", "test AUC", "minutes"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        report = Report.read(outcome.report) if outcome.report else None
        metrics = report.metrics if report else {}
        aucs = [metrics.get(split, {}).get("AUC") for split in ("valid", "test")]
        cells = ["-" if value is None else f"{value:.4f}" for value in aucs]
        style = "" if outcome.status == "completed" else "red"
        name = report.run if report else outcome.plan.name
        table.add_row(Text(name), Text(outcome.status, style=style), *cells, f"{outcome.seconds / 60:.1f}")
    console = plain_console()
    console.print(table)
    for outcome in outcomes:
        if outcome.status != "completed":
            console.print(f"{outcome.plan.name}: {outcome.status}: {outcome.error}", soft_wrap=True)


def _run_one(
    sender: Connection,
    reader: Connection,
    plan: Plan,
    arguments: dict[str, Any],
    run: Run | None,
    quiet: bool,
) -> None:
    """In the process of a run: run it and say what became of it."""
    os.setsid()
    supervisor.end_with(reader.fileno())
    prepare_streams()
    if quiet:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
    try:
        with raised_on_signals(), heard_by(sender.send):
            if run is None:
                from fuxictr_multimodal.training.runner import run_experiment as run

            report, path = run(config_dir=plan.config_dir, expid=plan.expid, seed=plan.seed, **arguments)
        end = End(report.status, path, report.error)
    except InputError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        end = End("failed", error=str(error))
    except KeyboardInterrupt as error:
        interrupted = Interrupted.of(error)
        end = End("interrupted", error=str(interrupted), signal=interrupted.number)
    except Exception as error:
        traceback.print_exc()
        end = End("failed", error=f"{type(error).__name__}: {error}")
    sender.send(end)


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (often the system's out-of-memory killer)" if code == -9 else ""
        return f"its process was ended by signal {-code}{killed}"
    return f"its process ended with status {code}"
