"""The charts of the page, each a `<figure>`: AUC and differences with intervals, cost, learning curves, slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fuxictr_multimodal.comparison import svg
from fuxictr_multimodal.comparison.board import Board, Curve, Entry, Slicing
from fuxictr_multimodal.comparison.statistics import Interval
from fuxictr_multimodal.comparison.svg import Axis, tag
from fuxictr_multimodal.comparison.tables import count_text, interval_text, spread_text

MOST_COLOURED = 5
COLOURED_SHAPES = ("circle", "square", "diamond", "up", "down")
ROW = 26  # pixels of a row of a dot chart
LETTER = 6.6  # pixels of a letter of a label, on the wide side
NOMINAL = (470.0, 300.0)  # a plot in pixels, to place labels where they do not meet


@dataclass(frozen=True)
class Series:
    """How an entry is drawn: its number, short name, class for the colour, and mark."""

    number: int
    entry: Entry
    name: str
    css: str
    shape: str

    @property
    def coloured(self) -> bool:
        """Whether it stands out; the others are grey until pointed at."""
        return self.css != "rest"

    def group(self, *content: str) -> str:
        """Marks that belong to this entry: they light up together on the whole page."""
        return tag("g", {"class": f"e {self.css}", "data-e": self.number}, *content)


def series(board: Board) -> list[Series]:
    """Colours for the best experiment of each model, the best five, and the baseline; grey for the rest."""
    coloured: dict[str, int] = {}
    models = set()
    for entry in board.entries:
        if entry.name != board.baseline and entry.model not in models and len(coloured) < MOST_COLOURED:
            models.add(entry.model)
            coloured[entry.name] = len(coloured)
    found = []
    for number, entry in enumerate(board.entries):
        css, shape = "rest", "ring"
        if entry.name in coloured:
            css, shape = f"c{coloured[entry.name]}", COLOURED_SHAPES[coloured[entry.name]]
        elif entry.name == board.baseline:
            css, shape = "base", "circle"
        found.append(Series(number, entry, short_names(board)[number], css, shape))
    return found


def short_names(board: Board) -> list[str]:
    """Names without the ending that all share, such as the dataset."""
    names = [entry.name for entry in board.entries]
    endings = {name.rpartition("_")[2] for name in names}
    if len(names) > 1 and len(endings) == 1 and all("_" in name.strip("_") for name in names):
        return [name.rpartition("_")[0] for name in names]
    return names


def auc_chart(board: Board, drawn: Sequence[Series]) -> str:
    """AUC of the compared split: mean, interval over rows, and each seed."""

    def spread(item: Series):
        return item.entry.value(board.compared, "AUC")

    values = [v for item in drawn for v in spread(item).values]
    values += [v for item in drawn for v in _ends(item.entry.auc_rows)]
    span = max(values) - min(values)
    lines, beyond = [], []
    for reference in board.references:
        value = reference.metrics.get(board.compared, {}).get("AUC")
        if value is None:
            continue
        near = min(values) - span / 2 <= value <= max(values) + span / 2
        (lines if near else beyond).append((reference.name, value))
    axis = Axis.over([*values, *(value for _, value in lines)])
    caption = "Dot: mean over seeds. "
    caption += (
        f"Line: 95 % bootstrap interval over {board.resampled}. " if _has(item.entry.auc_rows for item in drawn) else ""
    )
    caption += "Ticks: the seeds."
    if beyond:
        caption += " Outside the plot: " + ", ".join(f"{name} {value:.4f}" for name, value in beyond) + "."
    return _dots(
        f"{board.compared.capitalize()} AUC",
        caption,
        drawn,
        axis,
        mean=lambda item: spread(item).mean,
        interval=lambda item: item.entry.auc_rows,
        ticks=lambda item: spread(item).values,
        tip=lambda item: (
            f"{item.entry.name}: {spread_text(spread(item))}, {board.resampled} {_plain(item.entry.auc_rows)}"
        ),
        marked=lines,
        digits=3,
    )


def difference_chart(board: Board, drawn: Sequence[Series]) -> str:
    """Difference to the baseline with both intervals; the baseline is the line at zero."""
    shown = [item for item in drawn if item.entry.difference is not None]
    if not shown:
        return ""
    values = [0.0]
    for item in shown:
        values += [item.entry.difference.mean, *_ends(item.entry.difference.rows)]
    clip = max(values) - min(values)
    # An interval from two or three seeds can be very wide: it does not stretch the plot beyond double.
    for item in shown:
        values += [v for v in _ends(item.entry.difference.seeds) if -clip / 2 <= v - min(values) <= 1.5 * clip]

    def tip(item: Series) -> str:
        difference = item.entry.difference
        if difference is None:
            return f"{item.entry.name}: the baseline"
        return (
            f"{item.entry.name}: {difference.mean:+.4f}, {board.resampled} {interval_text(difference.rows)}, "
            f"seeds {interval_text(difference.seeds)}"
        )

    return _dots(
        f"Difference to {board.baseline}",
        f"{board.compared.capitalize()} AUC. Line: paired 95 % interval over {board.resampled}. "
        "Pale bar: over the seeds that both have.",
        drawn,
        Axis.over(values),
        mean=lambda item: item.entry.difference.mean if item.entry.difference else 0.0,
        interval=lambda item: item.entry.difference and item.entry.difference.rows,
        band=lambda item: item.entry.difference and item.entry.difference.seeds,
        tip=tip,
        marked=[("", 0.0)],
        sign=True,
    )


def cost_chart(board: Board, drawn: Sequence[Series], cost: Callable[[Entry], float], title: str, unit: str) -> str:
    """AUC against a cost, on a logarithmic axis, with the line of those that nothing cheaper beats."""
    shown = [item for item in drawn if cost(item.entry) > 0]
    if len(shown) < 2:
        return ""
    x = Axis.over([cost(item.entry) for item in shown], log=True, margin=0.1)
    aucs = {item.number: item.entry.value(board.compared, "AUC").mean for item in shown}
    y = Axis.over(list(aucs.values()), margin=0.12)
    at = {item.number: (x.at(cost(item.entry)), y.at(aucs[item.number])) for item in shown}
    frontier: list[tuple[float, float]] = []
    for item in sorted(shown, key=lambda item: (cost(item.entry), -aucs[item.number])):
        px, py = at[item.number]
        if not frontier or py > frontier[-1][1]:
            frontier += [(px, frontier[-1][1]), (px, py)] if frontier else [(px, py)]
    frontier.append((1.0, frontier[-1][1]))
    sides = _label_sides([(at[item.number], item.name) for item in _by_weight(shown)])
    parts = [_frame(x, y, x_text=quantity), svg.stretched(svg.line(frontier, css="frontier"))]
    for item in reversed(_by_weight(shown)):
        px, py = at[item.number]
        tip = f"{item.entry.name}: {quantity(cost(item.entry))} {unit}, AUC {aucs[item.number]:.4f}"
        mark = svg.dot(px, py, item.shape, tip=tip)
        side = sides[item.name, px, py]
        text = svg.label(px, py, item.name, css=f"lab near {side[0]}".strip(), dx=side[1], dy=side[2]) if side else ""
        parts.append(item.group(mark, text))
    return _figure(
        title,
        f"Up and to the left is better. Dotted: the best that the {unit} buy.",
        "".join(parts),
        height=NOMINAL[1],
        x_title=unit,
        y_title=f"{board.compared} AUC",
    )


def curve_chart(
    board: Board,
    drawn: Sequence[Series],
    values: Callable[[Curve], Sequence[float | None]],
    title: str,
    *,
    marked: bool,
) -> str:
    """A learning curve: one line a seed; its highest evaluation is marked where that is asked for."""
    points: dict[int, list[list[tuple[float, float]]]] = {}
    for item in drawn:
        lines = ([(x, v) for x, v in zip(c.x, values(c), strict=True) if v is not None] for c in item.entry.curves)
        points[item.number] = [line for line in lines if line]
    published = [
        (item, [(x, v) for x, v in zip(item.curve.x, values(item.curve), strict=True) if v is not None])
        for item in board.published
    ]
    every = [line for lines in points.values() for line in lines] + [line for _, line in published]
    if not any(points.values()):
        return ""
    # The first evaluations are far from the rest and would flatten all of it.
    late = [v for line in every for _, v in (line[1:] if len(line) > 3 else line)]
    y = Axis.over(late)
    xs = [x for line in every for x, _ in line]
    x = Axis(min(xs), max(max(xs), min(xs) + 1), _whole(svg.round_ticks(min(xs), max(max(xs), min(xs) + 1))))
    parts = [_frame(x, y, x_text=quantity)]
    for item, line in published:
        best_x, best = (max if marked else min)(line, key=lambda point: point[1])
        tip = f"{item.name}, published: {best:.4f} at epoch {quantity(best_x)}"
        shares = [(x.at(px), y.at(py)) for px, py in line]
        strokes = [svg.line(shares, css="published"), svg.line(shares, css="hit", tip=tip)]
        parts.append(tag("g", {"class": "clip"}, svg.stretched(*strokes)))
    for item in reversed(_by_weight(drawn)):
        paths, marks = [], []
        for curve, line in zip(item.entry.curves, points[item.number], strict=False):
            shares = [(x.at(px), y.at(py)) for px, py in line]
            best_x, best = (max if marked else min)(line, key=lambda point: point[1])
            tip = f"{item.entry.name}, seed {curve.seed}: {best:.4f} at {board.curve_axis} {quantity(best_x)}"
            if len(shares) > 1:
                paths += [svg.line(shares, css="line"), svg.line(shares, css="hit", tip=tip)]
            if 0 <= y.at(best) <= 1 and ((marked and item.coloured) or len(shares) == 1):
                marks.append(svg.dot(x.at(best_x), y.at(best), item.shape, tip=tip, css="dot small"))
        parts.append(item.group(tag("g", {"class": "clip"}, svg.stretched(*paths)) if paths else "", *marks))
    caption = "A line a seed; the mark is its best evaluation." if marked else "A line a seed."
    if published:
        caption += f" Dotted: published, {', '.join(item.name for item, _ in published)}."
    return _figure(
        title,
        caption,
        "".join(parts),
        height=260,
        x_title=board.curve_axis,
    )


def slice_chart(board: Board, drawn: Sequence[Series], slicing: Slicing) -> str:
    """AUC within each bin of a slicing; below each bin its share of the rows."""
    shown = [item for item in drawn if slicing.name in item.entry.slices]
    values = [s.mean for item in shown for s in item.entry.slices[slicing.name] if s is not None]
    used = [i for i in range(len(slicing.bins)) if any(item.entry.slices[slicing.name][i] for item in shown)]
    if len(used) < 2:
        return ""
    count = len(used)
    total = sum(rows for _, rows, _ in slicing.bins)
    left_out = [label for index, (label, _, _) in enumerate(slicing.bins) if index not in used]
    omitted = f"Left out for too few rows: {', '.join(left_out)}." if left_out else ""
    y = Axis.over(values)
    x = Axis(0, count, ())
    parts = [_frame(x, y, x_text=str)]
    for position, index in enumerate(used):
        text, rows, _ = slicing.bins[index]
        at = (position + 0.5) / count
        parts.append(svg.label(at, 0, text, css="tick mid", dy=18))
        parts.append(svg.label(at, 0, f"{rows / total:.0%}", css="tick mid faint", dy=33))
    for item in reversed(_by_weight(shown)):
        spreads = item.entry.slices[slicing.name]
        tips = [
            f"{item.entry.name}, {label}: {spread_text(spread)} on {rows:,} rows"
            for (label, rows, _), spread in zip(slicing.bins, spreads, strict=True)
        ]
        known = [((p + 0.5) / count, y.at(spreads[i].mean), i) for p, i in enumerate(used) if spreads[i] is not None]
        marks = [svg.dot(px, py, item.shape, css="dot small", tip=tips[i]) for px, py, i in known]
        shares = [(px, py) for px, py, _ in known]
        parts.append(item.group(svg.stretched(svg.line(shares, css="line")), *marks))
    return _figure(
        slicing.title,
        f"{board.compared.capitalize()} AUC within each bin; below it the share of rows. {omitted}".strip(),
        "".join(parts),
        height=240,
        bottom=44,
    )


def swatch(item: Series) -> str:
    """The mark of an entry for legends and tables."""
    path = tag("path", {"class": "dot", "d": svg.SHAPES[item.shape]})
    attributes = {"class": f"swatch {item.css}", "viewBox": "-7 -7 14 14", "aria-hidden": "true"}
    return tag("svg", attributes, path)


def _dots(
    title: str,
    caption: str,
    drawn: Sequence[Series],
    axis: Axis,
    *,
    mean: Callable[[Series], float],
    interval: Callable[[Series], Interval | None],
    tip: Callable[[Series], str],
    ticks: Callable[[Series], Iterable[float]] = lambda item: (),
    band: Callable[[Series], Interval | None] = lambda item: None,
    marked: Sequence[tuple[str, float]] = (),
    sign: bool = False,
    digits: int = 0,
) -> str:
    """A row an entry: name, mean, interval."""
    height = ROW * len(drawn)
    digits = max(digits, axis.digits)
    parts = [_x_axis(axis, lambda value: f"{value:+.{digits}f}" if sign and value else f"{value:.{digits}f}")]
    for name, value in marked:
        parts.append(svg.across(axis.at(value), 0, axis.at(value), 1, css="mark"))
        parts.append(svg.label(axis.at(value), 1, name, css="tick mid", dy=-6) if name else "")
    for row, item in enumerate(drawn):
        y = 1 - (row + 0.5) / len(drawn)
        marks = [svg.label(0, y, item.name, css="lab end", dx=-10, dy=4)]
        if (pale := band(item)) is not None:
            low, high = (min(max(axis.at(v), 0.0), 1.0) for v in (pale.low, pale.high))
            marks.append(svg.across(low, y, high, y, css="band"))
        if (bounds := interval(item)) is not None:
            marks.append(svg.across(axis.at(bounds.low), y, axis.at(bounds.high), y, css="whisker"))
        half = 5 / height
        marks += [svg.across(axis.at(v), y - half, axis.at(v), y + half, css="seed") for v in ticks(item)]
        marks.append(svg.dot(axis.at(mean(item)), y, item.shape, tip=tip(item)))
        parts.append(item.group(*marks))
    longest = max(len(item.name) for item in drawn)
    left = min(200, round(longest * LETTER) + 16)
    top = 20 if any(name for name, _ in marked) else 8
    return _figure(title, caption, "".join(parts), height=height, left=left, top=top)


def _figure(
    title: str,
    caption: str,
    content: str,
    *,
    height: float,
    left: int = 52,
    top: int = 8,
    bottom: int = 28,
    x_title: str = "",
    y_title: str = "",
) -> str:
    """A title, a line that says how to read it, and the plot with room around it for its axes."""
    bottom += 18 if x_title else 0
    top += 22 if y_title else 0
    titles = svg.label(1, 0, x_title, css="tick end", dy=bottom - 10) if x_title else ""
    titles += svg.label(0, 1, y_title, css="tick", dx=-left + 4, dy=-12) if y_title else ""
    plot = tag("svg", {"width": "100%", "height": height, "role": "img", "aria-label": title}, content, titles)
    style = f"margin:{top}px 16px {bottom}px {left}px"
    head = tag("figcaption", None, tag("h3", None, svg.text_of(title)), tag("p", None, svg.text_of(caption)))
    return tag("figure", None, head, tag("div", {"class": "plot", "style": style}, plot))


def _x_axis(axis: Axis, text: Callable[[float], str]) -> str:
    parts = []
    for index, value in enumerate(axis.ticks):
        parts.append(svg.across(axis.at(value), 0, axis.at(value), 1, css="grid"))
        css = "tick mid odd" if index % 2 else "tick mid"  # narrow screens show every other one
        parts.append(svg.label(axis.at(value), 0, text(value), css=css, dy=18))
    return "".join(parts)


def _frame(x: Axis, y: Axis, *, x_text: Callable[[float], str]) -> str:
    """Grid lines and tick labels of both axes."""
    parts = [_x_axis(x, x_text)]
    for value in y.ticks:
        parts.append(svg.across(0, y.at(value), 1, y.at(value), css="grid"))
        parts.append(svg.label(0, y.at(value), f"{value:.{max(2, y.digits)}f}", css="tick end", dx=-8, dy=4))
    parts.append(svg.across(0, 0, 1, 0, css="axis"))
    return "".join(parts)


def _label_sides(
    points: Sequence[tuple[tuple[float, float], str]],
) -> dict[tuple[str, float, float], tuple[str, int, int] | None]:
    """Where each label goes beside its mark; None where every side is taken. Earlier ones choose first."""
    width, height = NOMINAL
    taken = [(x * width - 6, y * height - 6, x * width + 6, y * height + 6) for (x, y), _ in points]
    found: dict[tuple[str, float, float], tuple[str, int, int] | None] = {}
    for (x, y), name in points:
        long, px, py = len(name) * LETTER, x * width, y * height
        sides = {
            ("", 10, 4): (px + 8, py - 7, px + 10 + long, py + 7),
            ("end", -10, 4): (px - 10 - long, py - 7, px - 8, py + 7),
            ("mid", 0, -11): (px - long / 2, py + 8, px + long / 2, py + 22),
            ("mid", 0, 19): (px - long / 2, py - 22, px + long / 2, py - 8),
        }
        found[name, x, y] = None
        for side, place in sides.items():
            inside = place[0] >= 4 and place[2] <= width + 10
            if inside and not any(_meet(place, other) for other in taken):
                found[name, x, y] = side
                taken.append(place)
                break
    return found


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _by_weight(drawn: Sequence[Series]) -> list[Series]:
    """Coloured first, in order; then the grey ones."""
    return sorted(drawn, key=lambda item: not item.coloured)


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return () if interval is None else (interval.low, interval.high)


def _has(intervals: Iterable[Interval | None]) -> bool:
    return any(interval is not None for interval in intervals)


def _plain(interval: Interval | None) -> str:
    return "-" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]"


def _whole(ticks: Sequence[float]) -> tuple[float, ...]:
    return tuple(tick for tick in ticks if tick == int(tick))


def quantity(value: float) -> str:
    """A short number: 1.5, 20, 300k, 1.8M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return count_text(value) if value >= 1000 else f"{value:.3g}"
