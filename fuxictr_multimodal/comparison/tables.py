"""The leaderboard as a table: terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

from rich import box
from rich.table import Table
from rich.text import Text

from fuxictr_multimodal.comparison.board import Board
from fuxictr_multimodal.comparison.columns import (
    Column,
    columns,
    entry_rows,
    explanations,
    heading,
    measured,
    reference_rows,
)
from fuxictr_multimodal.system.terminal import plain_console
from fuxictr_multimodal.text.escape import csv_text, one_line
from fuxictr_multimodal.text.escape import latex as tex
from fuxictr_multimodal.text.escape import markdown as escaped


def terminal(board: Board, *, short: bool = False, width: int | None = None, color: bool = False) -> str:
    """Tables for the terminal, quality first, then cost.

    Args:
        board: the comparison.
        short: one table of fewer columns.
        width: in characters; None gives the tables all the width they need.
        color: with escapes that colour the text.
    """
    stream = io.StringIO()
    console = plain_console(
        width=width or 10_000, file=stream, force_terminal=color, legacy_windows=False, highlight=False
    )
    shown = columns(board, short=short)
    parts = [shown] if short else [[c for c in shown if c.of_quality], [c for c in shown if not c.of_quality]]
    for part in parts:
        console.print(_rich_table(board, part, heading(board) if part is parts[0] else None))
    for mark, text in board.footnotes.items():
        console.print(f"[{mark}] {one_line(text)}")
    for text in explanations(board):
        console.print(one_line(text))
    if board.unfinished:
        console.print("\nNot in the table:")
        for run in board.unfinished:
            console.print("  " + one_line(f"{run.run}: {run.status}: {run.reason}"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n") + "\n"


def _rich_table(board: Board, shown: list[Column], title: str | None) -> Table:
    table = Table(title=title and one_line(title), box=box.SIMPLE_HEAD, title_justify="left", header_style="bold")
    table.add_column("experiment", no_wrap=True)
    for column in shown:
        table.add_column(one_line(column.title) + " ", justify="right")
    for row in entry_rows(board, shown):
        # The best with a star, the others with a blank, so that digits stay below each other.
        cells = [Text(f"{text}{'*' if best else ' '}", style="bold green" if best else "") for text, best in row.cells]
        table.add_row(one_line(row.name + "".join(f" [{mark}]" for mark in row.marks)), *cells)
    for row in reference_rows(board, shown) if any(column.of_quality for column in shown) else ():
        table.add_row(one_line(row.name), *(f"{text} " for text, _ in row.cells), style="dim")
    return table


def markdown(board: Board, *, short: bool = False) -> str:
    """A GitHub table with its notes."""
    shown = columns(board, short=short)
    lines = [f"## {escaped(heading(board))}", ""]
    lines.append(_piped("experiment", *(escaped(column.title) for column in shown)))
    lines.append("|---|" + "---:|" * len(shown))
    for row in entry_rows(board, shown):
        marks = "".join(f" <sup>{escaped(mark)}</sup>" for mark in row.marks)
        lines.append(_piped(escaped(row.name) + marks, *(f"**{text}**" if best else text for text, best in row.cells)))
    for row in reference_rows(board, shown):
        lines.append(_piped(f"*{escaped(row.name)}*", *(text for text, _ in row.cells)))
    lines.append("")
    lines += [f"- <sup>{escaped(mark)}</sup> {escaped(text)}" for mark, text in board.footnotes.items()]
    lines += [f"- {escaped(text)}" for text in explanations(board)]
    if board.unfinished:
        lines += ["", "Not in the table:", "", "| run | state | why |", "|---|---|---|"]
        lines += [_piped(*map(escaped, (run.run, run.status, run.reason))) for run in board.unfinished]
    return "\n".join(lines) + "\n"


def latex(board: Board, *, short: bool = False) -> str:
    """A `tabular` with booktabs rules; its notes and the runs that are missing follow as a small paragraph."""

    def line(name: str, cells: list[str]) -> str:
        return " & ".join([name, *cells]) + " \\\\"

    shown = columns(board, short=short)
    lines = [
        f"% {one_line(heading(board))}; needs \\usepackage{{booktabs}}",
        "\\begin{tabular}{l" + "r" * len(shown) + "}",
        "\\toprule",
        line(tex("experiment"), [tex(column.title) for column in shown]),
        "\\midrule",
    ]
    for row in entry_rows(board, shown):
        marks = "".join(f"\\textsuperscript{{{tex(mark)}}}" for mark in row.marks)
        cells = [f"\\textbf{{{tex(text)}}}" if best else tex(text) for text, best in row.cells]
        lines.append(line(tex(row.name) + marks, cells))
    if board.references:
        lines.append("\\midrule")
    lines += [line(tex(row.name), [tex(text) for text, _ in row.cells]) for row in reference_rows(board, shown)]
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\par\\smallskip{\\footnotesize"]
    lines += [f"\\textsuperscript{{{tex(mark)}}} {tex(text)}" for mark, text in board.footnotes.items()]
    lines += [tex(text) for text in explanations(board)]
    if board.unfinished:
        listed = "; ".join(f"{run.run} ({run.status}: {run.reason})" for run in board.unfinished)
        lines.append(tex(f"Not in the table: {listed}."))
    lines.append("\\par}")
    return "\n".join(lines) + "\n"


def as_csv(board: Board) -> str:
    """Numbers for a program: one line an experiment, reference or missing run; `kind` tells them apart."""
    metrics = measured(board)
    head = ["kind", "experiment", "model", "status", "reason", "seeds", "runs"]
    head += [f"{split}_{metric}_{what}" for split, metric in metrics for what in ("mean", "std")]
    head += ["baseline", "difference", *(f"difference_{o}_{s}" for o in ("rows", "seeds") for s in ("low", "high"))]
    head += ["parameters", "embedding_parameters", "train_rows_per_s", "score_rows_per_s", "minutes"]
    head += ["host_mib", "device_mib", "trials", "footnotes"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head, lineterminator="\n", restval="")
    writer.writeheader()
    rows: list[dict[str, object]] = []
    for entry in board.entries:
        row: dict[str, object] = {
            "kind": "experiment",
            "experiment": entry.name,
            "model": entry.model,
            "status": "completed",
            "seeds": " ".join(map(str, entry.seeds)),
            "runs": " ".join(entry.runs),
            "parameters": entry.parameters.get("total"),
            "embedding_parameters": entry.parameters.get("embedding"),
            "train_rows_per_s": entry.rows_per_s.get("train"),
            "score_rows_per_s": entry.rows_per_s.get("score"),
            "minutes": entry.minutes.mean,
            "host_mib": entry.memory_mib.get("host"),
            "device_mib": entry.memory_mib.get("device"),
            "trials": entry.trials,
            "footnotes": " ".join(board.footnotes[mark] for mark in entry.marks),
        }
        for split, metric in metrics:
            if value := entry.value(split, metric):
                row |= {f"{split}_{metric}_mean": value.mean, f"{split}_{metric}_std": value.std}
        if difference := entry.difference:
            row |= {"baseline": board.baseline, "difference": difference.mean}
            for over, interval in (("rows", difference.rows), ("seeds", difference.seeds)):
                if interval is not None:
                    row |= {f"difference_{over}_low": interval.low, f"difference_{over}_high": interval.high}
        rows.append(row)
    for known in board.references:
        values = {f"{s}_{m}_mean": known.metrics.get(s, {}).get(m) for s, m in metrics}
        rows.append({"kind": known.kind, "experiment": known.name, **values})
    for run in board.unfinished:
        rows.append({"kind": "missing", "experiment": run.run, "status": run.status, "reason": run.reason})
    writer.writerows({key: _csv_value(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _piped(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _csv_value(value: object) -> object:
    """Numbers without insignificant digits, text without control characters; None is an empty cell."""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return csv_text(value) if isinstance(value, str) else value
