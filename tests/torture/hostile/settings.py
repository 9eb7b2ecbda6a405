"""Hostile configurations: YAML that builds objects or unfolds, names that leave their folder, absurd sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.worlds import CONFIG, EXPID, edit_yaml

RUN = ("run", "--config", "config", "--expid", EXPID, "--overwrite")
MODEL, DATASETS = CONFIG / "model_config.yaml", CONFIG / "dataset_config.yaml"


def text(content: str | Callable[[Place], str | bytes] | bytes, *arguments: str) -> Callable[[Place], Sequence[str]]:
    """Put this content into the file of experiments, and run."""

    def write(place: Place) -> Sequence[str]:
        found = content(place) if callable(content) else content
        MODEL.write_bytes(found.encode() if isinstance(found, str) else found)
        return arguments or RUN

    return write


def added(line: str | Callable[[Place], str]) -> Callable[[Place], Sequence[str]]:
    """Add a setting to the experiment, and run."""

    def write(place: Place) -> Sequence[str]:
        found = line(place) if callable(line) else line
        MODEL.write_text(MODEL.read_text(encoding="utf-8").rstrip("\n") + f"\n  {found}\n", encoding="utf-8")
        return RUN

    return write


def typed(*arguments: str | Callable[[Place], str]) -> Callable[[Place], Sequence[str]]:
    """Type these arguments."""
    return lambda place: [one(place) if callable(one) else one for one in arguments]


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _pipe(path: Path) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        path.unlink()
        os.mkfifo(path)
        return RUN

    return write


def _piped_in_folder(place: Place) -> Sequence[str]:
    MODEL.unlink()
    MODEL.with_suffix("").mkdir()
    os.mkfifo(MODEL.with_suffix("") / "a.yaml")
    return RUN


def _device(place: Place) -> Sequence[str]:
    MODEL.unlink()
    MODEL.symlink_to("/dev/zero")
    return RUN


def _dataset(change: Callable[[Any], object]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        edit_yaml(DATASETS, change)
        return ("build", "--config", "config", "--dataset-id", "Shop", "--overwrite")

    return write


def _renamed(name: str) -> Callable[[Place], Sequence[str]]:
    """An experiment of this name, run by a glob."""

    def write(place: Place) -> Sequence[str]:
        edit_yaml(MODEL, lambda found: found.update({name: found.pop(EXPID)}))
        return ("run", "--config", "config", "--expid", name)

    return write


TAGS = {
    "a Python object": "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{path!r}]]",
    "a Python name": "!!python/name:os.system",
    "a Python module": "!!python/module:os",
    "a new object": "!!python/object/new:pathlib.PosixPath [{path!r}]",
}

CASES: list[Case] = with_name(
    "settings",
    [
        *(
            Case(
                f"{what} in a tag of YAML", added(lambda p, tag=tag: f"note: {tag.format(path=str(p.canary))}"), "YAML"
            )
            for what, tag in TAGS.items()
        ),
        *(
            Case(
                f"{what} in --set",
                typed(*RUN, "--set", lambda p, tag=tag: f"note={tag.format(path=str(p.canary))}"),
                "note=.*YAML",
            )
            for what, tag in TAGS.items()
        ),
        Case("aliases that unfold to 10^9 values", text(_bomb(9)), "aliases"),
        Case(
            "aliases that unfold, in --set",
            typed(*RUN, "--set", "note={" + _bomb(9).strip().replace("\n", ", ") + "}"),
            "--set.*(aliases|YAML)",
        ),
        Case("a list that holds itself", text("Base: &a [*a]\n"), "holds itself"),
        Case("a list that holds itself, in --set", typed(*RUN, "--set", "note=&a [*a]"), "holds itself"),
        Case("100,000 open brackets", text("Base: " + "[" * 100_000), "nested deeper"),
        Case("100,000 open brackets in --set", typed(*RUN, "--set", "note=" + "[" * 100_000), "nested deeper"),
        Case("100,000 levels of indentation", text("".join(f"{' ' * n}a:\n" for n in range(2000))), "nested deeper"),
        Case("40 MB of YAML", text(b"# " + b"x" * (40 << 20) + b"\n"), "has .* bytes"),
        Case("bytes that are not UTF-8", text(b"Base: {note: \xff\xfe\xfa}\n"), "UTF-8"),
        Case("UTF-16", text("Base: {seed: 1}\n".encode("utf-16")), "UTF-8|YAML"),
        Case("NUL bytes", text(b"Base: {note: a\0b}\n"), "YAML"),
        Case("a pipe in place of a file", _pipe(MODEL), "model_config"),
        Case("a pipe in the folder of experiments", _piped_in_folder, "no regular file"),
        Case("an endless device in place of a file", _device, "model_config"),
        Case("a key that is true", added("feature_specs: [{on: 1, name: brand}]"), "quotes"),
        Case("a key that is null", added("first_order_regularizer: {~: 1.0}"), "quotes"),
        Case("a key that is a list", added("? [a]\n  : 1"), "a key must be a name"),
        Case("a key that is a number", added("7: 1"), "unknown key"),
        Case("a key twice", added("seed: 2"), "twice"),
        Case("a merge of itself", text("Base: &b {<<: *b}\n"), "QIN_shop"),
        *(
            Case(f"an expid {name!r}", typed("run", "--config", "config", "--expid", name), "expid")
            for name in ("../x", "/tmp/x", "..", "a/../../b", "x\0y", "nul", "\u202egnp")
        ),
        *(
            Case(f"an experiment named {name!r} in YAML", _renamed(name), "expid|holds|start|hidden|dot")
            for name in ("../../x", ".ssh", "a\\b")
        ),
        *(
            Case(f"a run named {name!r}", typed(*RUN, "--name", name), "--name")
            for name in ("../../x", "/etc/x", "a\nb")
        ),
        Case("a dataset_id that leaves the folder", typed(*RUN, "--set", "dataset_id=../outside"), "dataset_id"),
        Case("verify of a dataset elsewhere", typed("verify", "--dataset-id", "../../outside"), "dataset-id"),
        Case("a model that is a path", typed(*RUN, "--set", "model=../../outside/x"), "model"),
        Case("a model that is a module", typed(*RUN, "--set", "model=os"), "model 'os'"),
        Case("a model with a magic name", typed(*RUN, "--set", "model=__import__"), "__import__"),
        Case("a model of a clone without one", typed(*RUN, "--set", "model=clone/DIN"), "clone/DIN|zoo"),
        *(
            Case(f"{setting} beyond any machine", typed(*RUN, "--set", setting), setting.split("=")[0])
            for setting in (
                "embedding_dim=1000000000",
                "batch_size=-1",
                "epochs=1.5",
                "num_layers=-3",
                "seed=1e400",
                "max_len=99999999999",
                "learning_rate=.nan",
            )
        ),
        Case(
            "an entry whose file is a device",
            _dataset(lambda d: d["Shop"]["interactions"].update(file="/dev/zero")),
            "/dev/zero",
        ),
        Case(
            "an entry with a function as preprocess",
            _dataset(lambda d: d["Shop"]["feature_cols"][1].update(preprocess="__init__")),
            "preprocess",
        ),
        Case(
            "an entry with an embedding_file elsewhere",
            _dataset(lambda d: d["Shop"]["feature_cols"][-1].update(embedding_file="../outside/secret.txt")),
            "secret.txt",
        ),
        Case(
            "an entry with a hub name as encoder of texts",
            _dataset(
                lambda d: d["Shop"]["feature_cols"].append(
                    {
                        "name": "title",
                        "active": True,
                        "dtype": "str",
                        "type": "text",
                        "source": "item",
                        "encoder": "../outside",
                        "pretrain_dim": 4,
                    }
                )
            ),
            "encoder|outside",
        ),
        Case(
            "terminal escapes in an expid",
            typed("run", "--config", "config", "--expid", "\x1b]0;owned\x07\x1b[2J"),
            "expid",
        ),
        Case("a line break in a value", typed(*RUN, "--set", "loss=a\n\nerror: fine"), "loss"),
    ],
)
