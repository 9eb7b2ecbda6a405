"""Files are compared with their checksums at each open, hashed once, and a record is never trusted beyond its words."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading

import pytest

from fuxictr_multimodal.data.store import Store, integrity
from fuxictr_multimodal.data.store.manifest import Manifest, checksum_of
from fuxictr_multimodal.errors import DataError
from tests.helpers.store_build import build, split_rows

RECORD = ".tiny.verified.json"


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """A dataset as it was built, and a cache folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are hashed."""
    names = []

    def spied(path):
        names.append(path.name)
        return plain(path)

    plain = integrity.sha256
    monkeypatch.setattr(integrity, "sha256", spied)
    return names


@pytest.fixture
def settled(monkeypatch):
    """Files count as old enough to be recorded."""
    monkeypatch.setattr(integrity, "SETTLED_NS", -(10**12))


def flip(path):
    """Change a byte, and neither size nor time of modification."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_build_is_recorded_so_that_no_open_hashes_it(data_root, hashed):
    for _ in range(2):
        Store.open(data_root, "tiny")
    assert hashed == []
    Store.open(data_root, "tiny", verify="full")
    Store.open(data_root, "tiny")
    assert sorted(hashed) == sorted(name.split("/")[-1] for name in Store.open(data_root, "tiny").manifest.files)


def test_a_copy_is_hashed_until_its_files_are_settled(data_root, tmp_path, hashed, monkeypatch):
    shutil.copytree(data_root, tmp_path / "copy")
    for _ in range(2):
        Store.open(tmp_path / "copy", "tiny")
    files = len(Store.open(data_root, "tiny").manifest.files)
    assert len(hashed) == 2 * files
    monkeypatch.setattr(integrity, "SETTLED_NS", -(10**12))
    for _ in range(2):
        Store.open(tmp_path / "copy", "tiny")
    assert len(hashed) == 3 * files


@pytest.mark.parametrize("name", ["train.h5", "item.h5", "feature_map.json"])
def test_a_changed_file_is_refused_at_open_whatever_its_times(data_root, name):
    flip(data_root / "tiny" / name)
    for _ in range(2):
        with pytest.raises(DataError, match=rf"{name} does not match its checksum in manifest.json: the file is damag"):
            Store.open(data_root, "tiny")


def test_swapped_truncated_and_additional_files_are_refused(data_root, tmp_path):
    build(tmp_path / "other", splits={"train": split_rows(40, 3), "valid": split_rows(10, 4)})
    shutil.copy2(tmp_path / "other/tiny/train.h5", data_root / "tiny/train.h5")
    with pytest.raises(DataError, match=r"train.h5 does not match .* or belongs to another build"):
        Store.open(data_root, "tiny")
    build(data_root, overwrite=True)
    with (data_root / "tiny/valid.h5").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"valid.h5 does not match"):
        Store.open(data_root, "tiny")
    build(data_root, overwrite=True)
    (data_root / "tiny/train").mkdir()
    shutil.copy(data_root / "tiny/train.h5", data_root / "tiny/train/part-00000.h5")
    with pytest.raises(DataError, match=r"part-00000.h5 is not among the files of manifest.json: move it away"):
        Store.open(data_root, "tiny")
    build(data_root, overwrite=True)
    (data_root / "tiny/test.h5").unlink()
    (data_root / "tiny/test.h5").mkdir()
    with pytest.raises(DataError, match=r"test.h5 is not a file: build"):
        Store.open(data_root, "tiny")


def test_sizes_alone_are_compared_on_request(data_root, hashed):
    flip(data_root / "tiny/train.h5")
    Store.open(data_root, "tiny", verify="sizes")
    assert hashed == []
    (data_root / "tiny/valid.h5").touch()
    Store.open(data_root, "tiny", verify="sizes")
    with pytest.raises(DataError, match=r"train.h5 does not match"):
        Store.open(data_root, "tiny")
    with (data_root / "tiny/train.h5").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"train.h5 does not match"):
        Store.open(data_root, "tiny", verify="sizes")


def trusted_but_edited(content):
    """A record that says that a changed file matches, without the checksum of such a record."""
    for entry in content["files"].values():
        entry[1] = [0, 0, 0, 0]
    return json.dumps(content)


@pytest.mark.parametrize(
    "record",
    [
        None,
        "",
        "{",
        "[]",
        '{"checksum": null}',
        json.dumps({"files": [], "checksum": checksum_of({"files": []})}),
        json.dumps({"files": {"train.h5": ["x"]}, "checksum": checksum_of({"files": {"train.h5": ["x"]}})}),
        trusted_but_edited,
        b"\xff\xfe",
    ],
)
def test_a_record_that_is_damaged_is_not_trusted_and_is_written_again(data_root, hashed, settled, record):
    path = data_root / RECORD
    before = path.read_text()
    path.unlink()
    if record is not None:
        text = record(json.loads(before)) if callable(record) else record
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    Store.open(data_root, "tiny")
    assert len(hashed) == len(Store.open(data_root, "tiny").manifest.files)
    assert path.read_text() == before


def test_without_a_place_beside_the_data_the_record_is_in_the_cache_folder(data_root, hashed, settled, caplog):
    (data_root / RECORD).unlink()
    (data_root / RECORD).mkdir()  # as a read-only folder: it cannot be written
    files = len(Store.open(data_root, "tiny").manifest.files)
    assert len(hashed) == files
    Store.open(data_root, "tiny")
    assert len(hashed) == files
    shutil.rmtree(data_root.parent / "cache")
    (data_root.parent / "cache").write_text("a file is in the way")
    with caplog.at_level(logging.DEBUG, logger=integrity.logger.name):
        Store.open(data_root, "tiny")
        Store.open(data_root, "tiny")
    assert len(hashed) == 3 * files
    assert "is not written" in caplog.text
    flip(data_root / "tiny/train.h5")
    with pytest.raises(DataError, match=r"train.h5 does not match"):
        Store.open(data_root, "tiny")


def test_a_file_that_changes_while_it_is_hashed_is_not_recorded(data_root, settled, monkeypatch):
    (data_root / RECORD).unlink()
    plain = integrity.sha256

    def slow(path):
        digest = plain(path)
        if path.name == "train.h5":
            flip(path)
        return digest

    monkeypatch.setattr(integrity, "sha256", slow)
    Store.open(data_root, "tiny")
    assert "train.h5" not in json.loads((data_root / RECORD).read_text())["files"]
    monkeypatch.setattr(integrity, "sha256", plain)
    with pytest.raises(DataError, match=r"train.h5 does not match"):
        Store.open(data_root, "tiny")


def test_a_dataset_of_an_older_release_is_hashed_once(data_root, hashed, settled):
    path = data_root / "tiny/manifest.json"
    stored = json.loads(path.read_text())
    assert list(stored)[-1] == "checksum"
    before = Manifest.read(path.parent)
    del stored["checksum"]
    path.write_text(json.dumps(stored))
    (data_root / RECORD).unlink()
    assert Store.open(data_root, "tiny").manifest == before
    assert Store.open(data_root, "tiny").manifest.hash == before.hash == checksum_of(stored)
    assert len(hashed) == len(stored["files"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"max_len": 6,', '"max_len": 5,'),
        lambda text: text.replace('"checksum": "', '"checksum": "0'),
        lambda text: text.replace('"items": 20,', '"items": 21,'),
        lambda text: text.replace('"group_id": "user_id"', '"group_id": "time"'),
    ],
)
def test_an_edited_manifest_is_refused(data_root, edit):
    path = data_root / "tiny/manifest.json"
    text = path.read_text()
    path.write_text(edit(text))
    assert path.read_text() != text
    with pytest.raises(DataError, match=r"manifest.json does not match its checksum: the file is damaged or was edit"):
        Store.open(data_root, "tiny")
    path.write_text(json.dumps(json.loads(text)))  # the same metadata in other bytes
    Store.open(data_root, "tiny")


def test_a_dataset_behind_a_link_has_one_record(data_root, tmp_path, hashed):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/tiny").symlink_to(data_root / "tiny")
    Store.open(tmp_path / "links", "tiny")
    assert hashed == []
    assert [path.name for path in (tmp_path / "links").iterdir()] == ["tiny"]


def test_many_open_at_once(data_root, settled):
    (data_root / RECORD).unlink()
    failed = []

    def opened():
        try:
            Store.open(data_root, "tiny")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=opened) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert integrity.read_record(data_root / "tiny").keys() == Store.open(data_root, "tiny").manifest.files.keys()


def test_large_datasets_show_progress(data_root, monkeypatch, capsys):
    monkeypatch.setattr(integrity, "SHOWN_FROM", 1)
    Store.open(data_root, "tiny", verify="full")
    assert "checksums of tiny" in capsys.readouterr().err


@pytest.mark.parametrize("place", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")])
def test_a_record_that_is_no_file_is_not_read(data_root, place):
    record = data_root / RECORD
    record.unlink(missing_ok=True)
    place(record)
    assert integrity.read_record(data_root / "tiny") == {}
    Store.open(data_root, "tiny")
