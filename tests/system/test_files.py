"""Files appear whole or not at all; what killed processes left is swept, what live ones write stays."""

import json
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import held_alone, locked, remove_stale_temporaries, replace_atomically, write_json


def test_what_a_killed_process_left_is_removed(tmp_path):
    state = tmp_path / "QIN_x.state"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from fuxictr_multimodal.system.files import replace_atomically\n"
        "with replace_atomically(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, state], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    (left,) = tmp_path.iterdir()
    assert remove_stale_temporaries([state]) == []  # its process is alive
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not reaped yet
    others = [left.with_name(left.name.replace("QIN_x", name)) for name in ("QIN_x_s1", "AQIN_x", "QIN-x")]
    for other in others:
        other.write_text("another run's")
    assert remove_stale_temporaries([state, tmp_path / "no_folder/x"]) == [left]
    process.communicate()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_process_that_only_has_the_same_number_keeps_nothing(tmp_path):
    path = tmp_path / "x.json"
    left = tmp_path / f".x.json.{os.getpid()}.tmp"
    left.write_text("of an earlier process with our number")
    long_ago = time.time() - 7 * 86_400
    os.utime(left, (long_ago, long_ago))
    assert remove_stale_temporaries([path]) == [left]
    with replace_atomically(path) as temporary:
        temporary.write_text("ours")
        assert remove_stale_temporaries([path]) == []


def test_json_of_any_text_reads_back(tmp_path):
    content = {"path": "caf\udce9", "title": "L\u00e9on \u00b1", "quote": '"\\'}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "L\u00e9on" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail():
        with replace_atomically(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_lock_is_freed_at_the_end_and_refused_until_then(tmp_path):
    lock = tmp_path / ".run.lock"
    for _ in range(2):
        with held_alone(lock, "taken"):
            with pytest.raises(ConfigError, match="taken"), held_alone(lock, "taken"):
                pass
            with pytest.raises(filelock.Timeout), locked(lock, timeout=0):
                pass


def test_what_is_in_the_way_of_a_lock_is_named(tmp_path):
    lock = tmp_path / ".run.lock"
    lock.mkdir()
    with pytest.raises(DataError, match=r"\.run\.lock is a folder, but a lock file belongs there: remove it"):
        locked(lock).__enter__()
