"""Long phases say how far they are: a bar on a terminal, lines elsewhere, nothing when they are short."""

import io
import logging
import sys
import time

import pytest

from fuxictr_multimodal.system import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_have_rate_and_time_left(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), progress.Line(300, "pairs", unit="step", first=100) as line:
        for seconds in (10, 20, 30, 40, 60):
            now[0] = 100.0 + seconds
            line.note(f"loss {seconds / 10:.1f}")
            line.update(20)
    assert caplog.messages == [
        "pairs: 160 of 300 steps, 2 steps/s, 1:10 left, loss 3.0",
        "pairs: 200 of 300 steps, 1.67 steps/s, 1:00 left, loss 6.0",
    ]


def test_lines_are_logged_or_printed_where_there_is_no_bar(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    heard = []
    with caplog.at_level(logging.INFO), progress.heard_by(heard.append):
        assert list(progress.followed([3, 7], size=int, total=10, what="scoring")) == [3, 7]
    assert [line.partition(",")[0] for line in heard] == ["scoring: 3 of 10 rows", "scoring: 10 of 10 rows"]
    assert caplog.messages == heard
    with caplog.at_level(logging.WARNING):
        list(progress.followed([3], size=int, total=10, what="scoring", verbose=False))
    assert capsys.readouterr().err.startswith("scoring: 3 of 10 rows, ")
    assert len(heard) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_short_phase_says_nothing(monkeypatch, caplog, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with caplog.at_level(logging.INFO):
        list(progress.followed([3], size=int, total=10, what="scoring"))
    assert (sys.stderr.getvalue(), caplog.messages) == ("", [])


def test_a_terminal_gets_a_bar_unless_runs_share_it(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_lines_only", False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO):
        list(progress.followed("ab", total=2, what="letters", unit="letter"))
    assert "letters: 100%" in sys.stderr.getvalue()
    assert caplog.messages == []
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress.show_lines_only()
    with caplog.at_level(logging.INFO):
        list(progress.followed("ab", total=2, what="letters", unit="letter"))
    assert (sys.stderr.getvalue(), len(caplog.messages)) == ("", 2)


def test_nothing_is_shown_unasked(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        list(progress.followed("ab", total=2, what="letters", shown=False))
        with progress.waiting("a library", shown=False):
            time.sleep(0.01)
    assert caplog.messages == []


def test_work_that_says_nothing_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with caplog.at_level(logging.INFO), progress.waiting("a library"):
        while not caplog.messages:
            time.sleep(0.005)
    assert caplog.messages[0] == "a library: 0:00 so far"
