"""The page: well-formed, self-contained, escaped, and with every number of the board in its tables and figures."""

import base64
import dataclasses
import gzip
import html
import html.parser
import json
import re

import pytest

from fuxictr_multimodal.comparison.assemble import make_board
from fuxictr_multimodal.comparison.board import Curve, Published
from fuxictr_multimodal.comparison.collect import collect
from fuxictr_multimodal.comparison.columns import METRICS
from fuxictr_multimodal.comparison.drawing import COLOURED, REST, series
from fuxictr_multimodal.comparison.page import page
from tests.helpers.leaderboard_reports import write_run


class Reader(html.parser.HTMLParser):
    """Every start tag must meet its end tag; keeps tags, addresses, texts of table rows, and scripts by their type."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.rows = [], [], [], []
        self.scripts = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        if tag == "script":
            self.scripts.setdefault(dict(attributes).get("type"), []).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1] += f" {data}"
        if self.open and self.open[-1] == "script":
            *_, kind = self.scripts
            self.scripts[kind][-1] += data

    @property
    def figures(self):
        return [json.loads(text) for text in self.scripts.get("application/json", ())]


def tips(figure):
    return [tip for trace in figure["data"] for tip in trace.get("hovertext", ())]


def test_page_is_well_formed_and_loads_nothing(board):
    text = page(board)
    read = Reader(text)
    assert read.addresses == []
    assert not {"link", "img", "iframe", "object"} & set(read.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "default-src 'none'" in html.unescape(text)
    for heading in (
        "Results",
        "Quality",
        "Cost",
        "Learning curves",
        "AUC by slice",
        "Not in the table",
        "How to read it",
    ):
        assert f"<h2>{heading}</h2>" in text
    (packed,) = read.scripts["text/plain"]
    assert b"plotly.js" in gzip.decompress(base64.b64decode(packed))[:100]
    assert len(text) < 3_000_000


def test_the_table_holds_every_number(board):
    rows = Reader(page(board)).rows  # the head comes first
    for entry, row in zip(board.entries, rows[1:4], strict=True):
        assert entry.name in row
        for split in ("valid", "test"):
            for metric in METRICS:
                if value := entry.value(split, metric):
                    assert f" {value.mean:.4f}" in row
                    assert f"± {value.std:.4f}" in row
        if entry.difference:
            for interval in (entry.difference.rows, entry.difference.seeds):
                assert f"[{interval.low:+.4f}, {interval.high:+.4f}]" in row
        assert f"{entry.parameters['total']:,}" in row
    sliced = [row for row in rows if f"{board.entries[0].slices['history'][-1].mean:.4f}" in row]
    assert sliced


def test_every_experiment_is_in_every_figure_with_values_to_hover_over(board):
    figures = Reader(page(board)).figures
    assert len(figures) == 6 + 3  # nearly all targets were seen in training: too few others for a slice
    for figure in figures:
        shown = " ".join(tips(figure))
        assert all(entry.name in shown for entry in board.entries)
    best = board.entries[0]
    assert f"QIN_full: {best.value('test', 'AUC').mean:.4f} ± " in " ".join(tips(figures[0]))
    assert f"QIN_full: {best.difference.mean:+.4f}<br>samples [" in " ".join(tips(figures[1]))
    means = [trace["x"][0] for trace in figures[0]["data"] if trace["uid"].endswith("-mean")]
    assert means == [entry.value("test", "AUC").mean for entry in board.entries]
    curves = [trace for trace in figures[4]["data"] if "hovertext" in trace]
    assert len(curves) == sum(len(entry.curves) for entry in board.entries)
    assert all(sum("(best)" in tip for tip in trace["hovertext"]) >= 1 for trace in curves)


def test_published_curves_are_drawn_beside_the_own(board):
    shown = dataclasses.replace(
        board, published=(Published("A<b>", "a book", Curve(0, (1, 2), (0.5, 0.4), (0.6, 0.7))),)
    )
    figures, plain = Reader(page(shown)).figures, Reader(page(board)).figures
    for figure, other, best in zip(figures[4:6], plain[4:6], ("0.7000", "0.4000"), strict=True):
        assert len(figure["data"]) == len(other["data"]) + 1
        assert figure["data"][-1]["hovertext"][-1] == f"A&lt;b&gt;, published<br>epoch 2: {best}"
    assert "Published curve A&lt;b&gt;: a book" in page(shown)


def test_page_escapes_what_reports_say(board):
    name = '<script>alert("x")</script>\n</td>%{x}\x1b'
    text = page(
        dataclasses.replace(board, entries=(dataclasses.replace(board.entries[0], name=name), *board.entries[1:]))
    )
    assert "<script>alert" not in text
    assert "\x1b" not in text
    read = Reader(text)
    assert not any("<script" in tip or "</td>" in tip for figure in read.figures for tip in tips(figure))
    assert any('&lt;script&gt;alert("x")' in tip for tip in tips(read.figures[0]))


def test_page_of_one_entry_and_of_none(store, board, tmp_path):
    write_run(tmp_path, store, expid="QIN_x", model="QIN", epochs=1)
    one = make_board(collect(tmp_path), store=store, replicates=20)
    assert one.baseline is None
    figures = Reader(page(one)).figures
    assert len(figures) == 3 + 3  # no difference to a baseline, and nothing to compare the cost with
    none = dataclasses.replace(board, entries=(), baseline=None, slicings=())
    text = page(none)
    assert "No run is complete." in text
    assert Reader(text).figures == []
    assert len(text) < 30_000


@pytest.mark.parametrize("count", [1, 9])
def test_the_best_of_each_model_and_the_baseline_stand_out(board, count):
    model = board.entries[0]
    entries = [dataclasses.replace(model, name=f"{n}_x", model=f"M{n // 2}") for n in range(count)]
    drawn = series(dataclasses.replace(board, entries=tuple(entries), baseline="2_x"))
    assert [item.colour for item in drawn[:1]] == [COLOURED[0][0]]
    if count > 1:
        looks = [item.stands_out for item in drawn]
        assert looks == [True, False, True, True, True, False, True, False, True]
        assert drawn[1].mark == REST[2]
        assert len({item.colour for item in drawn if item.stands_out}) == 6
        assert drawn[0].name == "0"
