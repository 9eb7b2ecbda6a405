"""Two builds of one dataset do not meet."""

from __future__ import annotations

import threading

import pytest

from fuxictr_multimodal.data.store.builder import StoreExistsError
from fuxictr_multimodal.data.store.staging import Staging
from fuxictr_multimodal.errors import DataError


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
