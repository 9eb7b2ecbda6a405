"""Errors of a disk that refuses a write name the file, whichever library wrote; a report needs no space to fail."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuxictr_multimodal.errors import DataError, Unwritable
from fuxictr_multimodal.system.files import kept_if_possible, replace_atomically, sync_tree, write_json
from fuxictr_multimodal.system.writing import writing
from fuxictr_multimodal.training.recorder import Recorder
from fuxictr_multimodal.training.report import Report

FULL = "No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(f"{FULL} (os error 28)"),
        RuntimeError(f"Unable to flush (errno = 28, error message = '{FULL}')"),
        ValueError(f"parquet: underlying IO error: {FULL} (os error 28)"),
    ],
)
def test_a_full_disk_is_one_error_in_the_words_of_any_library(error, tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(Unwritable) as refused, writing(path):
        raise error
    assert (
        str(refused.value) == f"{path} cannot be written: {FULL}: free space on this disk, then run the command again"
    )
    assert isinstance(refused.value, DataError)
    assert refused.value.strerror == FULL


def test_what_torch_does_not_say_is_asked_of_the_disk(tmp_path):
    (tmp_path / "a.model").mkdir()
    with pytest.raises(Unwritable, match="a.model cannot be written: Is a directory"), writing(tmp_path / "a.model"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def test_errors_of_other_files_and_of_the_program_pass(tmp_path):
    other = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "other/input.csv"))
    for error in (other, ZeroDivisionError("x"), DataError("row 3")):
        with pytest.raises(type(error)) as raised, writing(tmp_path / "a.bin"):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refused_sync_or_rename_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def refused(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, refused)
    with pytest.raises(Unwritable, match=r"a\.json cannot be written: Input/output error: the disk has a fault"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


def test_bytes_are_synced_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(*paths):
        events.append("rename")
        rename(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with replace_atomically(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert events == [temporary.name, "rename", tmp_path.name]
    events.clear()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c").touch()
    sync_tree(tmp_path / "b")
    assert sorted(events) == ["b", "c"]


def test_a_file_that_may_be_left_out_is_left_out(tmp_path, caplog):
    with kept_if_possible(tmp_path / "k"), writing(tmp_path / "k"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert "k cannot be written (Disk quota exceeded); the result is not affected" in caplog.text


def test_a_report_says_failed_where_there_is_no_space_for_another(tmp_path, monkeypatch):
    path = tmp_path / "r.report.json"
    report = Report(expid="r", model="QIN", dataset_id="d", seed=1)
    recorder = Recorder(report, path)

    def work():
        with recorder.recording(lambda: "it can be resumed"):
            # From here on nothing new fits.
            monkeypatch.setattr(os, "replace", full)
            write_json(tmp_path / "other.json", {})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, FULL)

    with pytest.raises(Unwritable, match=rf"{FULL}.*; it can be resumed"):
        work()
    monkeypatch.undo()
    assert Report.read(path).status == "failed"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_hdf5_ends_neither_the_process_nor_a_build_in_silence(tmp_path):
    """HDF5 itself crashes after a failed write, and h5py drops what it says as it closes a dataset."""
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from fuxictr_multimodal.data.store.h5_writer import write_item_file
from fuxictr_multimodal.data.store.manifest import Column
from fuxictr_multimodal.errors import Unwritable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        write_item_file(
            Path(sys.argv[1]) / f"{size}.h5",
            [Column(name=name, dtype="int32", shape=(), role="categorical") for name in "abc"],
            dict.fromkeys("abc", np.arange(10_000, dtype=np.int32)),
        )
    except Unwritable as error:
        print(error)
"""
    # The limit is lifted after the first, so each has a process of its own.
    sizes = [1000, 110_000]
    runs = [
        subprocess.run([sys.executable, "-c", code, tmp_path, str(size)], capture_output=True, text=True, check=True)
        for size in sizes
    ]
    assert [run.stderr for run in runs] == ["", ""]
    lines = [run.stdout.strip() for run in runs]
    assert [line.split(":")[0].rpartition("/")[2] for line in lines] == [
        f"{size}.h5 cannot be written" for size in sizes
    ]
    assert all("File too large: raise the limit of a file's size" in line for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_standard_output_on_a_full_disk_is_named_and_standard_error_is_dropped():
    code = (
        "import sys\nfrom fuxictr_multimodal.system.command import command\n"
        "with command():\n    print('note', file=sys.stderr, flush=True)\n    print('scores', flush=True)"
    )
    with Path("/dev/full").open("w") as full:
        named = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
        dropped = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False)
    assert named.returncode == 2
    assert named.stderr == f"note\nerror: standard output cannot be written: {FULL}\n"
    assert (dropped.returncode, dropped.stdout) == (0, b"scores\n")
