"""The figures of the page, drawn by plotly: AUC and differences with intervals, cost, learning curves, slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from fuxictr_multimodal.comparison.board import Board, Curve, Entry, Slicing
from fuxictr_multimodal.comparison.columns import interval_text, spread_text
from fuxictr_multimodal.comparison.drawing import (
    REST,
    Figure,
    Series,
    around,
    axis_title,
    coloured_last,
    decimals,
    figure,
    line,
    marker,
    plotly_text,
    quantity,
)
from fuxictr_multimodal.comparison.statistics import Interval, Spread

LINE_HEIGHT = 26  # pixels of an experiment in a dot chart


def auc_figure(board: Board, drawn: Sequence[Series]) -> Figure:
    """AUC of the compared split: mean, interval over samples, each seed, and the known references near them."""
    spreads = [_auc(board, item.entry) for item in drawn]
    intervals = [item.entry.auc_rows for item in drawn]
    values = [*(v for spread in spreads for v in spread.values), *_ends(intervals)]
    span = max(values) - min(values)
    known = [(r.name, v) for r in board.references if (v := r.metrics.get(board.compared, {}).get("AUC")) is not None]
    near = [(name, v) for name, v in known if min(values) - span / 2 <= v <= max(values) + span / 2]
    beyond = [f"{name} {v:.4f}" for name, v in known if (name, v) not in near]
    caption = ["Symbol: mean over seeds.", "Ticks: the seeds."]
    if any(intervals):
        caption.insert(1, f"Line: 95 % bootstrap interval over {board.resampled}.")
    if near:
        caption.append("Dashed: " + ", ".join(f"{name} {v:.4f}" for name, v in near) + ".")
    if beyond:
        caption.append("Outside the plot: " + ", ".join(beyond) + ".")
    traces = []
    for row, (item, spread, interval) in enumerate(zip(drawn, spreads, intervals, strict=True)):
        tip = f"{item.entry.name}: {spread_text(spread)}"
        tip += f"\n{board.resampled} [{interval.low:.4f}, {interval.high:.4f}]" if interval else ""
        seeds = {"symbol": "line-ns", "size": 10, "line": {"width": 1.3, "color": item.colour}}
        traces.append(item.trace("seeds", spread.values, [row] * len(spread.values), mode="markers", marker=seeds))
        traces.append(_mean(item, row, spread.mean, interval, tip))
    return _dots(
        f"{board.compared.capitalize()} AUC",
        " ".join(caption),
        drawn,
        traces,
        limits=around([*values, *(v for _, v in near)]),
        lines=[v for _, v in near],
    )


def difference_figure(board: Board, drawn: Sequence[Series]) -> Figure | None:
    """Difference to the baseline with both intervals; the baseline is the line at zero."""
    differences = [item.entry.difference for item in drawn]
    known = [difference for difference in differences if difference is not None]
    if not known:
        return None
    values = [0.0, *(d.mean for d in known), *_ends(d.rows for d in known)]
    low, high = min(values), max(values)
    # An interval from two or three seeds can be very wide: it stretches the plot to double its width at most.
    by_seeds = [low, high, *_ends(d.seeds for d in known)]
    low, high = max(min(by_seeds), low - (high - low) / 2), min(max(by_seeds), high + (high - low) / 2)
    traces = []
    for row, (item, found) in enumerate(zip(drawn, differences, strict=True)):
        if found is None:
            traces.append(_mean(item, row, 0.0, None, f"{item.entry.name}: the baseline"))
            continue
        if found.seeds is not None:
            ends = (found.seeds.low, found.seeds.high)
            pale = {"width": 11, "color": item.colour}
            traces.append(item.trace("band", ends, [row, row], mode="lines", line=pale, opacity=0.2))
        tip = f"{item.entry.name}: {found.mean:+.4f}"
        for over, interval in ((board.resampled, found.rows), ("seeds", found.seeds)):
            tip += f"\n{over} {interval_text(interval)}" if interval else ""
        traces.append(_mean(item, row, found.mean, found.rows, tip))
    return _dots(
        f"Difference to {board.baseline}",
        f"{board.compared.capitalize()} AUC. Line: paired 95 % interval over {board.resampled}. "
        "Pale bar: over the seeds that both have.",
        drawn,
        traces,
        limits=around([low, high]),
        lines=[0.0],
        sign="+",
    )


def cost_figure(
    board: Board, drawn: Sequence[Series], cost: Callable[[Entry], float], title: str, unit: str
) -> Figure | None:
    """AUC against a cost, on a logarithmic axis, with the line of those that nothing cheaper beats.

    Args:
        board, drawn: the comparison and its entries.
        cost: of an entry; entries without a positive one are left out, and fewer than two make no figure.
        title: of the figure.
        unit: what the cost counts.
    """
    points = [(item, cost(item.entry), _auc(board, item.entry).mean) for item in drawn if cost(item.entry) > 0]
    if len(points) < 2:
        return None
    best = -float("inf")
    frontier = []
    for _, price, auc in sorted(points, key=lambda point: (point[1], -point[2])):
        if auc > best:
            best = auc
            frontier.append((price, auc))
    frontier.append((max(price for _, price, _ in points) * 1.2, best))
    x, y = zip(*frontier, strict=True)
    tick = "D2" if x[-1] > 6 * x[0] else None  # 1, 2, 5, 10, ...; few of these lie within a smaller range
    stairs = {"shape": "hv", "dash": "dot", "width": 1.3, "color": REST[0]}
    traces = [go.Scatter(x=x, y=y, mode="lines", line=stairs, hoverinfo="skip")]
    for item, price, auc in coloured_last(points):
        tip = f"{item.entry.name}: {quantity(price)} {unit}, AUC {auc:.4f}"
        traces.append(item.trace("cost", [price], [auc], tips=[tip], mode="markers", marker=marker(item, 10)))
    return figure(
        title,
        f"Up and to the left is better. Dotted: the best that the {unit} buy.",
        traces,
        xaxis={"type": "log", "title": axis_title(unit), "tickformat": "~s" if x[0] >= 1000 else "~g", "dtick": tick},
        yaxis={"title": axis_title(f"{board.compared} AUC"), "range": around([auc for _, _, auc in points])},
    )


def curve_figure(
    board: Board,
    drawn: Sequence[Series],
    values: Callable[[Curve], Sequence[float | None]],
    title: str,
    *,
    higher_is_better: bool,
) -> Figure | None:
    """A learning curve, one line per seed, beside the published ones; the best evaluation of each line is marked.

    Args:
        board, drawn: the comparison and its entries.
        values: (evaluations,) of a curve, None where not measured.
        title: of the figure.
        higher_is_better: which evaluation is the best one.
    """

    def points(curve: Curve) -> list[tuple[float, float]]:
        return [(x, value) for x, value in zip(curve.x, values(curve), strict=True) if value is not None]

    own = [(item, c.seed, found) for item in drawn for c in item.entry.curves if (found := points(c))]
    if not own:
        return None
    published = [(item.name, found) for item in board.published if (found := points(item.curve))]
    every = [*(found for _, _, found in own), *(found for _, found in published)]
    # The first evaluations are far from the rest and would flatten all of it.
    late = [value for found in every for _, value in (found[1:] if len(found) > 3 else found)]
    last = max(x for found in every for x, _ in found)
    traces = []
    for item, seed, found in coloured_last(own):
        x, y = zip(*found, strict=True)
        best = (max if higher_is_better else min)(y)
        tips = [
            f"{item.entry.name}, seed {seed}\n{board.curve_axis} {quantity(at)}: {value:.4f}"
            + (" (best)" if value == best else "")
            for at, value in found
        ]
        sizes = [7 if (value == best and item.stands_out) or len(found) == 1 else 0 for value in y]
        style = {"mode": "lines+markers", "line": line(item), "marker": marker(item, sizes)}
        traces.append(item.trace(str(seed), x, y, tips=tips, **style))
    for name, found in published:
        x, y = zip(*found, strict=True)
        tips = [plotly_text(f"{name}, published\nepoch {quantity(at)}: {value:.4f}") for at, value in found]
        dotted = {"dash": "dot", "width": 2, "color": REST[0]}
        traces.append(go.Scatter(x=x, y=y, mode="lines", line=dotted, hovertext=tips, hoverinfo="text"))
    caption = "A line a seed; the symbol is its best evaluation."
    if published:
        caption += f" Dotted: published, {', '.join(name for name, _ in published)}."
    return figure(
        title,
        caption,
        traces,
        height=320,
        xaxis={"title": axis_title(board.curve_axis), "dtick": 1 if last <= 12 else None},
        yaxis={"range": around(late)},
    )


def slice_figure(board: Board, drawn: Sequence[Series], slicing: Slicing) -> Figure | None:
    """AUC within each bin of a slicing; below each bin its fraction of the samples."""
    shown = [(item, item.entry.slices[slicing.name]) for item in drawn if slicing.name in item.entry.slices]
    used = [index for index in range(len(slicing.bins)) if any(spreads[index] for _, spreads in shown)]
    if len(used) < 2:
        return None
    total = sum(rows for _, rows, _ in slicing.bins)
    left_out = [label for index, (label, _, _) in enumerate(slicing.bins) if index not in used]
    caption = f"{board.compared.capitalize()} AUC within each bin; below it the fraction of samples."
    caption += f" Left out for too few samples: {', '.join(left_out)}." if left_out else ""
    traces, values = [], []
    for item, spreads in coloured_last(shown):
        measured = [(at, slicing.bins[i], s) for at, i in enumerate(used) if (s := spreads[i]) is not None]
        means = [spread.mean for _, _, spread in measured]
        values += means
        tips = [
            f"{item.entry.name}\n{label}: {spread_text(spread)} on {rows:,} samples"
            for _, (label, rows, _), spread in measured
        ]
        style = {"mode": "lines+markers", "line": line(item), "marker": marker(item, 7)}
        traces.append(item.trace("", [at for at, _, _ in measured], means, tips=tips, **style))
    ticks = [f"{plotly_text(label)}<br>{rows / total:.0%}" for label, rows, _ in (slicing.bins[i] for i in used)]
    return figure(
        slicing.title,
        caption,
        traces,
        height=300,
        xaxis={"tickvals": list(range(len(used))), "ticktext": ticks, "range": [-0.4, len(used) - 0.6]},
        yaxis={"range": around(values)},
    )


def _dots(
    title: str,
    caption: str,
    drawn: Sequence[Series],
    traces: list[Any],
    *,
    limits: tuple[float, float],
    lines: Sequence[float],
    sign: str = "",
) -> Figure:
    """A line of the plot for each entry, the first on top, with dashed lines across at some values."""
    names = [f'<span style="color:{item.colour}">{plotly_text(item.name)}</span>' for item in drawn]
    across = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    dashed = {"dash": "dash", "width": 1.2, "color": REST[0]}
    return figure(
        title,
        caption,
        traces,
        height=LINE_HEIGHT * len(drawn) + 60,
        xaxis={"range": limits, "nticks": 7, "tickformatstops": decimals(sign)},
        yaxis={
            "tickvals": list(range(len(drawn))),
            "ticktext": names,
            "range": [len(drawn) - 0.5, -0.5],
            "showgrid": False,
        },
        shapes=[{**across, "x0": value, "x1": value, "line": dashed} for value in lines],
    )


def _mean(item: Series, row: int, mean: float, interval: Interval | None, tip: str) -> Any:
    """The mean of an entry with an interval as its error bar."""
    bar = None
    if interval is not None:
        bar = {"array": [interval.high - mean], "arrayminus": [mean - interval.low], "width": 0, "thickness": 2}
    return item.trace("mean", [mean], [row], tips=[tip], mode="markers", marker=marker(item, 10), error_x=bar)


def _auc(board: Board, entry: Entry) -> Spread:
    spread = entry.value(board.compared, "AUC")
    assert spread is not None  # what entries are ranked by
    return spread


def _ends(intervals: Iterable[Interval | None]) -> list[float]:
    return [end for interval in intervals if interval is not None for end in (interval.low, interval.high)]
