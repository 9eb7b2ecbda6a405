"""The frame of a command: one line and an exit status, whatever ends it."""

import os
import subprocess
import sys

import pytest

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("expid 'x' is unknown"), "error: expid 'x' is unknown\n"),
        (
            OSError(28, "No space left on device", "a/b.html"),
            "error: a/b.html cannot be written: No space left on device\n",
        ),
        (OSError(30, "Read-only file system"), "error: Read-only file system\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as end, command():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), ZeroDivisionError("x")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)), command():
        raise error


@pytest.mark.skipif(os.name != "posix", reason="streams are closed by file descriptor")
def test_a_closed_standard_output_stops_nothing(tmp_path):
    code = (
        "from fuxictr_multimodal.system.command import command\n"
        "import sys\n"
        "with command():\n    print('x', sys.stdout.isatty())\n    open('done', 'w').close()\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "done").is_file()
