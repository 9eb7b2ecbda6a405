"""A dataset that is built again while it is read: a small attack, and the attack itself."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fuxictr_multimodal.data.store import Store, held
from tests.torture import builds


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return [builds.plant(tmp_path_factory.mktemp(f"build{number}"), number) for number in (0, 1)]


def test_readers_read_one_build_while_others_take_its_place(tmp_path, sources):
    failed: list[str] = []
    # Locks and descriptors are those of an open folder, not of a process: threads race as processes do.
    with ThreadPoolExecutor(builds.READERS) as pool:
        found = builds.attack_readers(20, 0, tmp_path, sources, failed, pool)
    assert not failed
    assert found["opened"] == found["build_0"] + found["build_1"] == 20
    assert found["builds"] > 0


def test_a_build_killed_at_any_step_leaves_one_that_is_whole(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(held, "COMMIT_SECONDS", 0.05)
    monkeypatch.setattr(builds, "EPOCHS", 1)
    failed: list[str] = []
    alone = builds.attack_commit(tmp_path / "alone", sources, failed, read=False, every=6)
    found = builds.attack_commit(tmp_path / "read", sources, failed, read=True)
    assert not failed
    assert alone["kills"] > 3
    # Between the two renames there is no dataset; before and after there is.
    assert found["restored_by_the_next_build"] == 1
    assert found["whole"] == found["kills"] - 1 > 10


class ByPath:
    """A folder that is what its path names at the moment."""

    def __init__(self, place: Path) -> None:
        self.place = self.path = place

    def read(self, reading):
        return reading(self.path)


def test_the_attack_sees_a_reader_that_mixes_builds(tmp_path, sources):
    builds.overwrite(tmp_path, sources[0])
    store, by_path = (Store(folder(tmp_path / builds.DATASET), Store.open(tmp_path, builds.DATASET).manifest)
                      for folder in (held.HeldFolder, ByPath))  # fmt: skip
    assert builds.builds_in(store) == builds.builds_in(by_path) == {0}
    builds.overwrite(tmp_path, sources[1])
    assert builds.builds_in(store) == {0}
    assert builds.builds_in(by_path) == {0, 1}
    assert builds.leftovers(tmp_path) == [".planted.aside-1"]
    del store
    gc.collect()
    builds.overwrite(tmp_path, sources[0])
    assert not builds.leftovers(tmp_path)
