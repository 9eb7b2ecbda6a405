"""Commands that are killed: how each starts, how it resumes, and what it leaves that must not depend on a kill."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers.planted_languages import write_planted
from tests.helpers.tuner_sweep import draw_nothing
from tests.helpers.typed_command import ROOT, nothing

# Times and memory: all else must be the same.
MEASURED = {"seconds", "peak_memory_mib", "rows_per_s", "texts_per_s", "tokens_per_s", "commit", "model_root"}


@dataclass(frozen=True)
class Scene:
    """A command.

    Attributes:
        name: of the scene.
        words: of the command in a folder; the second argument is a folder that all scenes share.
        again: what resumes it is added to the words.
        prepare: writes what the command reads into both folders.
        before: a function of a module that its process calls first.
    """

    name: str
    words: Callable[[Path, Path], list[str]]
    again: Sequence[str] = ("--resume",)
    prepare: Callable[[Path, Path], None] = lambda folder, shared: None
    before: Callable[[], None] = nothing


def experiment(*settings: str, expid: str = "QIN_test", more: Sequence[str] = (), own_data: bool = False) -> Callable:
    """The words of `run_expid.py`; its dataset is shared unless it is to be built."""

    def words(folder: Path, shared: Path) -> list[str]:
        sets = [f"data_root={(folder if own_data else shared) / 'data'}", f"model_root={folder / 'ck'}", "verbose=0"]
        named = [word for text in (*sets, *settings) for word in ("--set", text)]
        return [f"{ROOT / 'run_expid.py'}", "--config", f"{ROOT / 'config'}", "--expid", expid, *named, *more]

    return words


def _tuner(*more: str) -> Callable[[Path, Path], list[str]]:
    def words(folder: Path, shared: Path) -> list[str]:
        return [f"{ROOT / 'run_param_tuner.py'}", "--config", f"{folder / 'tuner.yaml'}", "--gpu", "-1", *more]

    return words


def _write_tuner(folder: Path, shared: Path) -> None:
    space = {
        "model_root": f"{folder / 'ck'}", "data_root": f"{shared / 'data'}", "verbose": 0, "epochs": 2,
        "batch_size": 256, "save_steps": 5, "learning_rate": [1.0e-3, 4.0e-3],
    }  # fmt: skip
    tuner = {"base_config": f"{ROOT / 'config'}", "base_expid": "QIN_test", "dataset_id": "Synthetic_test"}
    (folder / "tuner.yaml").write_text(yaml.safe_dump({**tuner, "tuner_space": space}), encoding="utf-8")


def _write_search(folder: Path, shared: Path) -> None:
    _write_tuner(folder, shared)
    tuner = yaml.safe_load((folder / "tuner.yaml").read_text(encoding="utf-8"))
    tuner["tuner_space"]["learning_rate"] = {"low": 1.0e-4, "high": 1.0e-2, "log": True}
    (folder / "tuner.yaml").write_text(yaml.safe_dump(tuner), encoding="utf-8")


def _write_text(folder: Path, shared: Path) -> None:
    if not (shared / "planted").is_dir():
        write_planted(shared / "planted", rows=300, test_rows=20)
    nano = yaml.safe_load((ROOT / "config/embedding/nano.yaml").read_text(encoding="utf-8"))["BiEncoder_nano"]
    nano.update(data_root=f"{shared / 'planted'}", model_root=f"{folder / 'ck'}", save_steps=4)
    nano["tokenizer"]["vocabulary_size"] = 300
    for stage in ("mlm", "pairs", "multitask"):
        nano[stage]["steps"] = 10
    nano["pairs"]["batch_size"] = 16
    (folder / "text.yaml").write_text(yaml.safe_dump({"Tiny": nano}), encoding="utf-8")


def _text(folder: Path, shared: Path) -> list[str]:
    return [f"{ROOT / 'run_embedding.py'}", "--config", f"{folder / 'text.yaml'}", "--expid", "Tiny"]


def draw_no_curves() -> None:
    """Pictures take half of the time of a run this short; the scene `plain` draws them."""
    from fuxictr_multimodal.training import runner

    runner.draw_curves_beside = lambda *arguments: None


def as_from_a_server() -> None:
    """Close in each started process what it has from its parent by the fork, as one that a server forked has nothing.

    With the writing end of its own lifeline it would not end with its parent.
    """
    from fuxictr_multimodal.launch import pool

    run = pool.run_in_this_process

    def closing(job: Any, words: Any, lifeline: Any, folder: Path, environment: Any) -> None:
        own = os.fstat(lifeline.fileno()).st_ino
        for entry in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(OSError):
                number = int(entry.name)
                writes = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
                if writes and os.fstat(number).st_ino == own:
                    os.close(number)
        run(job, words, lifeline, folder, environment)

    pool.run_in_this_process = closing
    draw_nothing()
    draw_no_curves()


TPE = ("--search", "tpe", "--trials", "2")
SMALL = ("batch_size=128", "epochs=2")
SCENES = {
    scene.name: scene
    for scene in (
        Scene("plain", experiment(*SMALL, "save_steps=5")),
        Scene(
            "averaged",
            experiment(
                *SMALL, "save_steps=4", "weight_averaging=0.9", "contrastive_loss=0.1", "accumulation_steps=3",
                "eval_steps=10", "net_dropout=0.1", 'feature_dropout={"likes_level": 0.2}', "early_stop_patience=9",
            ),
            before=draw_no_curves,
        ),
        Scene(
            "streamed",
            experiment(
                *SMALL, "save_steps=3", "loader_mode=streaming", "embedding_update=rowwise", "rowwise_min_rows=9",
                "first_order=[item_id]", "first_order_averaging=0.9", "accumulation_steps=2",
            ),
            before=draw_no_curves,
        ),
        Scene(
            "DIN",
            experiment(
                *SMALL, "dataset_id=Synthetic_test", "save_steps=7", "weight_averaging=0.5", "accumulation_steps=2",
                "eval_steps=9", "learning_rate=0.1", "early_stop_patience=3", "net_dropout=0.2", "batch_norm=True",
                expid="DIN_demo",
            ),
            before=draw_no_curves,
        ),
        Scene("build", experiment("epochs=1", own_data=True), before=draw_no_curves),
        Scene("seeds", experiment(*SMALL, "save_steps=5", more=("--seeds", "1-2")), before=as_from_a_server),
        Scene("grid", _tuner(), again=(), prepare=_write_tuner, before=as_from_a_server),
        Scene("search", _tuner(*TPE), again=(), prepare=_write_search, before=as_from_a_server),
        Scene("text", _text, prepare=_write_text),
    )
}  # fmt: skip


def outcome(folder: Path) -> dict[str, Any]:
    """What a command left, in what must be equal: files by their names, without times, logs and the folder's own path.

    Weights are compared bit for bit; so are scores and the files of a dataset.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix in (".log", ".yaml") or ".lock" in path.name:
            continue
        if path.name.endswith(".verified.json"):
            continue  # times and numbers of files
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8").replace(str(folder), "")
            found[name] = _unmeasured(json.loads(text))
        elif path.suffix == ".model":
            found[name] = _tensors(torch.load(path, weights_only=True))
        elif path.suffix == ".safetensors":
            found[name] = _tensors(load_file(path))
        elif path.suffix == ".npz":
            found[name] = {key: _digest(values.tobytes()) for key, values in np.load(path).items()}
        elif path.name == "summary.csv":
            rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
            found[name] = [{key: row[key] for key in row if not _is_measured(key)} for row in rows]
        elif path.suffix == ".csv":
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = sorted(re.sub(r"^ \d{8}-\d{6},\[command\].*?,(?=\[exp_id\])", "", line) for line in lines)
        elif "tuner" in name:
            continue  # a journal, a page and pictures hold times; what counts of a sweep are its table and its runs
        else:
            found[name] = _digest(path.read_bytes())
    return found


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmeasured(item) for key, item in value.items() if key not in MEASURED}
    return [_unmeasured(item) for item in value] if isinstance(value, list) else value


def _is_measured(column: str) -> bool:
    return any(word in column for word in ("second", "memory", "mib", "rows_per", "gpu", "start", "resum", "exit_code"))


def _tensors(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: _digest(value.contiguous().view(-1).numpy().tobytes()) for name, value in tensors.items()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
