"""What the tables show, whatever their format: columns, rows, and the words and numbers in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuxictr_multimodal.comparison.board import Board, Entry, Reference
from fuxictr_multimodal.comparison.statistics import Interval, Spread

# These come first; others follow in the order of `metrics`.
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


@dataclass(frozen=True)
class Row:
    """A row of the readable tables: an entry, or a reference, which has no marks and is never the best.

    Attributes:
        name, marks: what it is called, and its footnotes.
        cells: text and whether it is the best of its column.
    """

    name: str
    marks: tuple[str, ...]
    cells: tuple[tuple[str, bool], ...]


def columns(board: Board, *, short: bool = False) -> list[Column]:
    """The columns that this board has values for, in order."""

    def metric_column(split: str, metric: str) -> Column:
        return Column(
            f"{split} {metric}",
            lambda entry: spread_text(entry.value(split, metric)),
            board.best(split, metric),
            of_quality=True,
            short=metric == "AUC" or (metric == "gAUC" and split == board.compared),
        )

    found = [metric_column(split, metric) for split, metric in measured(board)]
    if board.baseline is not None:
        differences: dict[str, Callable[[Entry], str]] = {
            f"vs {board.baseline}": lambda e: f"{e.difference.mean:+.4f}" if e.difference else "baseline",
            f"95 % over {board.resampled}": lambda e: interval_text(e.difference.rows) if e.difference else "",
            "95 % over seeds": lambda e: interval_text(e.difference.seeds) if e.difference else "",
        }
        found += [Column(title, cell, of_quality=True, short=True) for title, cell in differences.items()]
    found += [
        Column("seeds", lambda e: str(len(e.seeds)), short=True),
        Column("parameters", lambda e: count_text(e.parameters.get("total")), short=True),
        Column("train samples/s", lambda e: count_text(e.rows_per_s.get("train"))),
        Column("score samples/s", lambda e: count_text(e.rows_per_s.get("score"))),
        Column("minutes", lambda e: f"{e.minutes.mean:.1f}", short=True),
        Column("peak MiB", lambda e: count_text(e.memory_mib.get("host"))),
    ]
    if has_device_memory(board):
        found.append(Column("GPU MiB", lambda e: count_text(e.memory_mib.get("device"))))
    if has_trials(board):
        found.append(Column("trials", lambda e: count_text(e.trials), short=True))
    return [column for column in found if column.short or not short]


def measured(board: Board) -> list[tuple[str, str]]:
    """Split and metric of the values that any entry has, valid first."""
    splits = dict.fromkeys(("valid", board.compared))
    found = dict.fromkeys([*METRICS, *(m for e in board.entries for s in splits for m in e.metrics.get(s, {}))])
    return [(s, m) for s in splits for m in found if any(entry.value(s, m) for entry in board.entries)]


def has_device_memory(board: Board) -> bool:
    """Whether the memory of a GPU was measured."""
    return any("device" in entry.memory_mib for entry in board.entries)


def has_trials(board: Board) -> bool:
    """Whether any entry says how many configurations were tried for it."""
    return any(entry.trials is not None for entry in board.entries)


def known_value(reference: Reference, title: str) -> str:
    """The value of a reference in the column of that title; nothing where it has none."""
    split, _, metric = title.partition(" ")
    value = reference.metrics.get(split, {}).get(metric)
    return "" if value is None else f"{value:.4f}"


def entry_rows(board: Board, shown: list[Column]) -> list[Row]:
    """The rows of the experiments, best first."""
    return [
        Row(entry.name, entry.marks, tuple((column.cell(entry), entry.name in column.best) for column in shown))
        for entry in board.entries
    ]


def reference_rows(board: Board, shown: list[Column]) -> list[Row]:
    """The rows of the known references."""
    return [
        Row(f"{known.name} ({known.word})", (), tuple((known_value(known, column.title), False) for column in shown))
        for known in board.references
    ]


def explanations(board: Board) -> list[str]:
    """What the marks and intervals of the table mean, then its notes."""
    notes = ["Mean ± standard deviation over seeds. The best value of a column is marked. Selection used valid only."]
    if board.baseline is not None:
        text = f"Differences are to {board.baseline} on {board.compared} AUC, with 95 % intervals: over seeds by "
        text += "Student's t on the seeds that both have"
        if board.bootstrap:
            unit = "samples" if board.resampled == "samples" else "users with all their samples"
            text += (
                f"; over {board.resampled} by the paired bootstrap of {board.compared} {unit} "
                f"({board.bootstrap['replicates']:,} replicates, seed {board.bootstrap['seed']})"
            )
        notes.append(text + ".")
    tied = [entry.name for entry in board.entries if entry.tied_with_best]
    if tied:
        first = board.entries[0].name
        notes.append(
            f"Not separated from {first} by these {board.compared} {board.resampled} (95 %): {', '.join(tied)}."
        )
    notes.append(f"Dataset build {board.manifest_hash[:12]}.")
    return [*notes, *board.notes]


def heading(board: Board) -> str:
    """The title of the table."""
    size = board.splits.get(board.compared)
    size_text = f", {size['rows']:,} {board.compared} samples" if size else ""
    return f"{board.dataset_id}: {count_of(board)}{size_text}"


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
