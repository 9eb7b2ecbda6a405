"""Long phases say how far they are where no bar can be shown."""

import logging

from fuxictr_multimodal import progress


def test_lines_are_logged_or_printed_where_there_is_no_bar(monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    heard = []
    with caplog.at_level(logging.INFO), progress.heard_by(heard.append):
        assert list(progress.followed([3, 7], size=int, total=10, what="scoring")) == [3, 7]
    assert [line.partition(",")[0] for line in heard] == ["scoring: 30 % of 10 rows", "scoring: 100 % of 10 rows"]
    assert [record.getMessage() for record in caplog.records] == heard
    with caplog.at_level(logging.WARNING):
        list(progress.followed([3], size=int, total=10, what="scoring", verbose=False))
    assert capsys.readouterr().err.startswith("scoring: 30 % of 10 rows, ")
    assert len(heard) == 2


def test_a_short_phase_says_nothing(caplog, capsys):
    with caplog.at_level(logging.INFO):
        list(progress.followed([3], size=int, total=10, what="scoring"))
    assert not caplog.records
    assert capsys.readouterr().err == ""
