"""The leaderboard as one self-contained HTML page: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable

from fuxictr_multimodal.comparison import charts
from fuxictr_multimodal.comparison.board import Board, Entry
from fuxictr_multimodal.comparison.charts import Series
from fuxictr_multimodal.comparison.statistics import Interval, Spread
from fuxictr_multimodal.comparison.style import CSS, SCRIPT
from fuxictr_multimodal.comparison.svg import tag, text_of
from fuxictr_multimodal.comparison.tables import (
    METRICS,
    count_of,
    count_text,
    explanations,
    interval_text,
    spread_text,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(board: Board) -> str:
    """The whole page as text; the same board gives the same bytes."""
    drawn = charts.series(board)
    sections = [_header(board), _lead(board), _cards(board)]
    if drawn:
        sections += [
            _section("Results", _results(board, drawn), _figures(board, drawn)),
            _section("AUC by slice", *_slices(board, drawn)),
        ]
    sections += [_missing(board), _notes(board)]
    head = [
        '<meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("title", None, text_of(f"{board.dataset_id}: leaderboard")),
        f"<style>{CSS}</style>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n'
        + "\n".join(head)
        + "\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _header(board: Board) -> str:
    size = board.splits.get(board.compared)
    facts = [count_of(board)]
    seeds = {len(entry.seeds) for entry in board.entries}
    if seeds:
        facts.append(f"{min(seeds)} to {max(seeds)} seeds each" if len(seeds) > 1 else f"{max(seeds)} seeds each")
    if size:
        facts.append(f"{size['rows']:,} {board.compared} rows, {size['positives'] / size['rows']:.1%} positive")
    facts.append(f"dataset build {board.manifest_hash[:12]}")
    title = tag("h1", None, text_of(board.dataset_id))
    under = tag("p", {"class": "over"}, text_of(" · ".join(facts)))
    button = tag("button", {"id": "theme", "type": "button"}, "Light / dark")
    return tag("header", None, tag("div", None, title, under), button)


def _lead(board: Board) -> str:
    """What the numbers say, in a sentence or two."""
    if not board.entries:
        return tag("p", {"class": "lead"}, "No run is complete.")
    best = board.entries[0]
    value = best.value(board.compared, "AUC")
    reached = "has the highest" if len(board.entries) > 1 else "reaches a"
    text = f"{best.name} {reached} {board.compared} AUC of {spread_text(value)}"
    text += f" over {len(best.seeds)} seeds" if len(best.seeds) > 1 else " with one seed"
    if best.difference is not None:
        text += f": {best.difference.mean:.4f} ahead of {board.baseline}"
        if best.difference.rows is not None:
            text += f" (95 % interval {interval_text(best.difference.rows)})"
    text += "."
    tied = [entry.name for entry in board.entries if entry.tied_with_best]
    if tied:
        text += f" On these rows it cannot be told apart from {_and(tied)}."
    elif best.tied_with_best is None and board.bootstrap and len(board.entries) > 1:
        text += " The rows tell it apart from every other one."
    return tag("p", {"class": "lead"}, text_of(text))


def _cards(board: Board) -> str:
    cards = []
    if board.entries:
        best = board.entries[0]
        value = best.value(board.compared, "AUC")
        cards.append((f"Best {board.compared} AUC", f"{value.mean:.4f}", best.name))
        if best.difference is not None:
            rows = best.difference.rows
            under = (
                f"{interval_text(rows)} over {board.resampled}"
                if rows
                else f"{best.difference.shared_seeds} shared seeds"
            )
            cards.append((f"Ahead of {board.baseline}", f"{best.difference.mean:+.4f}", under))
        for reference in board.references:
            known = reference.metrics.get(board.compared, {}).get("AUC")
            if known is not None:
                gap = known - value.mean
                under = f"{abs(gap):.4f} {'above' if gap > 0 else 'below'} the best experiment"
                cards.append((f"{reference.name.capitalize()} ({reference.kind})", f"{known:.4f}", under))
        quick = min(board.entries, key=lambda entry: entry.minutes.mean)
        cards.append(("Quickest run", f"{quick.minutes.mean:.1f} min", quick.name))
    complete = sum(len(entry.runs) for entry in board.entries)
    missing = len(board.unfinished)
    cards.append(("Complete runs", str(complete), f"{missing} not in the table" if missing else "none missing"))
    made = (
        tag(
            "div",
            {"class": "card"},
            tag("span", None, text_of(name)),
            tag("b", None, text_of(value)),
            tag("span", None, text_of(under)),
        )
        for name, value, under in cards
    )
    return tag("div", {"class": "cards"}, *made)


def _results(board: Board, drawn: list[Series]) -> str:
    """The table; a head is a button that sorts."""
    splits = tuple(dict.fromkeys(("valid", board.compared)))
    measured = [(s, m) for s in splits for m in METRICS if any(e.value(s, m) for e in board.entries)]
    measured.sort(key=lambda pair: (pair != (board.compared, "AUC"), pair[0] != board.compared))
    heads = [f"{split} {metric}" for split, metric in measured]
    if board.baseline is not None:
        heads.insert(1, f"vs {board.baseline}")
    heads += ["parameters", "train rows/s", "minutes"]
    device = any("device" in entry.memory_mib for entry in board.entries)
    trials = any(entry.trials is not None for entry in board.entries)
    heads += ["peak MiB", *["trials"] * trials]
    rows = []
    for item in drawn:
        entry = item.entry
        cells = [_metric_cell(board, entry, split, metric) for split, metric in measured]
        if board.baseline is not None:
            cells.insert(1, _difference_cell(entry))
        cells += [
            _cell(entry.parameters.get("total"), under=f"emb {charts.quantity(entry.parameters.get('embedding', 0))}"),
            _cell(entry.rows_per_s.get("train"), under=f"score {count_text(entry.rows_per_s.get('score'))}"),
            _cell(round(entry.minutes.mean, 2), f"{entry.minutes.mean:.1f}"),
            _cell(
                entry.memory_mib.get("host"),
                under=f"GPU {count_text(entry.memory_mib.get('device'))}" if device else "",
            ),
        ]
        cells += [_cell(entry.trials)] * trials
        marks = "".join(tag("sup", None, text_of(f" {mark}")) for mark in entry.marks)
        seeds = tag("small", None, "1 seed" if len(entry.seeds) == 1 else f"{len(entry.seeds)} seeds")
        name = text_of(entry.name) + marks + seeds
        name = tag("th", {"scope": "row", "data-v": entry.name}, charts.swatch(item), name)
        rows.append(tag("tr", {"data-e": item.number}, name, *cells))
    for reference in board.references:
        cells = []
        for head in heads:
            split, _, metric = head.partition(" ")
            known = reference.metrics.get(split, {}).get(metric)
            cells.append(_cell(known, "" if known is None else f"{known:.4f}"))
        name = tag("th", {"scope": "row"}, text_of(f"{reference.name} ({reference.kind})"))
        rows.append(tag("tr", {"class": "ref"}, name, *cells))
    sorted_by = {f"{board.compared} AUC": "descending"}
    head = [
        tag(
            "th",
            {"scope": "col", **({"aria-sort": sorted_by[text]} if text in sorted_by else {})},
            tag("button", {"type": "button"}, text_of(text)),
        )
        for text in ["experiment", *heads]
    ]
    table = tag("table", None, tag("thead", None, tag("tr", None, *head)), tag("tbody", None, *rows))
    return tag("div", {"class": "table"}, table)


def _figures(board: Board, drawn: list[Series]) -> str:
    quality = [charts.auc_chart(board, drawn), charts.difference_chart(board, drawn)]
    cost = [
        charts.cost_chart(board, drawn, lambda entry: entry.minutes.mean, "Quality against time", "minutes a run"),
        charts.cost_chart(
            board, drawn, lambda entry: entry.parameters.get("total", 0), "Quality against size", "parameters"
        ),
    ]
    curves = [
        charts.curve_chart(board, drawn, lambda curve: curve.auc, "Valid AUC while learning", marked=True),
        charts.curve_chart(board, drawn, lambda curve: curve.loss, "Training loss while learning", marked=False),
    ]
    parts = [_legend(drawn), _grid(quality)]
    for title, figures in (("Cost", cost), ("Learning curves", curves)):
        if any(figures):
            parts.append(tag("h2", None, title) + _grid(figures))
    return "".join(parts)


def _legend(drawn: list[Series]) -> str:
    buttons = (
        tag(
            "button",
            {"type": "button", "class": "e", "data-e": item.number, "aria-pressed": "false"},
            charts.swatch(item),
            text_of(item.name),
        )
        for item in drawn
    )
    return tag("div", {"class": "legend", "role": "group", "aria-label": "Light up an experiment"}, *buttons)


def _slices(board: Board, drawn: list[Series]) -> list[str]:
    figures = [charts.slice_chart(board, drawn, slicing) for slicing in board.slicings]
    if not any(figures):
        return []
    tables = []
    for slicing in board.slicings:
        heads = ["experiment", *(f"{label} ({rows:,} rows)" for label, rows, _ in slicing.bins)]
        rows = []
        for item in drawn:
            spreads = item.entry.slices.get(slicing.name)
            if spreads is not None:
                cells = (_cell(s and round(s.mean, 6), _stacked(s)) for s in spreads)
                name = tag("th", {"scope": "row"}, charts.swatch(item), text_of(item.entry.name))
                rows.append(tag("tr", {"data-e": item.number}, name, *cells))
        head = tag("tr", None, *(tag("th", {"scope": "col"}, text_of(text)) for text in heads))
        table = tag("table", None, tag("thead", None, head), tag("tbody", None, *rows))
        tables.append(tag("h3", None, text_of(slicing.title)) + tag("div", {"class": "table"}, table))
    numbers = tag("details", None, tag("summary", None, "The numbers of these slices"), *tables)
    return [_grid(figures), numbers]


def _missing(board: Board) -> str:
    if not board.unfinished:
        return ""
    rows = (
        tag(
            "tr",
            None,
            tag("th", {"scope": "row"}, text_of(run.run)),
            tag("td", {"class": "text"}, text_of(run.status)),
            tag("td", {"class": "text"}, text_of(run.reason)),
        )
        for run in board.unfinished
    )
    table = tag("table", {"class": "wrap"}, tag("tbody", None, *rows))
    return _section("Not in the table", tag("div", {"class": "table"}, table))


def _notes(board: Board) -> str:
    items = [tag("sup", None, text_of(mark)) + " " + text_of(text) for mark, text in board.footnotes.items()]
    items += [text_of(f"Published curve {item.name}: {item.source}") for item in board.published]
    items += [text_of(text) for text in explanations(board)]
    return _section("How to read it", tag("ul", None, *(tag("li", None, item) for item in items)))


def _section(title: str, *content: str) -> str:
    return tag("section", None, tag("h2", None, text_of(title)), *content) if any(content) else ""


def _grid(figures: Iterable[str]) -> str:
    kept = [figure for figure in figures if figure]
    return tag("div", {"class": "grid2"}, *kept) if kept else ""


def _metric_cell(board: Board, entry: Entry, split: str, metric: str) -> str:
    spread = entry.value(split, metric)
    if spread is None:
        return _cell(None)
    best = entry.name in board.best(split, metric)
    return _cell(round(spread.mean, 6), _stacked(spread, bold=best), css="best" if best else "")


def _difference_cell(entry: Entry) -> str:
    difference = entry.difference
    if difference is None:
        return _cell(0.0, "baseline")
    sure = difference.rows if difference.rows is not None else difference.seeds
    css, sign = "", "≈ "
    if sure is not None and sure.excludes_zero:
        css, sign = ("up", "▲ ") if difference.mean > 0 else ("down", "▼ ")
    first = tag("span", {"class": css} if css else None, f"{sign if sure else ''}{difference.mean:+.4f}")
    return _cell(round(difference.mean, 6), first + _small("rows", difference.rows) + _small("seeds", difference.seeds))


def _small(name: str, interval: Interval | None) -> str:
    return "" if interval is None else tag("small", None, f"{name} {interval_text(interval)}")


def _stacked(spread: Spread | None, *, bold: bool = False) -> str:
    if spread is None:
        return ""
    mean = f"{spread.mean:.4f}"
    under = "" if spread.std is None else tag("small", None, f"± {spread.std:.4f}")
    return (tag("b", None, mean) if bold else mean) + under


def _cell(value: float | None, content: str | None = None, *, css: str = "", under: str = "") -> str:
    shown = count_text(value) if content is None else content
    shown += tag("small", None, text_of(under)) if under else ""
    attributes = {"class": css} if css else {}
    return tag("td", {**attributes, "data-v": "" if value is None else value}, shown or "")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
