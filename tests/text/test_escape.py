"""Whatever a name holds, each output form shows it and obeys none of it."""

import csv
import dataclasses
import html
import html.parser
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bilingual_embedding.evaluation.comparison import Seeds
from bilingual_embedding.evaluation.comparison import _of_one as one_experiment
from bilingual_embedding.training.run_report import EmbeddingReport
from fuxictr_multimodal.comparison import tables
from fuxictr_multimodal.comparison.board import Board, Entry, Reference, Unfinished
from fuxictr_multimodal.comparison.drawing import plotly_text
from fuxictr_multimodal.comparison.page import environment, page
from fuxictr_multimodal.comparison.statistics import Spread
from fuxictr_multimodal.explain.attention import RowExplanation
from fuxictr_multimodal.explain.view import draw_rows, row_table
from fuxictr_multimodal.text.escape import csv_text, label, latex, markdown, markdown_code, one_line, visible

# Text in which what some format reads as a mark is frequent.
MARKS = "| ` * _ < <b> & &amp; $ % \\ # ~ ^ { } [red] [/] = + - @ \" ' , ; :bug: a é".split(" ")
MARKS += [" ", "\n", "\r", "\x1b[2J", "\x00", "\x9b", "\u2028", "\u202e", "\ud800"]
NASTY = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=12).map("".join)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
EVIL = "<img src=x onerror=alert(1)>|*a* _b_ `c` $d$ 5% \\e [red]f[/red] &g; :bug: \x1b[31m\nh"


def cells(row: str) -> list[str]:
    """The cells of a row of a GitHub table: a pipe behind an odd number of backslashes is text."""
    assert row.startswith("|")
    found, cell, position = [], "", 1
    while position < len(row):
        if row[position] == "\\" and position + 1 < len(row):
            cell += row[position : position + 2]
            position += 2
        elif row[position] == "|":
            found.append(cell.strip())
            cell, position = "", position + 1
        else:
            cell, position = cell + row[position], position + 1
    assert cell == ""
    return found


def shown(cell: str) -> str:
    """What a reader of Markdown sees of text without marks."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_markdown_shows_the_text_and_has_no_mark(text):
    escaped = markdown(text)
    assert shown(escaped) == one_line(text)
    assert cells(f"| {escaped} | b |") == [escaped, "b"]
    pieces = re.findall(r"\\.|.", f" {escaped} ")
    assert not set("|`*[]<>~$") & set(pieces)
    inner = [i for i, piece in enumerate(pieces) if piece == "_"]
    assert all(pieces[i - 1].isalnum() and pieces[i + 1].isalnum() for i in inner)


def test_names_of_experiments_stay_readable_in_markdown():
    assert markdown("QIN_best_demo@learning_rate=1e-3") == "QIN_best_demo@learning_rate=1e-3"
    assert markdown("_a_ b__c") == "\\_a\\_ b\\_\\_c"
    assert markdown("- a") == "\\- a"


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_code_spans_hold_any_text(text):
    span = markdown_code(text)
    fence = re.match("`+", span)[0]
    assert span.endswith(fence)
    inner = span[len(fence) : -len(fence)]
    assert fence not in re.findall("`+", inner)
    assert inner.strip() == one_line(text)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_csv_gives_the_value_back(text):
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([csv_text(text), "b"])
    ((found, last),) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    assert (found, last) == (visible(text.replace("\r\n", "\n").replace("\r", "\n")), "b")
    assert not CONTROL.search(found)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_nothing_steers_a_terminal(text):
    assert not CONTROL.search(visible(text))
    assert len(one_line(text).splitlines()) <= 1
    one_line(text).encode("utf-8")


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_latex_has_no_command_of_the_text(text):
    escaped = latex(text)
    for command in ("textbackslash", "textasciitilde", "textasciicircum", "textasciigrave", "textless", "textgreater"):
        escaped = escaped.replace(f"\\{command}{{}}", "")
    escaped = escaped.replace("\\textbar{}", "").replace("$\\pm$", "").replace("$\\ge$", "").replace("\\dots{}", "")
    assert not set("\\&%$#_{}~^") & set(re.sub(r"\\[&%$#_{}]", "", escaped.removeprefix("{}")))
    assert not latex(text).startswith(("[", "*"))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_labels_of_figures_have_no_tag_of_the_text(text):
    lines = plotly_text(text).split("<br>")
    assert not any(set("<>") & set(line) for line in lines)
    assert [html.unescape(line) for line in lines] == [one_line(line) for line in text.split("\n")]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_markup_has_no_tag_of_the_text(text):
    class Reader(html.parser.HTMLParser):
        tags, text = (), ""

        def handle_starttag(self, tag, attrs):
            self.tags = (*self.tags, (tag, dict(attrs)))

        def handle_data(self, data):
            self.text += data

    reader = Reader()
    reader.feed(environment().from_string('<p title="{{ text }}">{{ text }}</p>').render(text=text))
    reader.close()
    assert reader.tags == (("p", {"title": visible(text)}),)
    assert reader.text == visible(text)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NASTY)
def test_pictures_show_dollars(text):
    from matplotlib.text import Text

    # What matplotlib reads as plain text, once its own escapes are undone.
    plain, is_math = Text()._preprocess_math(label(text))
    assert (plain, is_math) == (one_line(text), False)


@pytest.fixture(scope="module")
def evil_board() -> Board:
    def entry(name: str, auc: float) -> Entry:
        metrics = {"valid": {"AUC": Spread((auc,))}, "test": {"AUC": Spread((auc,))}}
        return Entry(name, EVIL, (name,), (1,), metrics, Spread((1.0,)), parameters={"total": 10}, marks=(EVIL,))

    return Board(
        dataset_id=EVIL,
        manifest_hash="0" * 64,
        compared="test",
        splits={"test": {"rows": 10, "positives": 5}},
        baseline=EVIL,
        bootstrap=None,
        curve_axis="epoch",
        entries=(entry(EVIL, 0.75), entry("=1+1", 0.5)),
        references=(Reference(EVIL, "floor", {"test": {"AUC": 0.5}}),),
        unfinished=(Unfinished(EVIL, "failed", EVIL),),
        footnotes={EVIL: EVIL},
        notes=(EVIL,),
    )


def test_a_board_of_evil_names_in_markdown(evil_board):
    lines = tables.markdown(evil_board).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 2 + 1 + 2 + 1  # head, rule, entries, reference; head, rule, missing run
    widths = [len(cells(row)) for row in rows]
    assert widths[:5] == [widths[0]] * 5
    assert widths[5:] == [3, 3, 3]
    assert shown(cells(rows[-1])[2]) == one_line(EVIL)
    assert not any("<img" in line or re.search(r"(?<!\\)[`$]", line) for line in lines)


def test_a_board_of_evil_names_in_csv(evil_board):
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(evil_board), newline="")))
    assert [row["experiment"] for row in rows] == [visible(EVIL), "=1+1", visible(EVIL), visible(EVIL)]
    assert rows[-1]["reason"] == visible(EVIL)


def test_a_board_of_evil_names_in_latex(evil_board):
    text = tables.latex(evil_board)
    assert text.count("\\\\\n") == 1 + 2 + 1
    comment, *lines = text.splitlines()
    assert comment.startswith("% ")
    assert lines[0].startswith("\\begin{tabular}")
    assert not any("$d$" in line or "\\e " in line for line in lines)


def test_a_board_of_evil_names_on_a_page(evil_board):
    class Reader(html.parser.HTMLParser):
        tags, attributes = frozenset(), frozenset()

        def handle_starttag(self, tag, attrs):
            self.tags |= {tag}
            self.attributes |= {name for name, _ in attrs}

    reader = Reader()
    reader.feed(page(evil_board))
    assert "th" in reader.tags
    assert not {"img", "b>"} & reader.tags
    assert "onerror" not in reader.attributes
    assert "\x1b" not in page(evil_board)


@pytest.mark.parametrize("color", [False, True])
def test_a_board_of_evil_names_on_a_terminal(evil_board, color):
    text = tables.terminal(evil_board, color=color)
    assert "[red]f[/red]" in text
    assert ":bug:" in text
    assert "\\x1b[31m" in text
    assert "\x1b[31m" not in text
    assert ("\x1b" in text) == color


def test_an_explained_item_of_an_evil_title(tmp_path):
    row = RowExplanation(4, 7, 9, 0.5, 1.0, [11], [0.5])
    out = Console(width=300, file=io.StringIO(), force_terminal=True)
    out.print(row_table(row, lambda item: EVIL))
    text = out.file.getvalue()
    assert text.count("[red]f[/red]") == 2
    assert ":bug:" in text
    assert text.count("\\x1b[31m") == 2
    assert "\x1b[31m<" not in text
    draw_rows([row], lambda item: EVIL + " $\\frac{$", tmp_path / "row.svg")
    assert (tmp_path / "row.svg").stat().st_size


def test_the_comparison_of_encoders_keeps_its_cells():
    report = EmbeddingReport(EVIL, EVIL, 1, status="completed", floors={EVIL: 1.0})
    report = dataclasses.replace(report, evaluation={"pairs": {EVIL: 2.0}}, stages={"pairs": {"seconds": 60.0}})
    rows = [line for line in one_experiment(Seeds(EVIL, {1: report})).splitlines() if line.startswith("|")]
    assert [len(cells(row)) for row in rows] == [3, 3, 3]
    assert shown(cells(rows[2])[0]) == one_line(EVIL)
