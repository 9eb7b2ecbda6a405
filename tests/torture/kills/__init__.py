"""Commands that are killed with SIGKILL at enumerated points, resumed, and compared with ones that were not killed.

A point is hit by the process itself, so that it is exact; some are left to chance, and the process is killed from
outside. What must be equal bit for bit: loss trace, metrics and all else in the report but times, weights, scores, the
line of FuxiCTR's table, the files of a dataset, and the names of all files that are left.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.helpers.typed_command import ROOT, Command, Typed, nothing, type_command
from tests.torture.kills.plan import planned
from tests.torture.kills.points import Point, install
from tests.torture.kills.scenes import SCENES, Scene, as_from_a_server, outcome

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
SECONDS = 180
# What a killed command started ends a moment after it.
ORPHAN_SECONDS = 0.5


@dataclass(frozen=True)
class Kill:
    """One kill: of a scene, at a point, or from outside.

    Attributes:
        scene: its name.
        point: None for a kill from outside.
        share: of the time that the scene takes, after which it is killed from outside.
        real: whether a new Python runs the script, as a user's shell does; it is killed after its first state.
    """

    scene: str
    point: Point | None = None
    share: float = 0.0
    real: bool = False

    @property
    def kind(self) -> str:
        if self.point is not None:
            return self.point.kind
        return "any time in a new Python" if self.real else "any time"

    def __str__(self) -> str:
        outside = f"after {self.share:.2f} of its time{', in a new Python' if self.real else ''}"
        return f"{self.scene}: {self.point or outside}"


class Arena:
    """Runs scenes in folders below `work`, which are removed where all went well.

    Args:
        work: an empty folder.
        before: a function of a module that each resumed process calls first; tests plant faults with it.
        repeats: how often a scene runs without a kill; more than once also says that it is the same each time.
    """

    def __init__(self, work: Path, *, before: Any = nothing, repeats: int = 2) -> None:
        self.repeats = repeats
        self.work, self.shared, self.before = work, work / "shared", before
        self.shared.mkdir(parents=True, exist_ok=True)
        self._whole: dict[str, tuple[dict[str, Any], float]] = {}
        self._count = 0

    def whole(self, scene: Scene) -> tuple[dict[str, Any], float]:
        """The outcome of the command without a kill, and its seconds."""
        if scene.name not in self._whole:
            for number in range(self.repeats):  # the first one may build the shared dataset, which takes time
                folder = self._folder(scene)
                started = time.perf_counter()
                done = self._type(scene, folder)
                seconds = time.perf_counter() - started
                if done.status != 0:
                    raise RuntimeError(f"{scene.name} fails without a kill: {done.errors[-2000:]}")
                found = outcome(folder)
                shutil.rmtree(folder)
                if number and found != self._whole[scene.name][0]:
                    raise RuntimeError(
                        f"{scene.name} differs from itself: {difference(self._whole[scene.name][0], found)}"
                    )
                self._whole[scene.name] = found, seconds
        return self._whole[scene.name]

    def attack(self, kill: Kill) -> str | None:
        """Kill, resume, compare; None where all is equal, else what is not."""
        scene = SCENES[kill.scene]
        expected, seconds = self.whole(scene)
        folder = self._folder(scene)
        mark = self.work / f"{folder.name}.killed"
        if kill.point is not None:
            done = self._type(scene, folder, before=functools.partial(install, kill.point, mark))
            if not mark.exists():
                return f"the point was not reached: status {done.status}, {done.errors[-300:]}"
        elif kill.real:
            self._kill_real(scene, folder, kill.share * seconds)
        else:
            words = scene.words(folder, self.shared)
            command = Command(words, folder=folder, environment=ENVIRONMENT, before=scene.before)
            command.communicate(kill.share * seconds)
            command.kill()
            command.communicate(SECONDS)
        if scene.before is as_from_a_server:
            time.sleep(ORPHAN_SECONDS)
        done = self._type(scene, folder, again=scene.again, before=self.before)
        if done.status != 0:
            return f"status {done.status} when resumed: {done.errors[-600:]} (see {folder})"
        found = outcome(folder)
        if kill.real:
            # It draws what the scene leaves out.
            found = {name: content for name, content in found.items() if name in expected or ".curve." not in name}
        if found != expected:
            return f"{difference(expected, found)} (see {folder})"
        shutil.rmtree(folder)
        mark.unlink(missing_ok=True)
        return None

    def _kill_real(self, scene: Scene, folder: Path, seconds: float) -> None:
        """Kill a new process some seconds after it has its first state, unless it has ended by then."""
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        with (folder / "output.log").open("w") as output:
            command = [sys.executable, *scene.words(folder, self.shared)]
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
            while process.poll() is None and not any(folder.rglob("*.state*")):
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            process.wait()

    def _folder(self, scene: Scene) -> Path:
        self._count += 1
        folder = self.work / f"{self._count:03d}-{scene.name}"
        folder.mkdir()
        scene.prepare(folder, self.shared)
        return folder

    def _type(self, scene: Scene, folder: Path, *, again: Sequence[str] = (), before: Any = nothing) -> Typed:
        words = [*scene.words(folder, self.shared), *again]
        calls = functools.partial(_call, scene.before, before)
        return type_command(words, folder=folder, environment=ENVIRONMENT, seconds=SECONDS, before=calls)


def _call(*functions: Any) -> None:
    for function in functions:
        function()


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """The first few differences of two outcomes, in words."""
    texts = [f"{name} is missing" for name in expected.keys() - found.keys()]
    texts += [f"{name} is left over" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            texts.append(f"{name} differs{_where(expected[name], found[name])}")
    return "; ".join(sorted(texts)[:4])


def _where(one: Any, other: Any, path: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key):
                return _where(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        for place, pair in enumerate(zip(one, other, strict=False)):
            if pair[0] != pair[1]:
                return _where(*pair, f"{path}[{place}]")
    return f" at {path.removeprefix('.')}: {one!r:.120} and {other!r:.120}"


def attack(*, count: int | None, seed: int, work: Path) -> dict[str, Any]:
    """Kill at `count` points, all of the plan by default, and resume each time.

    Returns:
        `kills` by kind and by scene, `within_an_epoch`, and `failed`.
    """
    generator = random.Random(seed)
    kills = [Kill(scene, point) for scene, point in planned()]
    kills += [Kill(scene, share=generator.uniform(0.1, 0.95)) for scene in ("plain", "averaged", "DIN", "text") * 2]
    kills += [
        Kill(scene, share=generator.uniform(0.0, 0.4), real=True) for scene in ("averaged", "seeds", "grid", "text")
    ]
    if count is not None:
        kills = sorted(generator.sample(kills, min(count, len(kills))), key=lambda kill: kill.scene)
    arena = Arena(work)
    kinds: Counter[str] = Counter()
    scenes: Counter[str] = Counter()
    failed = []
    for kill in tqdm(kills, desc="kills", unit="kill"):
        kinds[kill.kind] += 1
        scenes[kill.scene] += 1
        if (what := arena.attack(kill)) is not None:
            failed.append(f"{kill}: {what}")
            tqdm.write(failed[-1], file=sys.stderr)
    return {
        "kills": len(kills),
        "identical": len(kills) - len(failed),
        "within_an_epoch": kinds["step"],
        "by_kind": dict(sorted(kinds.items())),
        "by_scene": dict(sorted(scenes.items())),
        "failed": failed,
    }
