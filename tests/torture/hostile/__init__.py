"""Hostile inputs: each is met by the command that reads it, and must be refused by name or be harmless.

A case runs in a process with bounded time and memory and a working folder of its own. It counts as executed when its
payload made a file, and as escaped when something outside of the folder changed or a secret from there shows up.
"""

from __future__ import annotations

import importlib
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.torture.hostile.meeting import OUTCOMES, Case, meet, verdict
from tests.torture.hostile.server import Server
from tests.torture.hostile.worlds import prepare

MODULES = ("settings", "evaluated", "manifests", "arrays", "tables", "weights", "exports", "encoders", "shown")


def cases() -> list[tuple[str, int, Case]]:
    """All cases with their module and place in it."""
    found = []
    for name in MODULES:
        module = f"tests.torture.hostile.{name}"
        found += [(module, index, case) for index, case in enumerate(importlib.import_module(module).CASES)]
    return found


def attack(*, count: int | None, seed: int, work: Path) -> dict[str, Any]:
    """Meet all cases, or `count` of them."""
    return run(chosen(count, seed), work)


def chosen(count: int | None, seed: int) -> list[tuple[str, int, Case]]:
    """`count` of the cases, spread over the modules; all by default."""
    everything = cases()
    if count is None or count >= len(everything):
        return everything
    kept = sorted(random.Random(seed).sample(range(len(everything)), count))
    return [everything[place] for place in kept]


def run(which: list[tuple[str, int, Case]], work: Path) -> dict[str, Any]:
    """Meet these cases and count what came."""
    outcomes: dict[str, Counter[str]] = {}
    failed, accepted = [], {}
    with Server() as server:
        prepare(server, work / "worlds", sorted({case.world for _, _, case in which}))
        for module, index, case in tqdm(which, unit="case"):
            part, folder = module.rpartition(".")[2], work / "met"
            met = meet(server, module, index, case, worlds=work / "worlds", work=folder)
            outcomes.setdefault(part, Counter())[met.outcome] += 1
            if problem := verdict(case, met):
                failed.append(problem)
                tqdm.write(problem, file=sys.stderr)
            elif case.accepted:
                accepted[case.name] = case.accepted
            shutil.rmtree(folder)
    total: Counter[str] = sum(outcomes.values(), Counter())
    return {
        "inputs": len(which),
        "outcomes": {name: total[name] for name in OUTCOMES},
        "by_target": {name: dict(counted) for name, counted in outcomes.items()},
        "accepted": accepted,
        "failed": failed,
    }
