"""Commands that write, each after what must be there for it, with what they must leave alone and what they give."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.helpers import planted_languages, shop
from tests.helpers.tuner_sweep import FAKE_TRIAL
from tests.helpers.typed_command import ROOT, type_command

RUN = ["--expid", "QIN_test", "--set", "epochs=2", "--set", "verbose=0"]
FOLDER = "checkpoints/Synthetic_test"
SMALL = [f"{stage}.steps={steps}" for stage, steps in (("mlm", 3), ("pairs", 4), ("multitask", 3))]
EMBED = ["--expid", "BiEncoder_nano", *(word for setting in (*SMALL, "save_steps=2") for word in ("--set", setting))]


@dataclass(frozen=True)
class Scenario:
    """A command.

    Attributes:
        name: for counts.
        words: the script and its arguments.
        base: which of the prepared folders it works in.
        keeps: globs of earlier files that a failure leaves as they are.
        gives: globs of the files of its result.
        again: words to add when it is repeated.
        read: the part of a file that two equal runs share, by suffix.
    """

    name: str
    words: list[str]
    base: str
    keeps: tuple[str, ...]
    gives: tuple[str, ...]
    again: tuple[str, ...] = ()

    def result(self, folder: Path) -> dict[str, str]:
        """What the command gave, by file."""
        return {
            path.relative_to(folder).as_posix(): _content(path)
            for pattern in self.gives
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        }


def _content(path: Path) -> str:
    if path.name.endswith("report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        shared = {key: report.get(key) for key in ("status", "error", "metrics", "best_epoch", "evaluation")}
        shared["curve"] = [
            {key: value for key, value in row.items() if "second" not in key and "_s" not in key}
            for row in report.get("curve", [])
        ]
        return json.dumps(shared)
    if path.name == "summary.json":
        found = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({"best": found["best"], "models": found["models"]})
    if path.name == "model.json":
        found = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({key: found[key] for key in ("format", "name", "arrays", "files")})
    if path.suffix == ".model":
        # Its archive has the name of the process in it.
        weights = torch.load(path, weights_only=True)
        return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


DATA = "data/Synthetic_test/**/*"
MODEL = f"{FOLDER}/QIN_test@epochs=2"
SCENARIOS = (
    Scenario(
        "build synthetic",
        ["-m", "fuxictr_multimodal.cli.main", "build", "--dataset-id", "Synthetic_test", "--overwrite"],
        "data",
        (DATA,),
        (DATA,),
    ),
    Scenario(
        "train",
        ["run_expid.py", *RUN],
        "data",
        (DATA,),
        (f"{FOLDER}/*.report.json", f"{FOLDER}/*.model"),
        ("--resume",),
    ),
    Scenario(
        "predict csv",
        ["run_predict.py", *RUN, "--out", "scores.csv", "--calibrate", "platt"],
        "trained",
        (DATA, f"{FOLDER}/*.model", "scores.csv"),
        ("scores.csv",),
    ),
    Scenario(
        "predict parquet",
        ["run_predict.py", *RUN, "--out", "scores.parquet", "--export-weights", "weights.pt"],
        "trained",
        (DATA, f"{FOLDER}/*.model"),
        ("scores.parquet",),
    ),
    Scenario(
        "leaderboard",
        ["run_leaderboard.py", "--out", "page.html", "--export", "page.json"],
        "trained",
        (DATA, f"{FOLDER}/*"),
        ("page.json",),
    ),
    Scenario(
        "explain",
        ["run_explain.py", *RUN, "--json", "e.json", "--out", "e.svg"],
        "trained",
        (DATA, f"{FOLDER}/*.model"),
        ("e.json",),
    ),
    Scenario(
        "init",
        ["-m", "fuxictr_multimodal.cli.main", "init", "log.parquet", "items.parquet", "users.csv", "--config", "own"],
        "shop",
        ("*.parquet", "*.csv"),
        ("own/**/*.yaml",),
        ("--overwrite",),
    ),
    Scenario(
        "build log",
        ["-m", "fuxictr_multimodal.cli.main", "build", "--dataset-id", "Shop", "--config", "proposed"],
        "shop",
        ("*.parquet", "*.csv", "proposed/**/*"),
        ("data/Shop/**/*",),
    ),
    Scenario(
        "tune",
        ["run_param_tuner.py", "--config", "config/tuner/fake_tuner.yaml", "--script", str(FAKE_TRIAL), "--gpu", "-1",
         "--search", "random", "--trials", "2"],
        "tuner",
        ("config/*_config/*",),
        ("config/tuner/*/summary.json",),
    ),
    Scenario(
        "encoder",
        ["run_embedding.py", *EMBED],
        "encoder",
        ("data/**/*",),
        ("checkpoints/**/report.json", "checkpoints/**/*.safetensors", "checkpoints/**/tokenizer.json"),
        ("--resume",),
    ),
    Scenario(
        "vectors",
        ["run_embedding.py", *EMBED, "--stage", "encode", "--input", "texts.txt", "--output", "vectors.parquet"],
        "encoder trained",
        ("checkpoints/**/*", "texts.txt"),
        ("vectors.parquet",),
    ),
    Scenario(
        "export onnx",
        ["-m", "fuxictr_multimodal.cli.main", "export", *RUN, "--out", "exported", "--overwrite"],
        "trained",
        (DATA, f"{FOLDER}/*.model", "exported/**/*"),
        ("exported/model.json", "exported/items.safetensors"),
    ),
)  # fmt: skip


class Bases:
    """Folders with what commands need, made when they are first needed."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def copy(self, name: str, target: Path) -> None:
        """Put a fresh copy in the place of a folder."""
        base = self._work / "bases" / name.replace(" ", "_")
        # At the place where it is used: paths are part of some files.
        if not base.exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            getattr(self, f"_make_{name.replace(' ', '_')}")(target)
            base.parent.mkdir(exist_ok=True)
            shutil.copytree(target, base, symlinks=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(base, target, symlinks=True)

    def _make_data(self, folder: Path) -> None:
        (folder / "config").symlink_to(ROOT / "config")
        _typed(["-m", "fuxictr_multimodal.cli.main", "build", "--dataset-id", "Synthetic_test"], folder)

    def _make_trained(self, folder: Path) -> None:
        self.copy("data", folder)
        _typed(["run_expid.py", *RUN], folder)
        (folder / "scores.csv").write_text("an earlier file\n")

    def _make_shop(self, folder: Path) -> None:
        shop.write(folder, events=1200)
        proposing = next(scenario.words for scenario in SCENARIOS if scenario.name == "init")
        _typed([*proposing[:-1], "proposed"], folder)

    def _make_tuner(self, folder: Path) -> None:
        from tests.helpers.tuner_sweep import Sweep

        Sweep(folder).tuner({"learning_rate": [1e-4, 1e-3, 1e-2], "net_dropout": [0.0, 0.1]})

    def _make_encoder(self, folder: Path) -> None:
        (folder / "config").symlink_to(ROOT / "config")
        planted_languages.write_planted(folder / "data/planted")
        (folder / "texts.txt").write_text("a b c\nd e f\n")

    def _make_encoder_trained(self, folder: Path) -> None:
        self.copy("encoder", folder)
        _typed(["run_embedding.py", *EMBED], folder)


def _typed(words: list[str], folder: Path, **options: Any) -> None:
    done = typed(words, folder, **options)
    assert done.status == 0, done.errors


def typed(words: list[str], folder: Path, *, before: Callable[[], None] | None = None) -> Any:
    """Run a command in a folder."""
    first = words[0] if words[0] == "-m" else str(ROOT / words[0])
    options = {} if before is None else {"before": before}
    return type_command([first, *words[1:]], folder=folder, seconds=240, **options)
