"""Two builds of one dataset do not meet."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import filelock
import pytest

from fuxictr_multimodal.data.store.builder import StoreExistsError
from fuxictr_multimodal.data.store.staging import Staging
from fuxictr_multimodal.errors import DataError, Unwritable


def staging(root):
    return Staging(root / "tiny", overwrite=False, owned={"manifest.json"})


def test_a_second_build_waits_and_then_finds_the_dataset(tmp_path):
    entered, outcome = threading.Event(), []

    def second():
        entered.set()
        try:
            with staging(tmp_path):
                outcome.append("built twice")
        except StoreExistsError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=second)
    with staging(tmp_path) as first:
        thread.start()
        entered.wait()
        (first.dir / "manifest.json").write_text("{}")
        thread.join(timeout=0.2)
        assert not outcome
        first.commit()
    thread.join()
    assert "already holds a dataset" in outcome[0]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "data").touch()
    for root in (tmp_path / "data", tmp_path / "data/more"):
        with pytest.raises(DataError, match=rf"the folder {root} cannot be created \(.*\): choose another one"):
            staging(root).__enter__()


def test_the_lock_is_given_back_when_entering_fails(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "manifest.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(StoreExistsError):
            staging(tmp_path).__enter__()


def test_commit_finished_but_not_cleaned_up(tmp_path):
    for folder in ("tiny", ".tiny.replaced"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "manifest.json").write_text(folder)
    with Staging(tmp_path / "tiny", overwrite=True, owned={"manifest.json"}):
        assert not (tmp_path / ".tiny.replaced").exists()
    assert (tmp_path / "tiny" / "manifest.json").read_text() == "tiny"


def linked(root):
    """A finished folder `v1`, and `tiny` that points at it."""
    (root / "v1").mkdir()
    (root / "v1" / "manifest.json").write_text("old")
    (root / "tiny").symlink_to("v1")


def replaced(root, **options):
    with Staging(root / "tiny", overwrite=True, owned={"manifest.json"}, **options) as found:
        (found.dir / "manifest.json").write_text("new")
        found.commit()


@pytest.mark.parametrize("earlier", [True, False])
def test_a_name_that_the_disk_does_not_take_is_no_new_folder(earlier, tmp_path, monkeypatch):
    target = tmp_path / "d"
    if earlier:
        target.mkdir()
        (target / "a").write_text("old")

    def refused(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("fuxictr_multimodal.data.store.staging.sync", refused)
    with Staging(target, overwrite=True, owned={"a"}) as found:
        (found.dir / "a").write_text("new")
        with pytest.raises(Unwritable, match=r"/d cannot be written: Input/output error"):
            found.commit()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == ({"d", "d/a"} if earlier else set())
    assert not earlier or (target / "a").read_text() == "old"


def test_a_symbolic_link_stays_and_the_folder_behind_it_is_replaced(tmp_path):
    linked(tmp_path)
    for _ in range(2):
        replaced(tmp_path)
        assert (tmp_path / "tiny").readlink() == Path("v1")
        assert not (tmp_path / "v1").is_symlink()
        assert (tmp_path / "v1" / "manifest.json").read_text() == "new"
        assert sorted(path.name for path in tmp_path.iterdir()) == [".v1.lock", "tiny", "v1"]


def test_builds_by_the_link_and_by_the_folder_exclude_each_other(tmp_path):
    linked(tmp_path)
    with Staging(tmp_path / "tiny", overwrite=True, owned={"manifest.json"}) as found:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(tmp_path / ".v1.lock", timeout=0).acquire()
        assert found.dir.parent == tmp_path


def test_a_link_that_was_left_over_is_no_folder_to_restore(tmp_path):
    linked(tmp_path)
    (tmp_path / "tiny").rename(tmp_path / ".tiny.replaced")
    (tmp_path / "tiny").mkdir()
    replaced(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", "tiny", "v1"]
    assert (tmp_path / "v1" / "manifest.json").read_text() == "old"


@pytest.mark.parametrize("target", ["nowhere", "tiny"])
def test_a_link_to_nothing_is_refused(tmp_path, target):
    (tmp_path / "tiny").symlink_to(target)
    with pytest.raises(DataError, match=rf"tiny is a symbolic link to {target}, which is not there"):
        staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("name", ["n" * 250, "n" * 300, "n" * 300 + "/tiny"])
def test_a_name_that_is_too_long_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"cannot be created \(File name too long\): choose another one"):
        Staging(tmp_path / name, overwrite=False, owned=()).check()
    with pytest.raises(DataError, match=r"cannot be created \(File name too long\): choose another one"):
        Staging(tmp_path / name, overwrite=False, owned=()).__enter__()
    assert not list(tmp_path.iterdir())


def test_the_longest_name_that_is_not_refused_can_be_built(tmp_path):
    replaced(tmp_path, marker="manifest.json")
    name = "n" * 245
    with Staging(tmp_path / name, overwrite=False, owned=()) as found:
        found.commit()
    assert (tmp_path / name).is_dir()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system has no /proc")
def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    for path in ("/proc/tiny", "/proc/tiny/more"):
        with pytest.raises(DataError, match=r"the folder /proc/tiny(/more)? cannot be created"):
            Staging(Path(path), overwrite=False, owned=()).check()
        with pytest.raises(DataError, match=r"the folder /proc/tiny cannot be created"):
            Staging(Path(path), overwrite=False, owned=()).__enter__()


def test_the_root_is_refused_and_other_names_of_a_folder_are_not(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="/ cannot be replaced: name a folder in it"):
        Staging(Path("/"), overwrite=True, owned=())
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path / "tiny")
    (tmp_path / "tiny" / "more").mkdir()
    for name in (".", "more/..", "../tiny"):
        assert Staging(Path(name), overwrite=True, owned=()).final_dir.resolve() == tmp_path / "tiny"
        assert Staging(Path(name), overwrite=True, owned=()).dir.resolve() == tmp_path / ".tiny.building"


def test_a_check_refuses_without_leaving_anything(tmp_path):
    staging(tmp_path / "a" / "b").check()
    assert not list(tmp_path.iterdir())
    (tmp_path / "tiny").touch()
    with pytest.raises(DataError, match="tiny is a file"):
        staging(tmp_path).check()
    (tmp_path / "tiny").unlink()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "manifest.json").touch()
    with pytest.raises(StoreExistsError):
        staging(tmp_path).check()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_lock_file_goes_with_a_build_that_failed_and_excludes_all_the_same(tmp_path):
    """Builds that fail and remove the file that others wait for: two never work at once."""
    inside, most = [], []

    def build():
        for _ in range(8):
            with Staging(tmp_path / "tiny", overwrite=False, owned=()) as found:
                inside.append(1)
                most.append(len(inside))
                (found.dir / "manifest.json").write_text("half")
                inside.pop()

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 24
    assert not list(tmp_path.iterdir())
    replaced(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.lock", "tiny"]
