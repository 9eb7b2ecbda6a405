"""The leaderboard as one self-contained HTML page: a Jinja2 template with figures by plotly."""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fuxictr_multimodal.comparison import figures
from fuxictr_multimodal.comparison.board import Board, Entry
from fuxictr_multimodal.comparison.columns import (
    count_of,
    count_text,
    explanations,
    has_device_memory,
    has_trials,
    interval_text,
    known_value,
    measured,
    spread_text,
)
from fuxictr_multimodal.comparison.drawing import Figure, Series, quantity, series
from fuxictr_multimodal.text.escape import visible


@dataclass(frozen=True)
class Cell:
    """A cell of the page's table.

    Attributes:
        value: what the column is sorted by; None if there is none.
        text: what is shown.
        under: small lines below it.
        css: class of `text`: `best`, `up` or `down`.
    """

    value: float | None = None
    text: str = ""
    under: tuple[str, ...] = ()
    css: str = ""


def page(board: Board) -> str:
    """The whole page as text; the same board gives the same bytes."""
    drawn = series(board)
    rows = [(item, _cells(board, item.entry)) for item in drawn]
    columns = list(rows[0][1]) if rows else []
    return (
        environment()
        .get_template("page.html")
        .render(
            board=board,
            subtitle=_subtitle(board),
            lead=_lead(board),
            cards=_cards(board),
            columns=columns,
            rows=rows,
            references=[(known, [known_value(known, title) for title in columns]) for known in board.references],
            groups=_figures(board, drawn) if drawn else {},
            slices=[
                (
                    slicing,
                    [(item, item.entry.slices[slicing.name]) for item in drawn if slicing.name in item.entry.slices],
                )
                for slicing in board.slicings
            ],
            explanations=explanations(board),
            plotly=_packed_plotly() if drawn else "",
        )
    )


@functools.cache
def environment() -> Environment:
    """Where templates are compiled: every expression is escaped, and its control characters become visible."""

    def finalize(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return Environment(
        loader=PackageLoader("fuxictr_multimodal.comparison"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _packed_plotly() -> str:
    """plotly.js, compressed: a page has 2 MB instead of 5; browsers since 2023 unpack it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _subtitle(board: Board) -> str:
    parts = [count_of(board)]
    seeds = sorted({len(entry.seeds) for entry in board.entries})
    if seeds:
        parts.append(f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds each")
    if size := board.splits.get(board.compared):
        rows, positives = size["rows"], size["positives"]
        parts.append(f"{rows:,} {board.compared} samples, {positives / rows:.1%} positive")
    parts.append(f"dataset build {board.manifest_hash[:12]}")
    return " · ".join(parts)


def _lead(board: Board) -> str:
    """What the numbers say, in a sentence or two."""
    if not board.entries:
        return "No run is complete."
    best = board.entries[0]
    reached = "has the highest" if len(board.entries) > 1 else "reaches a"
    text = f"{best.name} {reached} {board.compared} AUC of {spread_text(best.value(board.compared, 'AUC'))}"
    text += f" over {len(best.seeds)} seeds" if len(best.seeds) > 1 else " with one seed"
    if best.difference is not None:
        text += f": {best.difference.mean:.4f} ahead of {board.baseline}"
        if best.difference.rows is not None:
            text += f" (95 % interval {interval_text(best.difference.rows)})"
    text += "."
    tied = [entry.name for entry in board.entries if entry.tied_with_best]
    if tied:
        names = tied[0] if len(tied) == 1 else f"{', '.join(tied[:-1])} and {tied[-1]}"
        text += f" These samples do not separate it from {names}."
    elif best.tied_with_best is None and board.bootstrap and len(board.entries) > 1:
        text += " These samples separate it from every other experiment."
    return text


def _cards(board: Board) -> list[tuple[str, str, str]]:
    """Title, value and remark of the most important figures."""
    cards = []
    if board.entries:
        best = board.entries[0]
        value = best.metrics[board.compared]["AUC"]
        cards.append((f"Best {board.compared} AUC", f"{value.mean:.4f}", best.name))
        if difference := best.difference:
            over = f"{interval_text(difference.rows)} over {board.resampled}"
            remark = over if difference.rows else f"{difference.shared_seeds} shared seeds"
            cards.append(("Ahead of the baseline", f"{difference.mean:+.4f}", remark))
        for reference in board.references:
            known = reference.metrics.get(board.compared, {}).get("AUC")
            if known is not None:
                gap = known - value.mean
                remark = f"{abs(gap):.4f} {'above' if gap > 0 else 'below'} the best experiment"
                cards.append((f"{reference.name.capitalize()} ({reference.word})", f"{known:.4f}", remark))
        quick = min(board.entries, key=lambda entry: entry.minutes.mean)
        cards.append(("Quickest run", f"{quick.minutes.mean:.1f} min", quick.name))
    missing = f"{len(board.unfinished)} not in the table" if board.unfinished else "none missing"
    cards.append(("Complete runs", str(sum(len(entry.runs) for entry in board.entries)), missing))
    return cards


def _cells(board: Board, entry: Entry) -> dict[str, Cell]:
    """The cells of an entry by column: the metric that ranks and its difference, other metrics, then the cost."""
    ranks = (board.compared, "AUC")
    pairs = sorted(measured(board), key=lambda pair: (pair != ranks, pair[0] != board.compared))
    metrics = {f"{split} {metric}": _metric(board, split, metric, entry) for split, metric in pairs}
    difference = {} if board.baseline is None else {f"vs {board.baseline}": _difference(board, entry)}
    cells = {" ".join(ranks): metrics[" ".join(ranks)], **difference, **metrics}
    device = (f"GPU {count_text(entry.memory_mib.get('device'))}",) if has_device_memory(board) else ()
    cells |= {
        "parameters": _count(entry.parameters.get("total"), f"emb {quantity(entry.parameters.get('embedding', 0))}"),
        "train samples/s": _count(entry.rows_per_s.get("train"), f"score {count_text(entry.rows_per_s.get('score'))}"),
        "minutes": Cell(round(entry.minutes.mean, 2), f"{entry.minutes.mean:.1f}"),
        "peak MiB": _count(entry.memory_mib.get("host"), *device),
    }
    return cells | ({"trials": _count(entry.trials)} if has_trials(board) else {})


def _metric(board: Board, split: str, metric: str, entry: Entry) -> Cell:
    spread = entry.value(split, metric)
    if spread is None:
        return Cell()
    under = () if spread.std is None else (f"± {spread.std:.4f}",)
    css = "best" if entry.name in board.best(split, metric) else ""
    return Cell(round(spread.mean, 6), f"{spread.mean:.4f}", under, css)


def _difference(board: Board, entry: Entry) -> Cell:
    difference = entry.difference
    if difference is None:
        return Cell(0.0, "baseline")
    intervals = {board.resampled: difference.rows, "seeds": difference.seeds}
    under = tuple(f"{over} {interval_text(interval)}" for over, interval in intervals.items() if interval)
    sure = difference.rows or difference.seeds
    css, sign = "", "≈ " if sure else ""
    if sure and sure.excludes_zero:
        css, sign = ("up", "▲ ") if difference.mean > 0 else ("down", "▼ ")
    return Cell(round(difference.mean, 6), f"{sign}{difference.mean:+.4f}", under, css)


def _count(value: float | None, *under: str) -> Cell:
    return Cell(value, count_text(value), under)


def _figures(board: Board, drawn: Sequence[Series]) -> dict[str, list[Figure]]:
    """The figures by section, without those that this board has no values for."""
    sections: dict[str, list[Any]] = {
        "Quality": [figures.auc_figure(board, drawn), figures.difference_figure(board, drawn)],
        "Cost": [
            figures.cost_figure(board, drawn, lambda e: e.minutes.mean, "Quality against time", "minutes per run"),
            figures.cost_figure(
                board, drawn, lambda e: e.parameters.get("total", 0), "Quality against size", "parameters"
            ),
        ],
        "Learning curves": [
            figures.curve_figure(board, drawn, lambda c: c.auc, "Valid AUC while learning", higher_is_better=True),
            figures.curve_figure(
                board, drawn, lambda c: c.loss, "Training loss while learning", higher_is_better=False
            ),
        ],
        "AUC by slice": [figures.slice_figure(board, drawn, slicing) for slicing in board.slicings],
    }
    kept = {title: [figure for figure in found if figure] for title, found in sections.items()}
    return {title: found for title, found in kept.items() if found}
