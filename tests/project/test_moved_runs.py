"""A trained run and an export that are copied to another place and user: same scores, no path of the old place."""

from __future__ import annotations

import json
import shutil

import pytest

from fuxictr_multimodal.cli.main import main
from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.serving.runtime import Ranker, Request
from fuxictr_multimodal.training.experiment import Experiment
from tests.helpers import trained_shop
from tests.helpers.typed_command import type_command

FILES = ["scores.parquet", "new.csv", "weights.json"]


def use(folder, out, user, monkeypatch):
    """What a trained run is used for, as `user` types it in the folder `out`; the reports, at last."""
    out.mkdir()
    environment = {"HOME": str(out / user), "USER": user, "LOGNAME": user}
    expid = ["--config", str(folder / "config"), "--expid", "QIN_shop"]
    scores = ["predict", *expid, "--out", "scores.parquet"]
    if user == "bob":
        typed = type_command(["-m", "fuxictr_multimodal.cli.main", *scores], folder=out, environment=environment)
        assert typed.status == 0, typed.errors
    with monkeypatch.context() as patched:
        patched.chdir(out)
        for name, value in environment.items():
            patched.setenv(name, value)
        if user == "ann":
            main(scores)
        main(["predict", *expid, "--data", str(folder / "raw/test.parquet"), "--out", "new.csv"])
        main(["explain", *expid, "--row", "3", "--json", "weights.json"])
        main(["export", *expid, "--out", "model"])
        main(["run", *expid, "--resume", "--set", "epochs=2"])
        if user == "bob":
            main(["leaderboard", "--dataset", "Shop", "--model-root", str(folder / "checkpoints"), "--out", "board.md"])
    return [json.loads(path.read_text()) for path in sorted((folder / "checkpoints/Shop").glob("*.report.json"))]


def ranked(folder):
    found = Ranker(folder, threads=1).rank(Request(**trained_shop.REQUEST))
    return list(found.items), list(found.scores)


@pytest.mark.slow
def test_a_run_gives_the_same_at_another_place(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "the other place" / "deep"
    here.mkdir()
    trained_shop.train(here)
    shutil.copytree(here, there)
    for path in (there / "config").iterdir():
        path.write_text(path.read_text().replace(str(here), str(there)))
    before = use(here, tmp_path / "before", "ann", monkeypatch)
    here.rename(tmp_path / "gone")
    for path in there.rglob("*.*"):
        if path.is_file():
            path.chmod(0o444)
    after = use(there, tmp_path / "after", "bob", monkeypatch)
    for one, other in zip(before, after, strict=True):
        assert (one["metrics"], one["status"]) == (other["metrics"], other["status"])
        assert [row["train_loss"] for row in one["curve"]] == [row["train_loss"] for row in other["curve"]]
    for name in FILES:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes(), name
    (tmp_path / "after/model").rename(tmp_path / "renamed")
    assert ranked(tmp_path / "renamed") == ranked(tmp_path / "before/model")
    # Raw files of another content are another dataset.
    users = there / "raw/users.csv"
    content = users.read_text()
    users.unlink()
    users.write_text(content.replace("de", "fr"))
    with pytest.raises(DataError, match="was built from another entry"):
        Experiment.load(there / "config", "QIN_shop")
