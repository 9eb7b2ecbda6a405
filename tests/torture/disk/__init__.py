"""A disk that is full, read-only or faulty at each write, sync, rename and open of the commands.

After each fault the command has ended with status 2 and one line that names the file, or it is complete and has warned
of a file that is not its result; earlier data are the same bytes, no temporary file is left, and the same command,
once the disk is well, gives the result of an undisturbed one.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.helpers.typed_command import ROOT
from tests.torture.disk.faults import KINDS, Fault, Tally, armed, compiled, environment
from tests.torture.disk.scenarios import SCENARIOS, Bases, Scenario, typed

OWN_COUNT = 240
# A process of its own for every so many attacks, in turn of all commands: it ends as a command of a shell does.
OWN_PROCESS = 7
LEFT = re.compile(r"\.tmp$|\.building$|\.replaced$|^\..*\.\d+$")
NAMED = re.compile(r"^error: .*/?[\w@=.,-]+.* (cannot be (written|created|reached)|is not there)", re.MULTILINE)
# Locks, records that are made again, and lines of a log.
UNHEARD = re.compile(r"\.lock$|\.verified\.json|study\.db|/\.builds/|__pycache__|/logs/[^/]+\.log$")
WARNED = "cannot be written"


def attack(*, count: int | None, seed: int, work: Path, only: str | None = None) -> dict[str, Any]:
    """Attack the commands in turn, at calls drawn from all that an undisturbed run makes.

    Args:
        count: number of attacks.
        seed: of the calls.
        work: folder.
        only: a scenario.
    """
    work = work.resolve()
    library = compiled(work)
    if library is not None:
        # The server that forks commands starts with it.
        os.environ["LD_PRELOAD"] = str(library)
    scenarios = [scenario for scenario in SCENARIOS if only in (None, scenario.name)]
    attacker = _Attacker(work, library, random.Random(seed))
    attacks = count or OWN_COUNT
    for number in tqdm(range(attacks), desc="attacks", file=sys.stderr):
        attacker.strike(scenarios[number % len(scenarios)], KINDS[number // len(scenarios) % len(KINDS)], number)
    layer = "preloaded C library" if library else "Python only: no C compiler"
    return {
        "attacks": attacks,
        "layer": layer,
        "calls": {name: dict(calls) for name, calls in attacker.calls.items()},
        "outcomes": {name: dict(sorted(found.items())) for name, found in attacker.outcomes.items()},
        "failed": attacker.failed,
    }


class _Attacker:
    def __init__(self, work: Path, library: Path | None, rng: random.Random) -> None:
        self.work, self.library, self.rng = work, library, rng
        self.folder, self.tally = work / "at", Tally(work / "tally")
        self.bases = Bases(work)
        self.calls: dict[str, dict[str, int]] = collections.defaultdict(dict)
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.expected: dict[str, dict[str, str]] = {}
        self.failed: list[str] = []

    def strike(self, scenario: Scenario, kind: Fault, number: int) -> None:
        """One attack: prepare, fail, look, repeat, look."""
        seen = self._calls_of(scenario, kind)
        if not seen:
            self.outcomes[scenario.name]["no such call"] += 1
            return
        # The last calls as often as the first: they complete files.
        fault = replace(kind, at=self.rng.choice([self.rng.randint(1, seen), self.rng.randint(max(1, seen - 8), seen)]))
        self.bases.copy(scenario.base, self.folder)
        before = self._earlier(scenario)
        own = self.library is not None and number % OWN_PROCESS == OWN_PROCESS - 1
        done = self._run(scenario, fault, own=own)
        _, failures, first, preceding = self.tally.read()
        wrong = self._wrong(scenario, done, before, failures, first, preceding)
        left = self._left()
        if not _read_only(fault):
            wrong += [f"left {path}" for path in left]
        outcome = "refused" if done.status == 2 else "completed" if done.status == 0 else f"status {done.status}"
        self.outcomes[scenario.name][f"{fault.error} {fault.ops}: {outcome}"] += 1
        if done.status == 0:
            wrong += self._another(scenario)
        # What a read-only disk kept, the next command of the same place removes.
        if done.status != 0 or left:
            again = typed([*scenario.words, *(word for word in scenario.again if self._begun(scenario))], self.folder)
            if again.status != 0:
                wrong.append(f"again: status {again.status}: {again.errors.strip().splitlines()[-1:]}")
            wrong += self._another(scenario)
        wrong += [f"again left {path}" for path in self._left()]
        lines = [f"{scenario.name}, {fault} ({first}){', own process' if own else ''}: {line}" for line in wrong]
        for line in lines:
            tqdm.write(line, file=sys.stderr)
        self.failed += lines

    def _another(self, scenario: Scenario) -> list[str]:
        found, expected = scenario.result(self.folder), self.expected[scenario.name]
        different = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        return [f"another result than undisturbed: {different[:4]}"] if different else []

    def _begun(self, scenario: Scenario) -> bool:
        return scenario.name != "init" or any(self.folder.glob("own/**/*.yaml"))

    def _calls_of(self, scenario: Scenario, kind: Fault) -> int:
        """How many calls of a kind an undisturbed run makes; the first of them gives the result to compare with."""
        known = self.calls[scenario.name]
        if kind.ops not in known:
            self.bases.copy(scenario.base, self.folder)
            done = self._run(scenario, replace(kind, at=0), own=False)
            assert done.status == 0, f"{scenario.name} ends undisturbed with {done.status}: {done.errors}"
            known[kind.ops] = self.tally.read()[0]
            self.expected.setdefault(scenario.name, scenario.result(self.folder))
            assert self.expected[scenario.name], f"{scenario.name} gave nothing"
        return known[kind.ops]

    def _run(self, scenario: Scenario, fault: Fault, *, own: bool) -> Any:
        self.tally.clear()
        if not own:
            return typed(scenario.words, self.folder, before=armed(self.library, self.tally, self.folder, fault))
        assert self.library is not None
        first = ["-m"] if scenario.words[0] == "-m" else [str(ROOT / scenario.words[0])]
        done = subprocess.run(
            [sys.executable, *first, *scenario.words[1:]],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment(self.library, self.tally, self.folder, fault)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return _Done(done.returncode, done.stdout, done.stderr)

    def _wrong(
        self, scenario: Scenario, done: Any, before: dict[str, str], failures: int, first: str, preceding: str = ""
    ) -> list[str]:
        wrong = []
        if "Traceback" in done.errors or "Traceback" in done.out or "Logging error" in done.errors:
            wrong.append(f"traceback: {done.errors.strip().splitlines()[-1][:200]}")
        errors = [line for line in done.errors.splitlines() if line.startswith("error: ")]
        if done.status not in (0, 2):
            wrong.append(f"status {done.status}: {done.errors.strip().splitlines()[-1:]}")
        elif done.status == 2 and not (len(errors) == 1 and NAMED.search(errors[0])):
            wrong.append(f"not one line that names the file: {errors or done.errors.strip().splitlines()[-1:]}")
        elif done.status == 0 and failures > 0 and not (_silent(first, preceding) or WARNED in done.errors + done.out):
            wrong.append("complete, but no warning")
        now = self._earlier(scenario)
        wrong += [
            f"earlier data changed: {name}" for name in before if done.status != 0 and now.get(name) != before[name]
        ]
        for path in self.folder.glob("checkpoints/**/*report.json"):
            status = json.loads(path.read_text(encoding="utf-8"))["status"]
            if done.status == 2 and status == "running" and failures == 1:
                wrong.append(f"{path.name} says running")
        return wrong

    def _earlier(self, scenario: Scenario) -> dict[str, str]:
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in scenario.keeps
            for path in self.folder.glob(pattern)
            if path.is_file()
        }

    def _left(self) -> list[str]:
        return [
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if LEFT.search(path.name) and "config/" not in str(path)
        ]


class _Done:
    def __init__(self, status: int, out: str, errors: str) -> None:
        self.status, self.out, self.errors = status, out, errors


def _read_only(fault: Fault) -> bool:
    """Whether the disk lets nothing be removed any more."""
    return fault.error == "EROFS" and not fault.once


def _silent(first: str, preceding: str) -> bool:
    """Whether nobody needs to hear of a call: its effect is there, or nobody needs it.

    Args:
        first: the call that failed: its kind, a blank and its path.
        preceding: the call before it: a folder is synced after the file that it has now.
    """
    kind, _, path = first.partition(" ")
    if kind == "o" or (kind == "d" and Path(path).is_dir()):
        return True  # what is tried again, and a folder that is there already
    file = preceding.partition(" ")[2] if kind == "s" and Path(path).is_dir() else path
    return bool(UNHEARD.search(file))
