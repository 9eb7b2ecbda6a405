"""A few faults of the disk, and the harness sees a command that hides one."""

import json
import os
import random
import re
import subprocess
import sys

import pytest

from tests.helpers.typed_command import ROOT
from tests.torture import disk
from tests.torture.disk.faults import Fault, Tally, armed, compiled, environment


def test_builds_survive_a_bad_disk(tmp_path):
    """In a process of its own: the library is preloaded into it."""
    code = (
        "import json, sys; from pathlib import Path; from tests.torture import disk\n"
        "if __name__ == '__main__':\n"
        "    print(json.dumps(disk.attack(count=1, seed=1, work=Path(sys.argv[1]), only='build log')))"
    )
    script = tmp_path / "attack.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == []
    assert sum(found["outcomes"]["build log"].values()) == 1


PLANTED = """
import sys
from pathlib import Path
try:
    Path(sys.argv[1], "new").write_text("x" * 100)
    Path(sys.argv[1], "new").rename(Path(sys.argv[1], "named"))
except OSError as error:
    print(error.errno)
"""


def test_the_library_fails_the_call_that_it_is_told_to(tmp_path):
    if (library := compiled(tmp_path)) is None:
        pytest.skip("no C compiler")
    folder, tally = tmp_path / "under", Tally(tmp_path / "tally")
    folder.mkdir()
    for fault, said, failed in (
        (Fault("w", "ENOSPC", once=False, at=1), "28\n", 1),
        (Fault("r", "EIO", once=True, at=1), "5\n", 1),
        (Fault("o", "EROFS", once=True, at=1), "30\n", 1),
        (Fault("w", "ENOSPC", once=True, at=2), "", 0),
    ):
        tally.clear()
        done = subprocess.run(
            [sys.executable, "-c", PLANTED, folder],
            env={**os.environ, **environment(library, tally, folder, fault)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == said
        # A file that is closed tries the write again.
        assert tally.read()[0] >= 1
        assert tally.read()[1] >= failed
        assert bool(tally.read()[1]) == bool(failed)


WRITING = """
import sys
from pathlib import Path
import numpy as np
from fuxictr_multimodal.data.store.h5_writer import SplitWriter, write_item_file
from fuxictr_multimodal.data.store.manifest import Column
from fuxictr_multimodal.errors import Unwritable
folder, ids = Path(sys.argv[1]), np.arange(3000)
try:
    write_item_file(folder / "item.h5", [Column(name, "int64", "meta") for name in "abc"], dict.fromkeys("abc", ids))
    writer = SplitWriter(folder=folder / "train", columns=[Column("id", "int64", "meta")], rows_per_part=2000)
    try:
        writer.append({"id": ids}, np.ones(3000, np.int32), np.arange(3001))
        writer.close()
    except BaseException:
        writer.abandon()
        raise
except Unwritable as error:
    print(error)
"""


@pytest.mark.parametrize(("at", "once"), [(12, False), (36, False)])
def test_hdf5_ends_the_process_at_no_failed_write(at, once, tmp_path):
    """Neither as the file is closed nor as Python releases what was open in it, nor at the end of the process."""
    if (library := compiled(tmp_path)) is None:
        pytest.skip("no C compiler")
    folder, tally = tmp_path / "under", Tally(tmp_path / "tally")
    folder.mkdir()
    tally.clear()
    done = subprocess.run(
        [sys.executable, "-c", WRITING, folder],
        env={**os.environ, **environment(library, tally, folder, Fault("wt", "ENOSPC", once=once, at=at))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\.h5 cannot be written: No space left on device", done.stdout)
    assert tally.read()[1] >= 1


def test_without_a_compiler_python_fails_its_own_calls(tmp_path, monkeypatch):
    for name in ("replace", "rename", "fsync"):
        monkeypatch.setattr(os, name, getattr(os, name))
    tally = Tally(tmp_path / "tally")
    tally.clear()
    armed(None, tally, tmp_path, Fault("r", "ENOSPC", once=True, at=2))()
    for name in ("a", "b"):
        (tmp_path / name).touch()
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(OSError, match="No space left"):
        (tmp_path / "b").replace(tmp_path / "d")
    assert tally.read()[:2] == (2, 1)


def test_the_harness_sees_what_a_command_must_not_do(tmp_path):
    """A traceback, a temporary file, a changed file and a report that says running are each a line."""
    attacker = disk._Attacker(tmp_path, None, random.Random(0))
    folder = attacker.folder / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".a.7.tmp").touch()
    (folder / "a.report.json").write_text('{"status": "running"}')
    (attacker.folder / "data").mkdir()
    (attacker.folder / "data/a").write_text("new")
    scenario = disk.Scenario("planted", [], "", ("data/*",), ())
    done = disk._Done(2, "", "Traceback (most recent call last):\nerror: it failed\n")
    wrong = attacker._wrong(scenario, done, {"data/a": "old"}, 1, "w a")
    for text in ("traceback", "not one line that names", "earlier data changed: data/a", "says running"):
        assert any(line.startswith(text) or text in line for line in wrong), text
    assert attacker._left() == ["checkpoints/.a.7.tmp"]
    complete = disk._Done(0, "", "")
    assert attacker._wrong(scenario, complete, {}, 1, "w a")[0] == "complete, but no warning"
    synced = f"s {attacker.folder / 'data'}"
    # The names of a build must be on the disk; those of a record of it need not.
    assert attacker._wrong(scenario, complete, {}, 1, synced, f"s {attacker.folder}/data/.Shop.building")
    assert not attacker._wrong(scenario, complete, {}, 1, synced, f"s {attacker.folder}/data/.Shop.verified.json.7.tmp")
    # A folder that is there needs no making.
    assert not attacker._wrong(scenario, complete, {}, 1, f"d {attacker.folder / 'data'}")
    assert attacker._wrong(scenario, complete, {}, 1, f"d {attacker.folder / 'elsewhere'}")
