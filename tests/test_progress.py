"""Long work says how far it is: a bar on a terminal, lines elsewhere, nothing when it is short."""

import io
import logging
import sys
import time

import pytest

from fuxictr_multimodal import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_have_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.Line(300, "pairs", unit="step", first=100) as line:
        for seconds in (10, 20, 30, 40, 60):
            clock[0] = 100.0 + seconds
            line.note(f"loss {seconds / 10:.1f}")
            line.update(20)
    assert caplog.messages == [
        "pairs: 160 of 300 steps, 2 steps/s, 1:10 left, loss 3.0",
        "pairs: 200 of 300 steps, 1.67 steps/s, 1:00 left, loss 6.0",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_is_quiet(monkeypatch, caplog, terminal):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert list(progress.over("abc", 3, "letters", unit="letter")) == ["a", "b", "c"]
    assert (sys.stderr.getvalue(), caplog.messages) == ("", [])


def test_a_terminal_gets_a_bar_unless_runs_share_it(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_lines_only", False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(progress.over("ab", 2, "letters", unit="letter"))
    assert "letters" in sys.stderr.getvalue()
    assert caplog.messages == []
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress.log_lines_only()
    list(progress.over("ab", 2, "letters", unit="letter"))
    assert (sys.stderr.getvalue(), len(caplog.messages)) == ("", 2)


def test_nothing_is_shown_unasked(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    list(progress.over("ab", 2, "letters", unit="letter", shown=False))
    with progress.waiting("a library", shown=False):
        time.sleep(0.01)
    assert caplog.messages == []


def test_work_that_says_nothing_is_waited_for(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with progress.waiting("a library"):
        while not caplog.messages:
            time.sleep(0.005)
    assert caplog.messages[0] == "a library: 0:00 so far"
