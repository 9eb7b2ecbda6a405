"""Where an export goes: links are followed, and a place that cannot hold one is refused before any work."""

import re
import shutil
from pathlib import Path

import pytest

from fuxictr_multimodal.cli.export import export_main
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving.export import export
from fuxictr_multimodal.serving.runtime import Ranker


def write(shop, out, *, overwrite=True):
    said = []
    try:
        return export(config_dir=shop.config, expid=shop.expid, out=out, overwrite=overwrite, say=said.append)
    except InputError:
        # Nothing was loaded, built or written.
        assert not said
        raise


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_link_stays_and_the_export_behind_it_is_replaced(qin_shop, qin_export, tmp_path):
    shutil.copytree(qin_export.out, tmp_path / "v1")
    (tmp_path / "cur").symlink_to("v1")
    before = (tmp_path / "v1" / "model.json").stat().st_ino
    with pytest.raises(InputError, match=r"v1 already holds an export: give --overwrite"):
        write(qin_shop, tmp_path / "cur", overwrite=False)
    assert names(tmp_path) == ["cur", "v1"]
    assert write(qin_shop, tmp_path / "cur").out == tmp_path / "cur"
    assert (tmp_path / "cur").readlink() == Path("v1")
    assert (tmp_path / "v1" / "model.json").stat().st_ino != before
    assert names(tmp_path) == [".v1.lock", "cur", "v1"]
    assert len(Ranker(tmp_path / "cur")) == len(Ranker(qin_export.out))


def test_a_link_to_nothing_is_refused_before_any_work(qin_shop, tmp_path):
    (tmp_path / "cur").symlink_to("v1")
    with pytest.raises(InputError, match=r"cur is a symbolic link to v1, which is not there"):
        write(qin_shop, tmp_path / "cur")
    assert names(tmp_path) == ["cur"]


@pytest.mark.parametrize("inner", ["inner", "runtime/inner", "a/b"])
def test_a_folder_inside_an_export_is_refused_before_any_work(qin_shop, qin_export, tmp_path, inner):
    out = shutil.copytree(qin_export.out, tmp_path / "model")
    before = names(out)
    with pytest.raises(
        InputError, match=rf"--out {re.escape(str(out / inner))} is inside {re.escape(str(out))}, which"
    ):
        write(qin_shop, out / inner)
    assert names(out) == before
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("/", "error: / cannot be replaced: name a folder in it"),
        ("n" * 250, "cannot be created (File name too long): choose another one"),
        ("n" * 200 + "/" + "n" * 250, "cannot be created (File name too long): choose another one"),
        ("file/model", "cannot be created (Not a directory): choose another one"),
        ("/proc/xx", "error: the folder /proc/xx cannot be created (No such file or directory): choose another one"),
    ],
)
def test_an_impossible_place_is_one_line(qin_shop, tmp_path, monkeypatch, capsys, out, message):
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("the system has no /proc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        export_main(["--config", str(qin_shop.config), "--expid", qin_shop.expid, "--out", out, "--overwrite"])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert names(tmp_path) == ["file"]
