"""Weights, states and studies from elsewhere: pickles that run code, other objects, tensors beyond measure."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.torture.hostile.evaluated import REPORT
from tests.torture.hostile.meeting import Case, Place, with_name
from tests.torture.hostile.settings import RUN
from tests.torture.hostile.worlds import EXPID, edit_json
from tests.torture.hostile.worlds import RUN as FILES

PREDICT = ("predict", "--config", "config", "--expid", EXPID, "--out", "scores.csv")
MODEL, STATE = Path(f"{FILES}.model"), Path(f"{FILES}.state")


class Payload:
    """Unpickled, it makes the canary."""

    def __init__(self, place: Place) -> None:
        self.canary = place.canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def _plain(place: Place) -> bytes:
    return pickle.dumps(Payload(place))


def _zipped(place: Place) -> bytes:
    torch.save({"weight": torch.zeros(2), "x": Payload(place)}, "tmp.pt")
    found = Path("tmp.pt").read_bytes()
    Path("tmp.pt").unlink()
    return found


def _old(place: Place) -> bytes:
    torch.save(Payload(place), "tmp.pt", _use_new_zipfile_serialization=False)
    found = Path("tmp.pt").read_bytes()
    Path("tmp.pt").unlink()
    return found


def _module(place: Place) -> bytes:
    torch.save(torch.nn.Linear(2, 2), "tmp.pt")
    found = Path("tmp.pt").read_bytes()
    Path("tmp.pt").unlink()
    return found


def _script(place: Place) -> bytes:
    """An archive of TorchScript, which `torch.load` would hand to another loader."""
    found = Path("tmp.pt")
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("x/constants.pkl", pickle.dumps(()))
        archive.writestr("x/data.pkl", _plain(place))
        archive.writestr("x/code/__torch__.py", "raise SystemExit(7)")
        archive.writestr("x/version", "3\n")
    content = found.read_bytes()
    found.unlink()
    return content


def _huge(place: Place) -> bytes:
    """A storage that says that it has 10^12 numbers."""
    torch.save({"w": torch.zeros(4)}, "tmp.pt")
    with zipfile.ZipFile("tmp.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    Path("tmp.pt").unlink()
    name = next(name for name in members if name.endswith("data.pkl"))
    # The size of the storage and of the tensor, 4, as numbers of one byte.
    members[name] = members[name].replace(b"K\x04", b"J\xff\xff\xff\x7f")
    with zipfile.ZipFile("tmp.pt", "w") as archive:
        for one, content in members.items():
            archive.writestr(one, content)
    content = Path("tmp.pt").read_bytes()
    Path("tmp.pt").unlink()
    return content


FORMS: dict[str, Callable[[Place], bytes]] = {
    "a pickle": _plain,
    "a pickle in an archive": _zipped,
    "a pickle in the old form": _old,
    "a module": _module,
    "TorchScript": _script,
    "a storage of 2^31 numbers": _huge,
}


def checkpoint(form: Callable[[Place], bytes]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        MODEL.write_bytes(form(place))
        return PREDICT

    return write


def state(form: Callable[[Place], bytes]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        for path in (STATE, STATE.with_name(f"{STATE.name}.before")):
            path.write_bytes(form(place))
        edit_json(REPORT, lambda found: found.update(status="interrupted"))
        return ("run", "--config", "config", "--expid", EXPID, "--resume")

    return write


def published(form: Callable[[Place], bytes]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        Path("theirs.model").write_bytes(form(place))
        return (*PREDICT, "--import-weights", "theirs.model")

    return write


def warm(form: Callable[[Place], bytes]) -> Callable[[Place], Sequence[str]]:
    """The weights of an earlier run, with which a run begins."""

    def write(place: Place) -> Sequence[str]:
        for file in FILES.parent.glob(f"{EXPID}.*"):
            shutil.copy(file, file.with_name(file.name.replace(EXPID, "theirs", 1)))
        MODEL.with_name("theirs.model").write_bytes(form(place))
        return (*RUN, "--name", "warm", "--set", "warm_start=theirs")

    return write


def _warm_elsewhere(place: Place) -> Sequence[str]:
    return (*RUN, "--name", "warm", "--set", f"warm_start={place.outside / 'secret.txt'}")


def _pickled_predictions(place: Place) -> Sequence[str]:
    from tests.torture.hostile.arrays import npy

    path = Path(f"{FILES}.predictions.npz")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("valid_scores", "test_scores", "valid_labels", "test_labels"):
            archive.writestr(f"{name}.npy", npy((120,), "|O", _plain(place)))
    return (
        "leaderboard",
        "--model-root",
        "checkpoints",
        "--data-root",
        "data",
        "--dataset",
        "Shop",
        "--bootstrap",
        "50",
    )


def _calibration(text: str) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        Path(f"{FILES}.calibration.json").write_text(text, encoding="utf-8")
        return (*PREDICT, "--calibrate", "platt")

    return write


def _study(name: str, fill: Callable[[Path, Place], object]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        fill(Path(name), place)
        space = {"seed": [1, 2], "learning_rate": [1.0e-3]}
        content = {"base_config": "config", "base_expid": EXPID, "tuner_space": space}
        Path("tuner.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return ("tune", "--config", "tuner.yaml", "--search", "random", "--trials", "1", "--storage", name)

    return write


def _pickles_in_sqlite(path: Path, place: Place) -> None:
    with sqlite3.connect(path) as base:
        base.execute("create table studies (study_id integer primary key, study_name blob)")
        base.execute("insert into studies values (1, ?)", (_plain(place),))


CASES: list[Case] = with_name(
    "weights",
    [
        *(Case(f"{name} as checkpoint", checkpoint(form), "QIN_shop.model") for name, form in FORMS.items()),
        *(Case(f"{name} as state", state(form), "QIN_shop.state") for name, form in FORMS.items()),
        *(Case(f"{name} as published weights", published(form), "theirs.model") for name, form in FORMS.items()),
        *(Case(f"{name} as earlier weights", warm(form), "theirs.model") for name, form in FORMS.items()),
        Case("earlier weights from outside", _warm_elsewhere, "secret.txt"),
        Case("pickled predictions", _pickled_predictions, "predictions.npz"),
        Case(
            "a calibration of 200,000 brackets", _calibration("[" * 200_000), "", accepted="fitted again, and replaced"
        ),
        Case(
            "a calibration with NaN",
            _calibration('{"format_version": 1, "methods": {"platt": {"a": NaN}}}'),
            "",
            accepted="fitted again, and replaced",
        ),
        Case("a study that is a pickle", _study("study.db", lambda path, p: path.write_bytes(_plain(p))), "study.db"),
        Case("a study of SQLite with pickles", _study("study.db", _pickles_in_sqlite), "study.db"),
        Case(
            "a journal that is a pickle", _study("study.log", lambda path, p: path.write_bytes(_plain(p))), "study.log"
        ),
        Case(
            "a journal of 200,000 brackets",
            _study("study.log", lambda path, p: path.write_text("[" * 200_000 + "\n", encoding="utf-8")),
            "study.log",
        ),
        Case(
            "a journal of other operations",
            _study("study.log", lambda path, p: path.write_text(json.dumps({"op_code": 99}) + "\n", encoding="utf-8")),
            "study.log",
        ),
        Case(
            "a study in a folder elsewhere",
            lambda p: (*_study("x", lambda path, p: None)(p)[:-1], "../nowhere/study.db"),
            "nowhere",
        ),
    ],
)
