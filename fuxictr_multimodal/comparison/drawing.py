"""How figures of the page look: colours and symbols of the experiments, axes, layout; plotly draws them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from fuxictr_multimodal.comparison.board import Board, Entry
from fuxictr_multimodal.comparison.columns import count_text
from fuxictr_multimodal.text.escape import one_line

# Colours of medium lightness: the page is light or dark, the figures do not know which.
COLOURED = (
    ("#2f7fe0", "circle", "●"),
    ("#dd6b12", "square", "■"),
    ("#129b8b", "diamond", "◆"),
    ("#a25bdb", "triangle-up", "▲"),
    ("#dc447c", "triangle-down", "▼"),
)
BASELINE = ("#b58a14", "star", "★")
REST = ("#8d99a8", "circle-open", "○")
MARGIN = 0.07  # of an axis, on both sides of the values
NO_COLOUR = "rgba(0,0,0,0)"
DIGITS = {2: (0.01, None), 3: (0.001, 0.009), 4: (0.0001, 0.0009), 5: (None, 0.00009)}  # decimals by distance of ticks


@dataclass(frozen=True)
class Series:
    """How an entry is drawn: its number on the page, its short name, colour, plotly symbol, and the symbol in text."""

    number: int
    entry: Entry
    name: str
    colour: str
    symbol: str
    mark: str

    @property
    def stands_out(self) -> bool:
        """Whether it has its own colour."""
        return self.colour != REST[0]

    def trace(
        self, part: str, x: Sequence[float], y: Sequence[float], *, tips: Sequence[str] = (), **style: Any
    ) -> Any:
        """A plotly trace; the page finds all traces of an entry by their `uid`.

        Args:
            part: tells the traces of one entry in one figure apart.
            x, y: (points,) positions.
            tips: text shown when a point is hovered over; none for a trace that does not react.
            style: other properties of `go.Scatter`.
        """
        hover = (
            {"hovertext": [plotly_text(tip) for tip in tips], "hoverinfo": "text"} if tips else {"hoverinfo": "skip"}
        )
        return go.Scatter(uid=f"-{self.number}-{part}", x=list(x), y=list(y), **hover, **style)


@dataclass(frozen=True)
class Figure:
    """A figure with a title and a line that says how to read it; `plot` is what plotly.js draws."""

    title: str
    caption: str
    height: int
    plot: dict[str, Any]


def series(board: Board) -> list[Series]:
    """Colours for the best experiment of each model, the best five, and the baseline; grey for the rest."""
    names = short_names([entry.name for entry in board.entries])
    free = list(COLOURED)
    models: set[str] = set()
    found = []
    for number, (entry, name) in enumerate(zip(board.entries, names, strict=True)):
        look = REST
        if entry.name == board.baseline:
            look = BASELINE
        elif free and entry.model not in models:
            models.add(entry.model)
            look = free.pop(0)
        found.append(Series(number, entry, name, *look))
    return found


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the ending that all share, such as the dataset.

    >>> short_names(["DIN_shop", "QIN_deep_shop"]), short_names(["DIN_shop"])
    (['DIN', 'QIN_deep'], ['DIN_shop'])
    """
    endings = {name.rpartition("_")[2] for name in names}
    if len(names) > 1 and len(endings) == 1 and all("_" in name.strip("_") for name in names):
        return [name.rpartition("_")[0] for name in names]
    return list(names)


def coloured_last(found: list[Any]) -> list[Any]:
    """Tuples that begin with a `Series`: the best is drawn last, on top of all, and what is grey first."""
    backwards = found[::-1]
    return sorted(backwards, key=lambda one: one[0].stands_out)


def figure(
    title: str,
    caption: str,
    traces: list[Any],
    *,
    xaxis: dict[str, Any],
    yaxis: dict[str, Any],
    height: int = 360,
    shapes: Sequence[dict[str, Any]] = (),
) -> Figure:
    """A figure from its traces.

    Args:
        title, caption: what it shows, and how to read it.
        traces: what is drawn; later ones lie on top.
        xaxis, yaxis: properties of the axes beside those that all share.
        height: in pixels; the width is that of the page.
        shapes: lines behind the traces.
    """
    # Colours of text and grid are in the style of the page, which knows whether it is light or dark.
    drawn = go.Figure(
        traces,
        {
            "template": "none",
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
            "font": {"family": "system-ui, sans-serif", "size": 12},
            "paper_bgcolor": NO_COLOUR,
            "plot_bgcolor": NO_COLOUR,
            "hovermode": "closest",
            "hoverlabel": {"align": "left", "namelength": 0},
            "showlegend": False,
            "xaxis": {"zeroline": False, "automargin": True, **xaxis},
            "yaxis": {"zeroline": False, "automargin": True, "tickformatstops": decimals(), **yaxis},
            "shapes": shapes,
        },
    )
    return Figure(title, caption, height, drawn.to_plotly_json())


def marker(item: Series, size: float | Sequence[float]) -> dict[str, Any]:
    """The symbol of an entry, with one size in pixels or one for each point."""
    edge = {"width": 0 if item.stands_out else 1.3}
    return {"symbol": item.symbol, "size": size, "color": item.colour, "opacity": 1, "line": edge}


def line(item: Series) -> dict[str, Any]:
    """The line of an entry."""
    return {"width": 1.6 if item.stands_out else 0.9, "color": item.colour}


def axis_title(text: str) -> dict[str, Any]:
    """A title beside an axis, close to it."""
    return {"text": text, "standoff": 8, "font": {"size": 12}}


def decimals(sign: str = "") -> list[dict[str, Any]]:
    """Formats of ticks with as many decimals as their distance needs, also after zooming."""
    return [{"dtickrange": list(distances), "value": f"{sign}.{n}f"} for n, distances in DIGITS.items()]


def around(values: Sequence[float]) -> tuple[float, float]:
    """An axis that holds all values with a margin on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * MARGIN or max(abs(high), 1e-3) * 0.02
    return low - room, high + room


def quantity(value: float) -> str:
    """A short number.

    >>> [quantity(value) for value in (0.25, 1234, 300_000, 1_800_000)]
    ['0.25', '1,234', '300k', '1.8M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return count_text(value) if value >= 1000 else f"{value:.3g}"


def plotly_text(text: str) -> str:
    """Text without what plotly reads as markup; its lines stay lines."""
    return "<br>".join(html.escape(one_line(line), quote=False) for line in text.split("\n"))
