"""Mutation fuzzing: whatever a file or a setting holds is read, or refused by a documented error."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Read when polars is imported: forked processes share the cores anyway.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RUST_BACKTRACE", "0")

MODULES = ("settings_targets", "entry_targets", "row_targets", "serving_targets", "file_targets", "raw_targets")


def targets() -> list[Any]:
    """All targets."""
    return [target for name in MODULES for target in importlib.import_module(f"tests.torture.fuzz.{name}").TARGETS]


def attack(*, count: int | None, seed: int, work: Path, only: str = "") -> dict[str, Any]:
    """Call every target with mutated inputs.

    Args:
        count: inputs of each target, instead of its own number.
        seed: of the inputs.
        work: a folder; what it holds of an earlier attack by the same seed is not repeated.
        only: targets whose name has this text.

    Returns:
        `inputs` in all, `targets` with counts by target, `faults` by place, and `failed`, a line each.
    """
    from tests.torture.fuzz.harness import Found
    from tests.torture.fuzz.workers import attack_target

    chosen = [target for target in targets() if only in target.name]
    every, counts = Found(), {}
    with tqdm(total=sum(count or t.inputs for t in chosen), unit="input", file=sys.stderr, smoothing=0) as bar:
        for target in chosen:
            bar.set_description(target.name)
            inputs = count or target.inputs
            kept = work / "found" / f"{target.name}-{seed}-{inputs}.json".replace("/", "-")
            if kept.is_file():
                found = Found.of(kept.read_text(encoding="utf-8"))
                bar.update(inputs)
            else:
                found = attack_target(target, work, seed=seed, count=inputs, done=bar.update)
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(found.text(), encoding="utf-8")
            counts[target.name] = {
                "inputs": found.inputs,
                "undrawn": found.undrawn,
                "accepted": found.accepted,
                "refused": found.refused,
                "faults": len(found.faults),
            }
            every.join(found)
    faults = [vars(fault) for fault in every.faults.values()]
    failed = [
        f"{f['kind']} at {f['place']} ({f['count']} times): {f['message']}; repeat: python -m tests.torture.fuzz "
        f"{f['target']!r} --seed {seed} --at {f['number']}"
        for f in faults
    ]
    return {"inputs": every.inputs, "targets": counts, "faults": faults, "failed": failed}
