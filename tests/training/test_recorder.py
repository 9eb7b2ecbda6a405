"""Reports are checked before they are built, and logs that cannot be written are left out."""

from __future__ import annotations

import json
import os
import time

import pytest

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.report import Report, append_csv_line
from fuxictr_multimodal.training.run_log import log_to


@pytest.fixture
def report(tmp_path):
    """A report on the disk."""
    path = tmp_path / "n1.report.json"
    Report("n1", "QIN", "Shop", 3).write(path)
    return path


def test_a_field_of_another_type_is_named(report):
    stored = json.loads(report.read_text())
    for name in stored:
        report.write_text(json.dumps({**stored, name: [[]]}))
        with pytest.raises(DataError, match=rf"n1\.report\.json is not a report of this version: {name}: "):
            Report.read(report)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "not one JSON object"),
        ("3", "not one JSON object"),
        ("{}", "missing"),
        ('{"x": 1}', "unexpected keyword"),
    ],
)
def test_what_is_no_report_is_refused(report, content, reason):
    report.write_text(content)
    with pytest.raises(DataError, match=rf"is not a report of this version: .*{reason}.*; move it away"):
        Report.read(report)


def test_logs_and_tables_that_never_end_are_left_out(tmp_path, caplog):
    os.mkfifo(tmp_path / "n1.log")
    started = time.monotonic()
    with log_to(tmp_path / "n1.log", append=False):
        pass
    (tmp_path / "config.csv").symlink_to("/dev/zero")
    append_csv_line(tmp_path / "config.csv", Report("n1", "QIN", "Shop", 3), ["run"], once=True)
    assert time.monotonic() - started < 5
