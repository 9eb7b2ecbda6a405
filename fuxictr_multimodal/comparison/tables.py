"""The leaderboard as a table: terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from fuxictr_multimodal.comparison.board import Board, Entry
from fuxictr_multimodal.comparison.statistics import Interval, Spread
from fuxictr_multimodal.system.terminal import plain_console
from fuxictr_multimodal.text.escape import csv_text, one_line
from fuxictr_multimodal.text.escape import latex as tex
from fuxictr_multimodal.text.escape import markdown as escaped

METRICS = ("AUC", "gAUC", "logloss", "ECE")


@dataclass(frozen=True)
class Column:
    """A column of the readable tables.

    Attributes:
        title: its head.
        cell: text of an entry.
        best: names of the entries to mark as best.
        of_quality: how good, not how dear.
        short: also part of the short form.
    """

    title: str
    cell: Callable[[Entry], str]
    best: frozenset[str] = frozenset()
    of_quality: bool = False
    short: bool = False


def columns(board: Board, *, short: bool = False) -> list[Column]:
    """The columns that this board has values for, in order."""
    split = board.compared
    found = []
    for of_split in dict.fromkeys(("valid", split)):
        for metric in METRICS:
            if any(entry.value(of_split, metric) for entry in board.entries):
                found.append(_metric_column(board, of_split, metric))
    if board.baseline is not None:
        found += [
            Column(f"vs {board.baseline}", _difference, of_quality=True, short=True),
            Column(
                f"95 % over {board.resampled}",
                lambda e: interval_text(e.difference.rows) if e.difference else "",
                of_quality=True,
                short=True,
            ),
            Column(
                "95 % over seeds",
                lambda e: interval_text(e.difference.seeds) if e.difference else "",
                of_quality=True,
                short=True,
            ),
        ]
    found += [
        Column("seeds", lambda e: str(len(e.seeds)), short=True),
        Column("parameters", lambda e: count_text(e.parameters.get("total")), short=True),
        Column("train rows/s", lambda e: count_text(e.rows_per_s.get("train"))),
        Column("score rows/s", lambda e: count_text(e.rows_per_s.get("score"))),
        Column("minutes", lambda e: f"{e.minutes.mean:.1f}", short=True),
        Column("peak MiB", lambda e: count_text(e.memory_mib.get("host"))),
    ]
    if any("device" in entry.memory_mib for entry in board.entries):
        found.append(Column("GPU MiB", lambda e: count_text(e.memory_mib.get("device"))))
    if any(entry.trials is not None for entry in board.entries):
        found.append(Column("trials", lambda e: "-" if e.trials is None else str(e.trials), short=True))
    return [column for column in found if column.short or not short]


def explanations(board: Board) -> list[str]:
    """What the marks and intervals of the table mean, then its notes."""
    said = ["Mean ± standard deviation over seeds. The best of a column is marked. Selection read valid only."]
    if board.baseline is not None:
        text = f"Differences are to {board.baseline} on {board.compared} AUC, with 95 % intervals: over seeds by "
        text += "Student's t on the seeds that both have"
        if board.bootstrap:
            unit = "rows" if board.resampled == "rows" else "users with all their rows"
            text += (
                f"; over {board.resampled} by the paired bootstrap of {board.compared} {unit} "
                f"({board.bootstrap['replicates']:,} replicates, seed {board.bootstrap['seed']})"
            )
        said.append(text + ".")
    tied = [entry.name for entry in board.entries if entry.tied_with_best]
    if tied:
        first = board.entries[0].name
        said.append(
            f"Too close to {first} to tell on these {board.compared} {board.resampled} (95 %): {', '.join(tied)}."
        )
    said.append(f"Dataset build {board.manifest_hash[:12]}.")
    return [*said, *board.notes]


def terminal(board: Board, *, short: bool = False, width: int | None = None, color: bool = False) -> str:
    """Tables for the terminal, quality first, then cost; `width` None gives them all the width they need."""
    console = plain_console(
        width=width or 10_000, file=io.StringIO(), force_terminal=color, legacy_windows=False, highlight=False
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
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def _rich_table(board: Board, shown: list[Column], title: str | None) -> Table:
    table = Table(title=title and one_line(title), box=box.SIMPLE_HEAD, title_justify="left", header_style="bold")
    table.add_column("experiment", no_wrap=True)
    for column in shown:
        table.add_column(one_line(column.title) + " ", justify="right")
    for entry in board.entries:
        table.add_row(one_line(entry.name + _marks(entry, " [{}]")), *(_starred(column, entry) for column in shown))
    for reference in board.references if any(column.of_quality for column in shown) else ():
        values = [_reference_cell(column, reference.metrics) + " " for column in shown]
        table.add_row(one_line(f"{reference.name} ({reference.kind})"), *values, style="dim")
    return table


def markdown(board: Board, *, short: bool = False) -> str:
    """A GitHub table with its notes."""
    shown = columns(board, short=short)
    lines = [f"## {escaped(heading(board))}", ""]
    lines.append(_piped("experiment", *(escaped(column.title) for column in shown)))
    lines.append("|---|" + "---:|" * len(shown))
    for entry in board.entries:
        cells = [_emphasised(column, entry, "**{}**") for column in shown]
        lines.append(_piped(escaped(entry.name) + _marks(entry, " <sup>{}</sup>", escaped), *cells))
    for reference in board.references:
        cells = [_reference_cell(column, reference.metrics) for column in shown]
        lines.append(_piped(f"*{escaped(reference.name)} ({escaped(reference.kind)})*", *cells))
    lines.append("")
    lines += [f"- <sup>{escaped(mark)}</sup> {escaped(text)}" for mark, text in board.footnotes.items()]
    lines += [f"- {escaped(text)}" for text in explanations(board)]
    if board.unfinished:
        lines += ["", "Not in the table:", "", "| run | state | why |", "|---|---|---|"]
        lines += [_piped(*map(escaped, (run.run, run.status, run.reason))) for run in board.unfinished]
    return "\n".join(lines) + "\n"


def latex(board: Board, *, short: bool = False) -> str:
    """A `tabular` with booktabs rules; notes follow as a small paragraph, runs that are missing too."""
    shown = columns(board, short=short)
    lines = [
        f"% {one_line(heading(board))}; needs \\usepackage{{booktabs}}",
        "\\begin{tabular}{l" + "r" * len(shown) + "}",
        "\\toprule",
        " & ".join([tex("experiment"), *(tex(column.title) for column in shown)]) + " \\\\",
        "\\midrule",
    ]
    for entry in board.entries:
        cells = [_emphasised(column, entry, "\\textbf{{{}}}", escape=tex) for column in shown]
        lines.append(" & ".join([tex(entry.name) + _marks(entry, "\\textsuperscript{{{}}}", tex), *cells]) + " \\\\")
    if board.references:
        lines.append("\\midrule")
    for reference in board.references:
        cells = [tex(_reference_cell(column, reference.metrics)) for column in shown]
        lines.append(" & ".join([tex(f"{reference.name} ({reference.kind})"), *cells]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\par\\smallskip{\\footnotesize"]
    lines += [f"\\textsuperscript{{{tex(mark)}}} {tex(text)}" for mark, text in board.footnotes.items()]
    lines += [tex(text) for text in explanations(board)]
    if board.unfinished:
        listed = "; ".join(f"{run.run} ({run.status}: {run.reason})" for run in board.unfinished)
        lines.append(tex(f"Not in the table: {listed}."))
    lines.append("\\par}")
    return "\n".join(lines) + "\n"


def as_csv(board: Board) -> str:
    """Numbers for a program: one line an experiment, floor, ceiling or missing run, told apart by `kind`."""
    splits = tuple(dict.fromkeys(("valid", board.compared)))
    names = [(s, m) for s in splits for m in METRICS if any(e.value(s, m) for e in board.entries)]
    head = ["kind", "experiment", "model", "status", "reason", "seeds", "runs"]
    head += [f"{split}_{metric}_{what}" for split, metric in names for what in ("mean", "std")]
    head += ["baseline", "difference", *(f"difference_{o}_{s}" for o in ("rows", "seeds") for s in ("low", "high"))]
    head += ["parameters", "embedding_parameters", "train_rows_per_s", "score_rows_per_s", "minutes"]
    head += ["host_mib", "device_mib", "trials", "footnotes"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, head, lineterminator="\n", restval="")
    writer.writeheader()

    def write(row: dict[str, object]) -> None:
        writer.writerow({key: csv_text(value) if isinstance(value, str) else value for key, value in row.items()})

    for entry in board.entries:
        row: dict[str, object] = {
            "kind": "experiment",
            "experiment": entry.name,
            "model": entry.model,
            "status": "completed",
            "seeds": " ".join(map(str, entry.seeds)),
            "runs": " ".join(entry.runs),
            "parameters": entry.parameters.get("total", ""),
            "embedding_parameters": entry.parameters.get("embedding", ""),
            "train_rows_per_s": _number(entry.rows_per_s.get("train")),
            "score_rows_per_s": _number(entry.rows_per_s.get("score")),
            "minutes": _number(entry.minutes.mean),
            "host_mib": _number(entry.memory_mib.get("host")),
            "device_mib": _number(entry.memory_mib.get("device")),
            "trials": "" if entry.trials is None else entry.trials,
            "footnotes": " ".join(board.footnotes[mark] for mark in entry.marks),
        }
        for split, metric in names:
            value = entry.value(split, metric)
            row[f"{split}_{metric}_mean"] = _number(value.mean if value else None)
            row[f"{split}_{metric}_std"] = _number(value.std if value else None)
        if entry.difference is not None:
            row |= {"baseline": board.baseline, "difference": _number(entry.difference.mean)}
            for over, interval in (("rows", entry.difference.rows), ("seeds", entry.difference.seeds)):
                row[f"difference_{over}_low"] = _number(interval.low if interval else None)
                row[f"difference_{over}_high"] = _number(interval.high if interval else None)
        write(row)
    for reference in board.references:
        values = {f"{s}_{m}_mean": _number(reference.metrics.get(s, {}).get(m)) for s, m in names}
        write({"kind": reference.kind, "experiment": reference.name, **values})
    for run in board.unfinished:
        write({"kind": "missing", "experiment": run.run, "status": run.status, "reason": run.reason})
    return stream.getvalue()


def heading(board: Board) -> str:
    """The title of the table."""
    size = board.splits.get(board.compared)
    rows = f", {size['rows']:,} {board.compared} rows" if size else ""
    return f"{board.dataset_id}: {count_of(board)}{rows}"


def count_of(board: Board) -> str:
    """How many experiments are compared, in words."""
    return "1 experiment" if len(board.entries) == 1 else f"{len(board.entries)} experiments"


def spread_text(spread: Spread | None) -> str:
    """Mean ± standard deviation to four digits, or the single value.

    >>> spread_text(Spread((0.7, 0.8))), spread_text(Spread((0.7,))), spread_text(None)
    ('0.7500 ± 0.0707', '0.7000', '-')
    """
    if spread is None:
        return "-"
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def interval_text(interval: Interval | None) -> str:
    """Both ends with their signs.

    >>> interval_text(Interval(-0.001, 0.02))
    '[-0.0010, +0.0200]'
    """
    return "-" if interval is None else f"[{interval.low:+.4f}, {interval.high:+.4f}]"


def count_text(value: float | None) -> str:
    """A whole number with thousands separated; nothing for None."""
    return "-" if value is None else f"{value:,.0f}"


def _metric_column(board: Board, split: str, metric: str) -> Column:
    return Column(
        f"{split} {metric}",
        lambda entry: spread_text(entry.value(split, metric)),
        board.best(split, metric),
        of_quality=True,
        short=metric == "AUC" or (metric == "gAUC" and split == board.compared),
    )


def _difference(entry: Entry) -> str:
    return "baseline" if entry.difference is None else f"{entry.difference.mean:+.4f}"


def _marks(entry: Entry, form: str, escape: Callable[[str], str] = str) -> str:
    return "".join(form.format(escape(mark)) for mark in entry.marks)


def _starred(column: Column, entry: Entry) -> Text:
    """The best of a column with a star, the others with a blank, so that digits stay below each other."""
    best = entry.name in column.best
    return Text(column.cell(entry) + ("*" if best else " "), style="bold green" if best else "")


def _emphasised(column: Column, entry: Entry, form: str, *, escape: Callable[[str], str] = str) -> str:
    text = escape(column.cell(entry))
    return form.format(text) if entry.name in column.best else text


def _reference_cell(column: Column, metrics: dict[str, dict[str, float]]) -> str:
    split, _, metric = column.title.partition(" ")
    value = metrics.get(split, {}).get(metric)
    return "" if value is None else f"{value:.4f}"


def _piped(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".")
